"""Scores have the values worked out by hand, and values at all where a model answers one thing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from bertjax.scores import metrics

pytestmark = pytest.mark.filterwarnings("error")
CLASSIFICATION = (
    metrics.accuracy,
    metrics.accuracy_and_f1,
    metrics.accuracy_and_positive_f1,
    metrics.matthews,
)
# 2 true positives, 1 false positive, 1 false negative, 1 true negative.
GOLD, PREDICTED = list("11010"), list("11100")

# --- By hand --------------------------------------------------------------------------------


def test_accuracy() -> None:
    assert metrics.accuracy(list("abca"), list("abba")) == {"accuracy": 0.75}


def test_macro_f1_is_the_mean_of_the_labels_f1() -> None:
    # a: 1 of 1 and 1 of 2; b: 1 of 2 and 1 of 1; c: right.
    found = metrics.accuracy_and_f1(list("aabc"), list("abbc"))
    assert found == pytest.approx({"accuracy": 3 / 4, "macro_f1": (2 / 3 + 2 / 3 + 1) / 3})


def test_positive_f1_is_that_of_label_1() -> None:
    found = metrics.accuracy_and_positive_f1(GOLD, PREDICTED)
    assert found == pytest.approx({"accuracy": 3 / 5, "f1": 2 / 3})
    swapped = [["10"[int(label)] for label in labels] for labels in (GOLD, PREDICTED)]
    found = metrics.accuracy_and_positive_f1(*swapped)
    assert found == pytest.approx({"accuracy": 3 / 5, "f1": 1 / 2})


def test_matthews() -> None:
    found = metrics.matthews(GOLD, PREDICTED)
    assert found == pytest.approx(
        {"matthews": (2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2), "accuracy": 3 / 5}
    )
    opposite = metrics.matthews(list("0101"), list("1010"))
    assert opposite == pytest.approx({"matthews": -1, "accuracy": 0})


def test_correlations() -> None:
    """Squares rise as their roots do (Spearman), not in proportion (Pearson)."""
    found = metrics.correlations([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 4.0, 9.0])
    assert found == pytest.approx({"pearson": 15 / math.sqrt(5 * 49), "spearman": 1})


def test_equal_values_share_their_rank() -> None:
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    found = metrics.correlations([1.0, 2.0, 2.0, 3.0], [1.0, 5.0, 7.0, 8.0])
    assert found["spearman"] == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_majority_share() -> None:
    assert metrics.majority_share(list("abcbb")) == 3 / 5


# --- One answer to everything ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "predicted"), [("0101", "0000"), ("0000", "0101"), ("1111", "1111"), ("1", "1")]
)
def test_matthews_of_a_constant_is_0(gold: str, predicted: str) -> None:
    assert metrics.matthews(list(gold), list(predicted))["matthews"] == 0


@pytest.mark.parametrize("predicted", ["0000", "0100"])
def test_positive_f1_without_a_true_positive_is_0(predicted: str) -> None:
    assert metrics.accuracy_and_positive_f1(list("0000"), list(predicted))["f1"] == 0


def test_correlations_of_a_constant_are_0_and_of_nan_nan() -> None:
    varied, constant = [1.0, 2.0, 4.0], [3.0, 3.0, 3.0]
    nothing = {"pearson": 0.0, "spearman": 0.0}
    assert metrics.correlations(varied, constant) == nothing
    assert metrics.correlations(constant, varied) == nothing
    assert metrics.correlations([1.0], [2.0]) == nothing
    found = metrics.correlations(varied, [1.0, math.nan, 2.0])
    assert all(math.isnan(score) for score in found.values())


# --- What a task relies on ------------------------------------------------------------------


@pytest.mark.parametrize("score", CLASSIFICATION)
def test_every_score_is_a_plain_float_with_or_without_variety(
    score: Callable[..., dict[str, float]],
) -> None:
    for gold, predicted in (("0101", "0110"), ("0000", "0000"), ("1", "0"), ("1", "1")):
        found = score(list(gold), list(predicted))
        assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize("score", [*CLASSIFICATION, metrics.correlations])
@pytest.mark.parametrize(("gold", "predicted"), [([], []), ([1, 1], [1]), ([1, 0, 1], [1, 0])])
def test_no_examples_or_unequal_numbers_are_refused(
    score: Callable[..., Any], gold: list[int], predicted: list[int]
) -> None:
    as_given = float if score is metrics.correlations else str
    with pytest.raises(ValueError):
        score(list(map(as_given, gold)), list(map(as_given, predicted)))
