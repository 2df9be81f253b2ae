"""The one file of each split among those that could be it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bertjax.errors import UserError


def one_each(folder: Path, candidates: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    """{split: its file}, without the splits that have none.

    Raises:
      UserError: several files could be a split.
    """
    for split, paths in candidates.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise UserError(f"{folder}: {names} are there; tell which: --{split}={paths[0]}")
    return {split: paths[0] for split, paths in candidates.items() if paths}
