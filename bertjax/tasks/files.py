"""The one file of each split among those that could be it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bertjax.errors import UserError


def one_each(
    folder: Path, candidates: Mapping[str, Sequence[Path]], given: Collection[str] = ()
) -> dict[str, Path]:
    """{split: its file}, without the splits that have none or are given.

    Raises:
      UserError: several files could be a split.
    """
    wanted = {split: paths for split, paths in candidates.items() if split not in given}
    for split, paths in wanted.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise UserError(f"{folder}: {names} are there; tell which: --{split}={paths[0]}")
    return {split: paths[0] for split, paths in wanted.items() if paths}


def one_of_names(
    folder: Path, names: Mapping[str, Sequence[str]], given: Collection[str] = ()
) -> dict[str, Path]:
    """As one_each, of {split: the names that its file may have}."""
    candidates = {
        split: [path for name in of_split if (path := folder / name).is_file()]
        for split, of_split in names.items()
    }
    return one_each(folder, candidates, given)
