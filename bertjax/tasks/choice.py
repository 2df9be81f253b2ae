"""Multiple choice: each choice is a row, and one of an example's rows is right (paper, 4.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from bertjax.data.rows import Row
from bertjax.files.tables import as_tsv
from bertjax.scores import metrics
from bertjax.tasks.base import Context, Encoded, check_finite
from bertjax.tasks.sentences import check_length, cut_pair, ids


class Example(NamedTuple):
    """A context and two or more ways to go on from it.

    Attributes:
      gold: the number of the right choice, from 0; None if it is to be predicted.
      where: file and line, for messages: "dev.jsonl:17".
      id: the file's own name of the example, "" if it has none.
    """

    context: str
    choices: tuple[str, ...]
    gold: int | None
    where: str
    id: str = ""


class Prediction(NamedTuple):
    """The number of the most probable choice, and the probabilities of the example's choices."""

    number: int
    probabilities: np.ndarray


def _rows(example: Example, context: Context, counts: Counter[str]) -> Iterator[Row]:
    """[CLS] context [SEP] choice [SEP] for every choice."""
    tokenizer, limit = context.tokenizer, context.options.max_seq_length
    first = tokenizer.encode(example.context)
    seconds = [tokenizer.encode(choice) for choice in example.choices]
    room = limit - 3
    counts[f"cut at {limit} tokens"] += len(first) + max(map(len, seconds)) > room
    counts["empty text"] += not example.context or "" in example.choices
    for second in seconds:
        a, b = first, second
        if len(a) + len(b) > room:
            a, b = cut_pair(a, b, room)
        whole = [tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]
        yield Row(whole, len(a) + 2, example.gold)


def _share(prediction: Prediction, place: int) -> str:
    """The probability of a choice, empty where the example has none of that number."""
    found = prediction.probabilities
    return f"{found[place]:.6f}" if place < len(found) else ""


class Choice:
    """One of several choices, of which examples may have different numbers."""

    head = "choice"

    def find_labels(self, examples: Sequence[Example]) -> list[str]:
        """Choices are numbered; there is nothing to learn."""
        return []

    def encode(self, examples: Sequence[Example], context: Context) -> Encoded:
        """As many rows for each example as the longest list of choices has.

        Choices that an example does not have are rows without tokens. Raises UserError: no room.
        """
        limit = context.options.max_seq_length
        check_length(limit)
        most = max(len(example.choices) for example in examples)
        counts: Counter[str] = Counter()
        rows: list[Row] = []
        for example in examples:
            rows += _rows(example, context, counts)
            rows += [Row([], 0)] * (most - len(example.choices))
        return Encoded(rows, dict(+counts), most)

    def predict(
        self,
        examples: Sequence[Example],
        rows: Sequence[Row],
        outputs: Sequence[np.ndarray],
        context: Context,
    ) -> list[Prediction]:
        """Raises UserError: a score that is not finite, the example is named."""
        found = []
        for example, output in zip(examples, outputs, strict=True):
            check_finite(example, output)
            shares = softmax(output[: len(example.choices)])
            found.append(Prediction(int(shares.argmax()), shares))
        return found

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> dict[str, float]:
        """The accuracy, from 0 to 1."""
        gold = [str(example.gold) for example in examples]
        return metrics.accuracy(gold, [str(prediction.number) for prediction in predictions])

    def files(
        self,
        split: str,
        examples: Sequence[Example],
        predictions: Sequence[Prediction],
        context: Context,
    ) -> dict[str, str]:
        """One line an example: the choice predicted and the right one, by number, and every
        choice's text and probability."""
        columns: dict[str, list[Any]] = {
            "index": list(range(len(examples))),
            **ids(examples),
            "prediction": [p.number for p in predictions],
            "label": [e.gold for e in examples],
            "confidence": [f"{p.probabilities.max():.4f}" for p in predictions],
            "context": [e.context for e in examples],
        }
        for place in range(max(len(e.choices) for e in examples)):
            texts = [e.choices[place] if place < len(e.choices) else "" for e in examples]
            columns[f"choice{place}"] = texts
            columns[f"p({place})"] = [_share(p, place) for p in predictions]
        return {f"predictions-{split}.tsv": as_tsv(columns)}

    def collapsed(self, predictions: Sequence[Prediction], context: Context) -> bool:
        """Whether all examples have got the same choice's number."""
        return len({prediction.number for prediction in predictions}) == 1
