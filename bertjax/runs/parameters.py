"""Trees of parameters by the names of their leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from bertjax.errors import UserError


def flat(params: Any) -> dict[str, Any]:
    """{"encoder/layer_0/attention/query/kernel": array, ...}."""
    return traverse_util.flatten_dict(params, sep="/")


def digest(params: Any) -> str:
    """sha256, in hex, of the names and numbers of a tree of arrays; the same in every process."""
    found = hashlib.sha256()
    for name, leaf in sorted(flat(params).items()):
        array = np.asarray(leaf)
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def check_shapes(source: str | Path, given: Any, wanted: Any) -> None:
    """Compares two parameter trees by names and shapes.

    Raises:
      UserError: names the first parameter that is missing, unknown or of another shape.
    """
    have, want = flat(given), flat(wanted)
    for name in sorted(have.keys() | want.keys()):
        if name not in want or name not in have:
            where = "only there" if name in have else "missing there"
            raise UserError(
                f"{source}: parameter {name} is {where}; use the model it was made with"
            )
        if tuple(have[name].shape) != tuple(want[name].shape):
            raise UserError(
                f"{source}: parameter {name} has shape {tuple(have[name].shape)}, the model "
                f"wants {tuple(want[name].shape)}; use the size and vocabulary it was made with"
            )
