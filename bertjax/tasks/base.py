"""What a task is: where its examples come from, how they are encoded, predicted and scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from bertjax.data.rows import Row
from bertjax.errors import UserError
from bertjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings a task starts from; the command line overrides them (paper, appendix A.3)."""

    batch_size: int = 32
    learning_rate: float = 3e-5
    epochs: int = 3
    max_seq_length: int = 128


# Of a head on a frozen encoder, which learns next to nothing at the rate of a recipe: the usual
# one, then those that a sweep tries beside it.
HEAD_RATES = (1e-3, 3e-3, 3e-4)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a family can be told beside the recipe; all of it is saved with the run.

    Attributes:
      max_seq_length: tokens of a row, special ones included.
      document_context: tagging: windows are filled up with the neighbouring sentences of the same
        document; a file that tells of none is one.
      doc_stride: span: tokens from one window's beginning to the next one's.
      max_query_length: span: tokens of the question that are kept.
      max_answer_length: span: tokens of the longest answer.
      n_best: span: answers written for each question.
      null_threshold: span: no answer if its score is that much above the best answer's.
    """

    max_seq_length: int = 128
    document_context: bool = False
    doc_stride: int = 128
    max_query_length: int = 64
    max_answer_length: int = 30
    n_best: int = 20
    null_threshold: float = 0.0


class Context(NamedTuple):
    """What encoding and predicting need beside the examples; labels in the order of their ids."""

    tokenizer: Tokenizer
    labels: Sequence[str]
    options: Options


class Encoded(NamedTuple):
    """A split as rows.

    Attributes:
      rows: of all examples, in order; an example may have several.
      counts: what was done to examples, told to the user: {"cut at 128 tokens": 12}.
      choices: rows that are one example of a batch; 1 but for multiple choice.
    """

    rows: list[Row]
    counts: dict[str, int]
    choices: int = 1


class Example(Protocol):
    """What all families' examples have: `gold` is None where it is to be predicted."""

    @property
    def gold(self) -> Any: ...

    @property
    def where(self) -> str:
        """File and line, for messages: "dev.tsv:17"."""


def check_finite(example: Example, scores: np.ndarray, of: str = "") -> None:
    """Raises UserError: a score is not finite; the example is named, and what is scored."""
    if not np.isfinite(scores).all():
        raise UserError(
            f"{example.where}: the model's scores{of} are not finite; train it again with a lower "
            "--learning_rate"
        )


class Family(Protocol):
    """A kind of task: examples to rows, and the model's outputs to predictions.

    Attributes:
      head: the key of heads.TASK_HEADS.
    """

    head: str

    def find_labels(self, examples: Sequence[Any]) -> list[str]:
        """The labels of training examples in a fixed order; empty if there are none to learn."""

    def encode(self, examples: Sequence[Any], context: Context) -> Encoded:
        """Raises UserError: a label that is not in context.labels, or an example that has no room;
        file and line are named."""

    def predict(
        self,
        examples: Sequence[Any],
        rows: Sequence[Row],
        outputs: Sequence[np.ndarray],
        context: Context,
    ) -> list[Any]:
        """One prediction for each example, in order.

        Args:
          outputs: float32 scores of every row, without padding: [K] for a whole row, [T, K] for
            every token; for multiple choice one [C] for each example.
        """

    def score(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """{metric: value}; all examples have gold."""

    def files(
        self, split: str, examples: Sequence[Any], predictions: Sequence[Any], context: Context
    ) -> Mapping[str, str]:
        """{file name: content} of what is written for a split, probabilities included."""

    def collapsed(self, predictions: Sequence[Any], context: Context) -> bool:
        """Whether all predictions are the same: nothing was learnt but the commonest answer."""


class Reader(Protocol):
    """Where a task's examples come from.

    Attributes:
      tfds: name in tensorflow-datasets, "glue/cola"; None if it is not there.
      source: where the official files are had and what their folder holds, for messages.
    """

    @property
    def tfds(self) -> str | None: ...

    @property
    def source(self) -> str: ...

    def find(self, folder: Path, given: Collection[str] = ()) -> dict[str, Path]:
        """{split: file} of what a folder holds but for the splits that are given; "train" and
        "dev" first."""

    def read(self, path: Path, split: str) -> list[Any]:
        """Examples of a file; raises UserError that names file and line."""


@runtime_checkable
class TfdsReader(Reader, Protocol):
    """One that also reads what tensorflow-datasets has.

    Attributes:
      tfds_splits: our split -> the one of tensorflow-datasets, "test", or that of another data set
        there, "glue/ax:test", which is left out, aloud, where it cannot be had.
    """

    @property
    def tfds_splits(self) -> Mapping[str, str]: ...

    def from_tfds(self, record: Mapping[str, Any], names: Mapping[str, Any], where: str) -> Any:
        """An example of a record of tensorflow-datasets: NumPy values and decoded strings.

        Args:
          names: feature -> names of its classes, where it has any.
        """

    def usable(self, examples: list[Any], split: str, source: str) -> list[Any]:
        """Those of a split that serve its purpose; says which are left out."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      name: what --task takes.
      reader, family: see there.
      primary: the metric by which the best checkpoint is chosen; higher is better.
      perfect: the highest value of it; SQuAD's official scores are in percent.
      labels: in the order of their ids; None: those of the training examples.
      recipe: defaults for training.
      options: defaults of the family's options that differ from those of Options.
      submission: split -> file name in the zip that the GLUE site takes; empty: not of GLUE.
      paper: what the paper reports for the task, {"BERT-base": "93.5 (test)"}; empty if nothing.
    """

    name: str
    reader: Reader
    family: Family
    primary: str
    labels: tuple[str, ...] | None = None
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    submission: Mapping[str, str] = dataclasses.field(default_factory=dict)
    paper: Mapping[str, str] = dataclasses.field(default_factory=dict)
    perfect: float = 1.0

    def share(self, scores: Mapping[str, float]) -> float:
        """The primary metric with 1 as its highest value, so that tasks can be set side by side."""
        return scores[self.primary] / self.perfect
