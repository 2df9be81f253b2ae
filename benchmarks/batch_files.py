"""Batches of unequal lengths in one .npz file, for sides that run in processes of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]


def store(batches: Sequence[Mapping[str, np.ndarray]], path: Path) -> None:
    arrays: dict[str, Any] = {
        f"{index}/{name}": array
        for index, batch in enumerate(batches)
        for name, array in batch.items()
    }
    np.savez(path, **arrays)


def read(path: Path) -> list[Batch]:
    batches: dict[str, Batch] = {}
    with np.load(path, allow_pickle=False) as stored:
        for key in stored.files:
            index, name = key.split("/")
            batches.setdefault(index, {})[name] = stored[key]
    return list(batches.values())
