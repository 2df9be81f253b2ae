"""Answers that are spans of a context: which ones a model's scores choose, and how good they are.

As the 2018 code's run_squad.py (paper, sections 4.2 and 4.3), but every answer is the exact slice
of its context.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bertjax.data.rows import Row
from bertjax.errors import UserError
from bertjax.scores.answer_scores import answer_scores, unanswerable_scores
from bertjax.tasks import windows
from bertjax.tasks.base import Context, Encoded, Options, check_finite
from bertjax.tasks.windows import Example, Window

# The null odds of a question whose context has no token: no threshold is above it.
_CERTAINLY_NONE = 1e9


class Answer(NamedTuple):
    """A possible answer, the characters [start, end) of the context; "" for none."""

    text: str
    probability: float
    start_logit: float
    end_logit: float
    start: int
    end: int


class Prediction(NamedTuple):
    """What is answered to a question.

    Attributes:
      text: the answer, "" for none.
      best: the best answer that is not empty; "" only where the context has no token.
      n_best: the likeliest answers, the best one first; no text comes twice.
      null_odds: by how much the score of no answer is above that of `best`.
      threshold: where null_odds is above it, text is "".
    """

    text: str
    best: str
    n_best: list[Answer]
    null_odds: float
    threshold: float


def best_pairs(start: np.ndarray, end: np.ndarray, longest: int, number: int) -> np.ndarray:
    """The pairs of places with the highest start + end, at most `number`, the best one first.

    All pairs first <= last < first + longest are looked at; -inf marks places that cannot be.

    Args:
      start, end: [N] scores of being the first and the last token.

    Returns:
      [M, 2] int: first and last.
    """
    longest = min(longest, len(end))
    # The firsts of the best pairs are among those that lead to the highest sums.
    padded = np.concatenate([end, np.full(longest - 1, -np.inf)])
    ends = sliding_window_view(padded, longest)  # [N, L]
    firsts = _highest(start + ends.max(axis=1), number)
    # [M] and [M, L] -> [M L]
    sums = (start[firsts, None] + ends[firsts]).ravel()
    chosen = _highest(sums, number)
    row, distance = np.divmod(chosen, longest)
    return np.stack([firsts[row], firsts[row] + distance], axis=1)


def _highest(values: np.ndarray, number: int) -> np.ndarray:
    """The places of the highest finite values, at most `number`, the highest one first."""
    places = np.flatnonzero(values > -np.inf)
    if len(places) > number:
        places = places[np.argpartition(-values[places], number - 1)[:number]]
    return places[np.argsort(-values[places], kind="stable")]


def _answers(example: Example, row: Row, scores: np.ndarray, options: Options) -> Iterator[Answer]:
    """The best answers of one window, without probabilities."""
    window: Window = row.note
    if not len(window.offsets):
        return
    # [T, 2] -> [N], [N]
    start, end = scores[row.length_a : row.length_a + len(window.offsets)].T
    # A SentencePiece token may stand for a white space alone: no answer begins or ends there.
    visible = window.offsets[:, 1] > window.offsets[:, 0]
    pairs = best_pairs(
        np.where(visible & window.own, start, -np.inf),
        np.where(visible, end, -np.inf),
        options.max_answer_length,
        options.n_best,
    )
    firsts, lasts = pairs.T
    columns = (start[firsts], end[lasts], window.offsets[firsts, 0], window.offsets[lasts, 1])
    for start_logit, end_logit, at, to in zip(*(c.tolist() for c in columns), strict=True):
        yield Answer(example.context[at:to], 0.0, start_logit, end_logit, at, to)


def _score(answer: Answer) -> float:
    return answer.start_logit + answer.end_logit


def _n_best(
    example: Example, shown: Sequence[tuple[Row, np.ndarray]], options: Options
) -> list[Answer]:
    """The best answers of all windows, the best one first, each text once."""
    found = [answer for row, scores in shown for answer in _answers(example, row, scores, options)]
    distinct: dict[str, Answer] = {}
    for answer in sorted(found, key=_score, reverse=True):
        distinct.setdefault(answer.text, answer)
    return list(distinct.values())[: options.n_best]


def _with_probabilities(answers: Sequence[Answer]) -> list[Answer]:
    """Softmax of the answers' scores, which are in falling order."""
    weights = np.exp([_score(answer) - _score(answers[0]) for answer in answers])
    shares = (weights / weights.sum()).tolist()
    return [a._replace(probability=share) for a, share in zip(answers, shares, strict=True)]


def _json(content: Mapping[str, Any]) -> str:
    """An object with one line for each question."""
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


# --- The family -----------------------------------------------------------------------------


class Spans:
    """Extractive question answering."""

    head = "span"

    def __init__(self, unanswerable: bool) -> None:
        """`unanswerable`: a question may have no answer in its context, as in SQuAD 2.0."""
        self.unanswerable = unanswerable

    def find_labels(self, examples: Sequence[Example]) -> list[str]:
        return []

    def encode(self, examples: Sequence[Example], context: Context) -> Encoded:
        """One or more consecutive rows for each question; each context is encoded once.

        Rows of an answer that cannot be found have target None. Raises UserError: an option
        below 1, an answer that is missing, a question that leaves no room for its context.
        """
        for name in ("doc_stride", "max_query_length", "max_answer_length", "n_best"):
            if (value := getattr(context.options, name)) < 1:
                raise UserError(f"{name} {value}: give at least 1")
        for example in examples:
            if example.gold == () and not self.unanswerable:
                raise UserError(
                    f"{example.where}: a question without an answer; squad2 and span are tasks "
                    "that take such questions"
                )
        return windows.encode(examples, context)

    def predict(
        self,
        examples: Sequence[Example],
        rows: Sequence[Row],
        outputs: Sequence[np.ndarray],
        context: Context,
    ) -> list[Prediction]:
        """The likeliest spans of at most max_answer_length tokens, over all windows of a question.

        A span counts in the window where its first token has the most context. All of them are
        looked at, where the 2018 code looks at those between the best n_best firsts and lasts.

        Raises:
          UserError: scores that are not finite; the question is named.
        """
        pairs = zip(rows, outputs, strict=True)
        return [
            self._predict(examples[number], list(shown), context.options)
            for number, shown in groupby(pairs, key=lambda pair: pair[0].note.example)
        ]

    def _predict(
        self, example: Example, shown: Sequence[tuple[Row, np.ndarray]], options: Options
    ) -> Prediction:
        """`shown`: the question's rows, each with its scores [T, 2]."""
        for _, scores in shown:
            check_finite(example, scores, f" for question {example.id}")
        # The least sure window decides on no answer, as in 2018.
        first = [scores[0].tolist() for _, scores in shown]
        null = min((Answer("", 0.0, start, end, 0, 0) for start, end in first), key=_score)
        found = _n_best(example, shown, options)
        best = found[0].text if found else ""
        odds = _score(null) - _score(found[0]) if found else _CERTAINLY_NONE
        listed = [*found, null] if self.unanswerable or not found else found
        return Prediction(
            text="" if self.unanswerable and odds > options.null_threshold else best,
            best=best,
            n_best=_with_probabilities(sorted(listed, key=_score, reverse=True)),
            null_odds=odds,
            threshold=options.null_threshold,
        )

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> dict[str, float]:
        """As answer_scores has them, in per cent; with unanswerable questions also the best that
        any threshold reaches, which is chosen on the very questions that it is told of, and, where
        another threshold was given, those at 0 as exact_at_0 and f1_at_0."""
        by_id = {e.id: p for e, p in zip(examples, predictions, strict=True)}
        gold = {e.id: [text for text, _ in e.gold or ()] for e in examples}
        best = {key: p.best for key, p in by_id.items()}
        if not self.unanswerable:
            return answer_scores(gold, best)
        odds = {key: p.null_odds for key, p in by_id.items()}
        scores = unanswerable_scores(gold, best, odds, predictions[0].threshold)
        if predictions[0].threshold:
            at_0 = unanswerable_scores(gold, best, odds)
            scores |= {f"{name}_at_0": at_0[name] for name in ("exact", "f1")}
        return scores

    def files(
        self,
        split: str,
        examples: Sequence[Example],
        predictions: Sequence[Prediction],
        context: Context,
    ) -> dict[str, str]:
        """The files of the 2018 code, which the official scorers read."""
        by_id = {e.id: p for e, p in zip(examples, predictions, strict=True)}
        contents: dict[str, dict[str, Any]] = {
            "predictions": {key: p.text for key, p in by_id.items()},
            "nbest": {key: [a._asdict() for a in p.n_best] for key, p in by_id.items()},
        }
        if self.unanswerable:
            contents["null_odds"] = {key: p.null_odds for key, p in by_id.items()}
        return {f"{name}-{split}.json": _json(content) for name, content in contents.items()}

    def collapsed(self, predictions: Sequence[Prediction], context: Context) -> bool:
        """All questions have the same answer."""
        return len({prediction.text for prediction in predictions}) == 1
