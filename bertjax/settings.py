"""Reads a config file such as configs/bert.py:tiny and applies `name=value` overrides to it."""

from __future__ import annotations

import ast
import difflib
import inspect
import runpy
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from bertjax.errors import UserError

T = TypeVar("T")


# What a config of pretraining holds, of whatever encoder.
TRAINING = ("model", "data", "train")


def load(spec: str, overrides: list[str], groups: Collection[str] = ()) -> ConfigDict:
    """Loads "path/to/file.py:argument" and overrides single values.

    Args:
      spec: a Python file with get_config(argument); the argument may be left out.
      overrides: "train.steps=1000" and the like; names and types must be those of the config.
      groups: of settings, which a config for this command has.

    Raises:
      UserError: no such file here, no get_config in it, a config for another command, an unknown
        name or a value of another type.
    """
    if "://" in spec:
        raise UserError(f"--config={spec}: a config is read from this machine alone; copy it here")
    name, _, argument = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--config={spec}: {path} not found; try --config=configs/bert.py:tiny")
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # a config may import those beside it
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
    finally:
        sys.path.remove(folder)
    if get_config is None:
        raise UserError(f"--config={spec}: {path} has no function get_config")
    given = [argument] if argument else []
    try:
        inspect.signature(get_config).bind(*given)
    except TypeError as error:
        raise UserError(f"--config={spec}: {error}; a size stands behind a colon") from None
    config = get_config(*given)
    missing = [group for group in groups if group not in config]
    if missing:
        raise UserError(f"--config={spec}: is for another command (it has no {missing[0]})")
    for override in overrides:
        _apply(config, override)
    return config


def choose(table: Mapping[str, T], name: str, setting: str) -> T:
    """The entry of a table of interchangeable parts.

    Raises:
      UserError: there is none of that name; the message lists the legal ones.
    """
    if name not in table:
        raise UserError(f"{setting}={name}: choose one of {', '.join(table)}")
    return table[name]


def _apply(config: ConfigDict, override: str) -> None:
    name, equals, value = override.partition("=")
    known = _names(config)
    if not equals or name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise UserError(f"'{override}': no such setting; write name=value, like {', '.join(near)}")
    kind = type(known[name])
    try:
        config.update_from_flattened_dict({name: _parse(value, kind)})
    except (TypeError, ValueError, SyntaxError) as error:
        raise UserError(
            f"'{override}': {name} is of type {kind.__name__}, give such a value"
        ) from error


def _names(config: ConfigDict) -> dict[str, Any]:
    return {
        f"{group}.{name}" if isinstance(values, ConfigDict) else group: value
        for group, values in config.items()
        for name, value in (values.items() if isinstance(values, ConfigDict) else [("", values)])
    }


def _parse(value: str, kind: type) -> Any:
    """A value as its type is written in Python; text needs no quotes, a float no point."""
    if kind is str:
        return value
    if kind is float:
        return float(value)
    parsed = ast.literal_eval(value)
    if type(parsed) is not kind:
        raise TypeError
    return parsed
