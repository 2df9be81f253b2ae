"""Answer scores: exact match and F1 as SQuAD 1.1 and, with unanswerable questions, 2.0 count."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bertjax.errors import UserError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

# Question -> its right answers; question -> what was answered.
Gold = Mapping[str, Sequence[str]]
Predictions = Mapping[str, str]


class _Answer(NamedTuple):
    """One prediction and its scores, from 0 to 1, before any threshold."""

    exact: float
    f1: float
    answerable: bool
    is_empty: bool
    null_odds: float

    def at(self, threshold: float) -> tuple[float, float]:
        """Exact match and F1 if the answer is withheld above a threshold."""
        right = float(not self.answerable)
        return (right, right) if self.null_odds > threshold else (self.exact, self.f1)


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, without a, an and the, one space between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def answer_scores(gold: Gold, predictions: Predictions) -> dict[str, float]:
    """Scores of SQuAD 1.1 (Rajpurkar et al. 2016, section 6.1), in per cent of all questions.

    exact_match and f1 take the best over a question's right answers, after normalise; F1 is that
    of the words, each as often as it occurs. Questions without a prediction count 0, and "missing"
    is their number. All as the authors' evaluate-v1.1.py.

    Raises:
      UserError: no questions, or one without a right answer.
    """
    _check_any(gold)
    for question, answers in gold.items():
        if not answers:
            raise UserError(
                f"question {question} has no right answer; score it as one of SQuAD 2.0"
            )
    found = [
        _best([normalise(answer) for answer in answers], normalise(predictions[question]))
        for question, answers in gold.items()
        if question in predictions
    ]
    exact, f1 = _percent(found, len(gold))
    return {"exact_match": exact, "f1": f1, "missing": len(gold) - len(found)}


def unanswerable_scores(
    gold: Gold,
    predictions: Predictions,
    null_odds: Mapping[str, float],
    threshold: float = 0.0,
) -> dict[str, float]:
    """Scores of SQuAD 2.0 (Rajpurkar et al. 2018) with the names of the authors' evaluate-v2.0.py.

    exact and f1, in per cent of the questions (total), at the given threshold, then apart for
    questions that have an answer (HasAns_...) and those that have none (NoAns_...), each only if
    there are such. best_exact and best_f1 are the highest that any threshold reaches, at
    best_exact_thresh and best_f1_thresh. The search for them has the script's peculiarities: the
    threshold is 0 where withholding every answer is best; it may part questions of equal odds, by
    their order in null_odds; and "the" is an answer there, though it equals "" elsewhere.

    Questions without a prediction, at which the script stops, count 0; "missing" is their number.

    Args:
      gold: an empty sequence means that a question is unanswerable, and "" is its right answer.
      predictions: the best answer that is not empty, or "".
      null_odds: how much better no answer is than that one, such as the difference of their
        scores; where it is above the threshold, the prediction counts as "".

    Raises:
      UserError: no questions, or a prediction without null odds, or NaN for them.
    """
    _check_any(gold)
    _check_odds(predictions, null_odds)
    found = {
        question: _score(answers, predictions[question], null_odds[question])
        for question, answers in gold.items()
        if question in predictions
    }
    result = _part_scores("", list(gold), found, threshold)
    for prefix, answerable in (("HasAns_", True), ("NoAns_", False)):
        part = [question for question, answers in gold.items() if bool(answers) == answerable]
        if part:
            result |= _part_scores(prefix, part, found, threshold)
    ordered = [found[q] for q in sorted(null_odds, key=null_odds.__getitem__) if q in found]
    for name, scores in (
        ("best_exact", [answer.exact for answer in ordered]),
        ("best_f1", [answer.f1 for answer in ordered]),
    ):
        best, at = _best_threshold(ordered, scores)
        result |= {name: 100 * best / len(gold), f"{name}_thresh": at}
    return result | {"missing": len(gold) - len(found)}


def _check_any(gold: Gold) -> None:
    if not gold:
        raise UserError("there are no questions to score; check the data file")


def _check_odds(predictions: Predictions, null_odds: Mapping[str, float]) -> None:
    for question in predictions:
        if question not in null_odds:
            raise UserError(f"question {question} has a prediction but no null odds; predict again")
    for question, odds in null_odds.items():
        if math.isnan(odds):
            raise UserError(
                f"the null odds of question {question} are NaN; predict with a model whose "
                "parameters are finite"
            )


def _f1(answer: str, predicted: str) -> float:
    """F1 of the words of normalised texts; 0 if they share none, also where both are empty."""
    a, b = answer.split(), predicted.split()
    common = (Counter(a) & Counter(b)).total()
    if not common:
        return 0.0
    # Rounded as the authors' script rounds: equal sums of F1 decide on the best threshold.
    precision, recall = common / len(b), common / len(a)
    return 2 * precision * recall / (precision + recall)


def _best(answers: Sequence[str], predicted: str) -> tuple[float, float]:
    """Exact match and F1 with the right answer that is nearest; all texts are normalised."""
    return float(predicted in answers), max(_f1(answer, predicted) for answer in answers)


def _score(answers: Sequence[str], predicted: str, null_odds: float) -> _Answer:
    """A prediction under the rules of 2.0: right answers that normalise to nothing do not count."""
    texts = [text for text in map(normalise, answers) if text] or [""]
    exact, f1 = _best(texts, normalise(predicted))
    return _Answer(
        exact=exact,
        f1=max(exact, f1),  # here two empty answers agree in F1, too
        answerable=bool(answers),
        is_empty=not predicted,
        null_odds=null_odds,
    )


def _percent(pairs: Sequence[tuple[float, float]], total: int) -> tuple[float, float]:
    """Exact match and F1 of `total` questions; those without a pair count 0."""
    exact, f1 = (sum(pair[i] for pair in pairs) for i in (0, 1))
    return 100 * exact / total, 100 * f1 / total


def _part_scores(
    prefix: str, questions: Sequence[str], found: Mapping[str, _Answer], threshold: float
) -> dict[str, float]:
    pairs = [found[question].at(threshold) for question in questions if question in found]
    exact, f1 = _percent(pairs, len(questions))
    return {f"{prefix}exact": exact, f"{prefix}f1": f1, f"{prefix}total": len(questions)}


def _best_threshold(ordered: Sequence[_Answer], scores: Sequence[float]) -> tuple[float, float]:
    """The highest sum of scores, and the null odds of the last question answered for it.

    It starts with every answer withheld and gives one after the other, from the lowest null odds
    up: a right one adds its score, one to an unanswerable question takes away what "" had.
    """
    total = best = float(sum(not answer.answerable for answer in ordered))
    threshold = 0.0
    for answer, score in zip(ordered, scores, strict=True):
        total += score if answer.answerable else float(answer.is_empty) - 1
        if total > best:
            best, threshold = total, answer.null_odds
    return best, threshold
