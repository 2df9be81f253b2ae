"""What a fine-tuning trains on and by which numbers: the data of a task, the points of a sweep."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from bertjax import shares
from bertjax.errors import UserError
from bertjax.runs.state import check_seed
from bertjax.tasks.base import Context, Encoded, Task


@dataclasses.dataclass(frozen=True)
class Data:
    """The splits of a task: examples as they were read and as rows.

    Attributes:
      source: where they came from, as it is saved with the run.
      columns: what --columns was; predicting reads files with the same ones.
    """

    examples: Mapping[str, Sequence[Any]]
    encoded: Mapping[str, Encoded]
    source: str
    columns: Sequence[str] = ()

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Of the examples of each split; where they stand is left out."""
        return {split: _digest(found) for split, found in self.examples.items()}


def _digest(examples: Sequence[Any]) -> str:
    """sha256, in hex, of the texts and labels; the same in every process."""
    found = hashlib.sha256()
    for example in examples:
        found.update(ascii(example._replace(where="")).encode())
    return found.hexdigest()


def encode(
    task: Task,
    examples: Mapping[str, Sequence[Any]],
    context: Context,
    source: str,
    columns: Sequence[str] = (),
) -> Data:
    """All splits as rows; every label is checked before anything is trained."""
    encoded = {}
    for split, found in examples.items():
        encoded[split] = task.family.encode(found, context)
        tell(split, found, encoded[split])
    return Data(examples, encoded, source, columns)


def trained_on(
    data: Data, task: Task, context: Context, examples: Sequence[Any], path: Path
) -> Data:
    """The data with the examples of another file in place of those of train."""
    encoded = task.family.encode(examples, context)
    tell(f"first on {path}", examples, encoded)
    return dataclasses.replace(
        data,
        examples={**data.examples, "train": examples},
        encoded={**data.encoded, "train": encoded},
        source=f"{path} and {data.source}",
    )


def tell(name: str, examples: Sequence[Any], encoded: Encoded) -> None:
    """Says how many examples there are, and what was done to some: texts are cut, windows made."""
    notes = [f"{count:,} {what}" for what, count in encoded.counts.items()]
    print("; ".join([f"{name}: {len(examples):,} examples", *notes]))


@dataclasses.dataclass(frozen=True)
class Point:
    """What differs between the runs of a sweep."""

    batch_size: int
    learning_rate: float
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        return (
            f"batch{self.batch_size}-rate{self.learning_rate:g}-epochs{self.epochs}-seed{self.seed}"
        )


@dataclasses.dataclass(frozen=True)
class Method:
    """What all runs share beside model and data; see optimizer.make_optimizer."""

    warmup_share: float = 0.1
    bias_correction: bool = False
    layer_decay: float = 1.0


def check(point: Point, shared: Method, mesh: Mesh) -> None:
    """Raises UserError: settings that cannot be trained with."""
    shares.check_batch_size(point.batch_size, mesh)
    if point.epochs < 1:
        raise UserError(f"--epochs={point.epochs}: give at least 1")
    check_seed(point.seed, "--seed")
    # None of these comparisons is true of nan.
    if not 0 <= point.learning_rate < math.inf:
        raise UserError(f"--learning_rate={point.learning_rate}: give a number, 0 or more")
    if not 0 <= shared.warmup_share <= 1:
        raise UserError(f"--warmup_share={shared.warmup_share}: give a share from 0 to 1")
    if not 0 < shared.layer_decay <= 1:
        raise UserError(f"--layer_decay={shared.layer_decay}: give a factor above 0, at most 1")
