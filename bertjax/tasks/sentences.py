"""Classification and regression of texts and pairs of texts (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from bertjax.data.rows import Row
from bertjax.errors import UserError
from bertjax.files.tables import as_tsv
from bertjax.scores import metrics
from bertjax.tasks import base
from bertjax.tasks.base import Context, Encoded
from bertjax.text.tokenizer import Tokenizer

_MIN_LENGTH = 8
# Regression: a model whose answers differ by no more has learnt nothing.
_SAME = 1e-6


class Example(NamedTuple):
    """One text or pair of texts.

    Attributes:
      gold: a label, for regression a number; None if it is to be predicted.
      where: file and line, for messages: "dev.tsv:17".
      id: the file's own name of the example, "" if it has none.
    """

    text_a: str
    text_b: str | None
    gold: Any
    where: str
    id: str = ""


class Prediction(NamedTuple):
    """The most probable label, and the probabilities [K] of all in the order of their ids."""

    label: str
    probabilities: np.ndarray


# --- Both families --------------------------------------------------------------------------


def cut_pair(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """What is left if the longer one is shortened from its end, token by token, until both fit.

    Of two that are as long as each other the second one is; as in the 2018 run_classifier.py.
    """
    keep = min(len(second), max(room - len(first), room // 2))
    return first[: room - keep], second[:keep]


def check_length(limit: int) -> None:
    """Raises UserError: rows of that many tokens have no room for a pair of texts."""
    if limit < _MIN_LENGTH:
        raise UserError(f"max_seq_length {limit} is too short; use at least {_MIN_LENGTH}")


def _encode_one(
    example: Example, tokenizer: Tokenizer, target: Any, limit: int
) -> tuple[Row, bool]:
    """[CLS] a [SEP] or [CLS] a [SEP] b [SEP], and whether something was cut."""
    a = tokenizer.encode(example.text_a)
    b = None if example.text_b is None else tokenizer.encode(example.text_b)
    room = limit - (2 if b is None else 3)
    was_cut = len(a) + len(b or ()) > room
    if b is None:
        a = a[:room]
    elif was_cut:
        a, b = cut_pair(a, b, room)
    first = [tokenizer.cls_id, *a, tokenizer.sep_id]
    second = [] if b is None else [*b, tokenizer.sep_id]
    return Row(first + second, len(first), target), was_cut


def _encode(
    examples: Sequence[Example], context: Context, target: Callable[[Example], Any]
) -> Encoded:
    limit = context.options.max_seq_length
    check_length(limit)
    rows, cut = [], 0
    for example in examples:
        goal = None if example.gold is None else target(example)
        row, was_cut = _encode_one(example, context.tokenizer, goal, limit)
        rows.append(row)
        cut += was_cut
    empty = sum(not example.text_a or example.text_b == "" for example in examples)
    counts = {f"cut at {limit} tokens": cut, "empty text": empty}
    return Encoded(rows, {name: count for name, count in counts.items() if count})


def ids(examples: Sequence[Any]) -> dict[str, list[str]]:
    """A column of the examples' own names, if they have any."""
    found = [example.id for example in examples]
    return {"id": found} if any(found) else {}


def _texts(examples: Sequence[Example]) -> dict[str, list[str | None]]:
    texts: dict[str, list[str | None]] = {"text_a": [example.text_a for example in examples]}
    if any(example.text_b is not None for example in examples):
        texts["text_b"] = [example.text_b for example in examples]
    return texts


# --- Classification -------------------------------------------------------------------------


class Classification:
    """One of several labels for a text or a pair; scored by `score`, (gold, predicted) labels."""

    head = "classification"

    def __init__(self, score: Callable[[Sequence[str], Sequence[str]], dict[str, float]]):
        self._score = score

    def find_labels(self, examples: Sequence[Example]) -> list[str]:
        """Sorted. Raises UserError: there is only one."""
        labels = sorted({example.gold for example in examples})
        if len(labels) < 2:
            file = examples[0].where.rpartition(":")[0]
            raise UserError(f"{file}: only one label, '{labels[0]}'; a task needs at least two")
        return labels

    def encode(self, examples: Sequence[Example], context: Context) -> Encoded:
        """Raises UserError: an unknown label, file and line are named; no room for a text."""
        numbers = {label: index for index, label in enumerate(context.labels)}

        def target(example: Example) -> int:
            if example.gold not in numbers:
                raise UserError(
                    f"{example.where}: unknown label '{example.gold}'; the labels are: "
                    f"{', '.join(context.labels)}"
                )
            return numbers[example.gold]

        return _encode(examples, context, target)

    def predict(
        self,
        examples: Sequence[Example],
        rows: Sequence[Row],
        outputs: Sequence[np.ndarray],
        context: Context,
    ) -> list[Prediction]:
        """Raises UserError: a score that is not finite, the example is named."""
        found = []
        for example, scores in zip(examples, outputs, strict=True):
            base.check_finite(example, scores)
            shares = softmax(scores)
            found.append(Prediction(context.labels[int(shares.argmax())], shares))
        return found

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> dict[str, float]:
        return self._score([e.gold for e in examples], [p.label for p in predictions])

    def files(
        self,
        split: str,
        examples: Sequence[Example],
        predictions: Sequence[Prediction],
        context: Context,
    ) -> dict[str, str]:
        """One line an example: the prediction, and the probability of every label."""
        columns: dict[str, Iterable[Any]] = {
            "index": range(len(examples)),
            **ids(examples),
            "prediction": [p.label for p in predictions],
            "label": [e.gold for e in examples],
            "confidence": [f"{p.probabilities.max():.4f}" for p in predictions],
            **_texts(examples),
        }
        for place, label in enumerate(context.labels):
            columns[f"p({label})"] = [f"{p.probabilities[place]:.6f}" for p in predictions]
        return {f"predictions-{split}.tsv": as_tsv(columns)}

    def collapsed(self, predictions: Sequence[Prediction], context: Context) -> bool:
        """Whether all examples have got the same label."""
        return len({prediction.label for prediction in predictions}) == 1


# --- Regression -----------------------------------------------------------------------------


class Regression:
    """A number for a text or a pair; scored by Pearson's and Spearman's correlations."""

    head = "regression"

    def find_labels(self, examples: Sequence[Example]) -> list[str]:
        """A number has none."""
        return []

    def encode(self, examples: Sequence[Example], context: Context) -> Encoded:
        """Raises UserError: no room for a text."""
        return _encode(examples, context, lambda example: example.gold)

    def predict(
        self,
        examples: Sequence[Example],
        rows: Sequence[Row],
        outputs: Sequence[np.ndarray],
        context: Context,
    ) -> list[float]:
        """Raises UserError: a score that is not finite, the example is named."""
        for example, output in zip(examples, outputs, strict=True):
            base.check_finite(example, output)
        return [float(output[0]) for output in outputs]

    def score(self, examples: Sequence[Example], predictions: Sequence[float]) -> dict[str, float]:
        return metrics.correlations([example.gold for example in examples], predictions)

    def files(
        self,
        split: str,
        examples: Sequence[Example],
        predictions: Sequence[float],
        context: Context,
    ) -> dict[str, str]:
        """One line an example: the prediction and what is right."""
        columns: dict[str, Iterable[Any]] = {
            "index": range(len(examples)),
            **ids(examples),
            "prediction": [f"{prediction:.6f}" for prediction in predictions],
            "label": [e.gold for e in examples],
            **_texts(examples),
        }
        return {f"predictions-{split}.tsv": as_tsv(columns)}

    def collapsed(self, predictions: Sequence[float], context: Context) -> bool:
        """Whether all examples have got the same number."""
        return max(predictions) - min(predictions) <= _SAME
