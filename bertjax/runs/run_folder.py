"""Run folders: the resolved config that belongs to all else that lies in them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flax import traverse_util

from bertjax import distributed
from bertjax.errors import UserError
from bertjax.files.json_file import read_json, write_json

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
# What a finished fine-tuning and a finished sweep of them leave.
SCORES = "metrics.json"
SWEEP = "sweep.json"
# An entry of a config: digests by what they are of, which lies elsewhere and may change.
CONTENTS = "sha256"


def save_config(run: Path, config: dict[str, Any], may_change: Collection[str] = ()) -> None:
    """Writes the resolved config of a run.

    Args:
      may_change: entries that may be others when a run goes on, as "settings.log_every".

    Raises:
      UserError: the folder already belongs to a run with another config; the difference is named.
    """
    run.mkdir(parents=True, exist_ok=True)
    if (run / CONFIG).exists():
        _refuse_difference(run, load_config(run), config, may_change)
    if distributed.is_first():
        write_json(run / CONFIG, config)


def load_config(run: Path) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
      UserError: not a run folder.
    """
    path = run / CONFIG
    if not path.is_file():
        raise UserError(f"{run}: not a run (no {CONFIG}); give the --workdir of a training run")
    config = read_json(path)
    if "kind" not in config:  # Others' models have a file of that name, too.
        raise UserError(f"{run}: not a run, a model of another kind; give the --workdir of a run")
    return config


def is_run(folder: Path) -> bool:
    """Whether a folder is one of our runs; other codes, too, write a config of that name."""
    return _kind(folder) is not None


def _kind(folder: Path) -> str | None:
    path = folder / CONFIG
    return read_json(path).get("kind") if path.is_file() else None


def best_of_sweep(run: Path) -> Path:
    """The folder itself, or of a sweep that of its best run, which is told."""
    if not (run / SWEEP).is_file():
        return run
    best = run / read_json(run / SWEEP)["best"]
    print(f"{run}: a sweep; its best run is taken, {best}")
    return best


def newest_run(folder: Path, kind: str) -> Path | None:
    """The run of that kind with the newest checkpoint among the folders in `folder`, if any."""
    steps = [
        step
        for step in folder.glob(f"**/{CHECKPOINTS}/*")
        if step.name.isdecimal() and _kind(step.parents[1]) == kind
    ]
    newest = max(steps, key=lambda step: step.stat().st_mtime, default=None)
    return newest.parents[1] if newest else None


def _refuse_difference(
    run: Path, saved: dict[str, Any], wanted: dict[str, Any], may_change: Collection[str]
) -> None:
    if CONTENTS not in saved:  # Runs of old tell of none.
        wanted = {name: value for name, value in wanted.items() if name != CONTENTS}
    old = traverse_util.flatten_dict(saved, sep=".")
    new = traverse_util.flatten_dict(json.loads(json.dumps(wanted)), sep=".")
    changed = [
        _told(name, old, new)
        for name in sorted((old.keys() | new.keys()) - {*may_change})
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise UserError(
            f"{run}: holds a run with other settings ({'; '.join(changed[:3])}); "
            "use another --workdir or delete the folder"
        )


def _told(name: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    """What has become of an entry."""
    kind, _, content = name.partition(".")
    if kind == CONTENTS:
        return f"the {content} have changed since"
    return f"{name} was {old.get(name, 'unset')}, is {new.get(name, 'unset')}"
