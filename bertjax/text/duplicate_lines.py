"""Finds the lines that stand more than once in a corpus of any size, in bounded memory.

Every line has a hash; hashes are sorted on disk, in runs, and equal ones then lie side by side. Of
equal lines the one whose part has the smallest identity stays: which that is hangs on the texts
alone, not on their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from bertjax.text import corpus
from bertjax.text.corpus import Part
from bertjax.workers import Workers

# Lines that are sorted in memory at a time, of 20 bytes each.
_RUN_LINES = 4_000_000
_DONE = "done"


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


def _part_number(part: Part) -> int:
    return _number(corpus.identity(part.raw))


def _hashes(parts: list[Part]) -> np.ndarray:
    """[L, 3] uint64: the hash of each line, its part, its place among the part's lines."""
    rows = [
        (_number(hashlib.blake2b(line.encode(), digest_size=8).digest()), number, place)
        for part in parts
        for number in (_part_number(part),)
        for place, line in enumerate(corpus.lines(part))
    ]
    return np.array(rows, np.uint64).reshape(-1, 3)


def find(jobs: Iterable[list[Part]], folder: Path, workers: Workers) -> Path:
    """Writes which lines are to be dropped below `folder`, for `dropped` to read.

    Args:
      jobs: groups of parts; not read again if a killed run was through with them.
    """
    folder.mkdir(exist_ok=True)
    if not (folder / _DONE).exists():
        for old in folder.iterdir():
            old.unlink()
        lines = _write_runs(jobs, folder, workers)
        ranges = max(1, -(-lines // _RUN_LINES))
        for number in range(ranges):
            found = _repeated(folder, number, ranges)
            np.save(folder / f"dropped-{number:05d}.npy", found[np.argsort(found[:, 0])])
        for run in folder.glob("run-*.npy"):
            run.unlink()
        (folder / _DONE).touch()
    return folder


def _write_runs(jobs: Iterable[list[Part]], folder: Path, workers: Workers) -> int:
    """Hashes sorted in runs; returns how many lines there are."""
    held: list[np.ndarray] = []
    total = runs = 0

    def write() -> None:
        nonlocal runs, held
        rows = np.concatenate(held)
        np.save(folder / f"run-{runs:05d}.npy", rows[np.argsort(rows[:, 0], kind="stable")])
        runs, held = runs + 1, []

    for rows in workers.map(_hashes, jobs):
        held.append(rows)
        total += len(rows)
        if sum(map(len, held)) >= _RUN_LINES:
            write()
    if held:
        write()
    return total


def _repeated(folder: Path, number: int, ranges: int) -> np.ndarray:
    """[N, 2] part and place of the lines to drop whose hashes fall into one of the ranges."""
    bounds = [(number + i) * 2**64 // ranges for i in range(2)]
    some = []
    for path in sorted(folder.glob("run-*.npy")):
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        begin = int(np.searchsorted(rows[:, 0], np.uint64(bounds[0])))
        end = len(rows)
        if number + 1 < ranges:
            end = int(np.searchsorted(rows[:, 0], np.uint64(bounds[1])))
        some.append(np.array(rows[begin:end]))
    # A part that stands there twice has its lines twice, and keeps them: it is dropped as a whole.
    rows = np.unique(np.concatenate(some), axis=0)
    again = np.zeros(len(rows), bool)
    again[1:] = rows[1:, 0] == rows[:-1, 0]
    return rows[again, 1:]


@cache
def _open(folder: Path) -> list[np.ndarray]:
    return [
        np.load(path, mmap_mode="r", allow_pickle=False)
        for path in sorted(folder.glob("dropped-*.npy"))
    ]


def dropped(part: Part, folder: Path) -> set[int]:
    """The places of a part's lines that are to be dropped."""
    number = np.uint64(_part_number(part))
    found: set[int] = set()
    for rows in _open(folder):
        begin, end = (np.searchsorted(rows[:, 0], number, side) for side in ("left", "right"))
        found.update(rows[begin:end, 1].tolist())
    return found
