"""What a task is: where its examples come from, how it is scored, how it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from bertjax.data.examples import Example


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings a task starts from; the command line overrides them (paper, appendix A.3)."""

    batch_size: int = 32
    learning_rate: float = 3e-5
    epochs: int = 3
    max_seq_length: int = 128


@dataclasses.dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
      name: what --task takes.
      read: (folder, "train" | "dev" | "test") -> examples; raises UserError naming file and line.
      score: (gold, predicted) labels -> {metric: value}.
      primary: the metric by which the best checkpoint is chosen.
      labels: in the order of their ids; None: those of the training file, sorted.
      recipe: defaults for training.
    """

    name: str
    read: Callable[[Path, str], list[Example]]
    score: Callable[[Sequence[str], Sequence[str]], dict[str, float]]
    primary: str
    labels: tuple[str, ...] | None = None
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
