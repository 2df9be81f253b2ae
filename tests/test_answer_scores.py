"""Answers score as by SQuAD's evaluate-v1.1.py and evaluate-v2.0.py, to the last digit."""

from __future__ import annotations

import math
import random

import pytest

from bertjax.errors import UserError
from bertjax.scores.answer_scores import answer_scores, normalise, unanswerable_scores


def one(answers: list[str], predicted: str) -> tuple[float, float]:
    """Exact match and F1 of a single question of 1.1."""
    found = answer_scores({"q": answers}, {"q": predicted})
    return found["exact_match"], found["f1"]


# --- A random set, and what the authors' scripts print for it --------------------------------

WORDS = "The a an cat Dog's ran, north-east U.S. été 1,000 “red” the"


def random_text(rng: random.Random, least: int) -> str:
    return " ".join(rng.choices(WORDS.split(), k=rng.randint(least, 4)))


def random_questions() -> tuple[dict[str, list[str]], dict[str, str], dict[str, float]]:
    """200 questions with 0 to 3 right answers, a prediction each, and their null odds."""
    rng = random.Random(0)
    gold, predictions, null_odds = {}, {}, {}
    for i in range(200):
        answers = [random_text(rng, 1) for _ in range(rng.randint(0, 3))]
        gold[f"q{i}"] = answers
        predictions[f"q{i}"] = rng.choice([*answers, random_text(rng, 0)])
        null_odds[f"q{i}"] = rng.uniform(-3, 3) + (-1 if answers else 1)
    return gold, predictions, null_odds


def test_random_answers_score_as_by_evaluate_1_1() -> None:
    gold, predictions, _ = random_questions()
    answerable = {question: answers for question, answers in gold.items() if answers}
    some = {question: text for question, text in predictions.items() if question[-1] != "7"}
    assert answer_scores(answerable, some) == {
        "exact_match": pytest.approx(66.2251655629139, abs=1e-9),
        "f1": pytest.approx(60.12141280353201, abs=1e-9),
        "missing": 13,
    }


@pytest.mark.parametrize(
    ("threshold", "scores"),
    [
        (0.0, (50.5, 52.39166666666667, 39.735099337748345, 42.240618101545245, 83.6734693877551)),
        (0.5, (53.0, 54.89166666666668, 45.6953642384106, 48.200883002207505, 75.51020408163265)),
    ],
)
def test_random_answers_score_as_by_evaluate_2_0(
    threshold: float, scores: tuple[float, ...]
) -> None:
    exact, f1, has_exact, has_f1, no_answer = scores
    expected = {
        "exact": exact,
        "f1": f1,
        "total": 200,
        "HasAns_exact": has_exact,
        "HasAns_f1": has_f1,
        "HasAns_total": 151,
        "NoAns_exact": no_answer,
        "NoAns_f1": no_answer,
        "NoAns_total": 49,
        "best_exact": 62.5,
        "best_exact_thresh": 1.9235552061980776,
        "best_f1": 64.64166666666668,
        "best_f1_thresh": 1.9235552061980776,
        "missing": 0,
    }
    found = unanswerable_scores(*random_questions(), threshold)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-9)


# --- Two answers compared -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's\tout of an\nodd hat.", "cats out of odd hat"),
        ("Theatre, another anthem", "theatre another anthem"),
        ("north-east, 1,000", "northeast 1000"),
        ("“a” É", "“ ” é"),  # only ASCII punctuation goes
        ("a the an.", ""),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("answers", "predicted", "exact", "f1"),
    [
        (["The Big Apple"], "big apple!", 100, 100),
        (["big red dog"], "red dog barks", 0, 200 / 3),
        (["x y"], "x x x y", 0, 200 / 3),  # x is right once: precision 2/4, recall 2/2
        (["x"], "y", 0, 0),
        (["x"], "", 0, 0),
        (["x y z", "x w", "v"], "x", 0, 200 / 3),  # the nearest counts
        (["v", "x"], "the x", 100, 100),
        (["the"], "a", 100, 0),  # the script's own: nothing is left that words could share
    ],
)
def test_exact_match_and_f1(answers: list[str], predicted: str, exact: float, f1: float) -> None:
    assert one(answers, predicted) == (exact, pytest.approx(f1))


def test_questions_without_prediction_count_0_and_are_told() -> None:
    gold = {"a": ["x"], "b": ["y"], "c": [""], "d": ["z z"]}
    found = answer_scores(gold, {"a": "x", "d": "z", "of another set": "w"})
    f1 = pytest.approx(100 * (1 + 2 / 3) / 4)
    assert found == {"exact_match": 25, "f1": f1, "missing": 2}


# --- Unanswerable questions -----------------------------------------------------------------


def test_no_answer_is_right_where_there_is_none() -> None:
    gold = {"has": ["x y"], "none": [], "none too": []}
    found = unanswerable_scores(
        gold, {"has": "x", "none": "", "none too": "z"}, dict.fromkeys(gold, 0.0)
    )
    assert (found["HasAns_exact"], found["HasAns_f1"]) == (0, pytest.approx(200 / 3))
    assert found["NoAns_exact"] == found["NoAns_f1"] == 50
    assert found["exact"] == pytest.approx(100 / 3)


def test_a_right_answer_of_articles_alone_is_no_answer() -> None:
    """The scripts differ here: 2.0 lets two texts of which nothing is left agree in F1."""
    found = unanswerable_scores({"q": ["the"]}, {"q": "a"}, {"q": 0.0})
    assert (found["HasAns_exact"], found["HasAns_f1"], found["HasAns_total"]) == (100, 100, 1)


def test_an_answer_is_withheld_above_the_threshold_only() -> None:
    gold, predictions = {"q": ["x"]}, {"q": "x"}
    assert unanswerable_scores(gold, predictions, {"q": 0.0})["exact"] == 100
    assert unanswerable_scores(gold, predictions, {"q": 1e-9})["exact"] == 0
    assert unanswerable_scores(gold, predictions, {"q": 1.5}, threshold=1.5)["exact"] == 100


def test_no_threshold_does_better_than_the_best() -> None:
    gold, predictions, null_odds = random_questions()
    # Else the script's search takes "the" for an answer and its scores take it for none.
    predictions = {q: text if normalise(text) else "" for q, text in predictions.items()}
    best = unanswerable_scores(gold, predictions, null_odds)
    for name in ("exact", "f1"):
        scores = {
            threshold: unanswerable_scores(gold, predictions, null_odds, threshold)[name]
            for threshold in (-math.inf, *null_odds.values())
        }
        assert best[f"best_{name}"] == pytest.approx(max(scores.values()))
        assert best[f"best_{name}"] == pytest.approx(scores[best[f"best_{name}_thresh"]])
        assert best[name] < best[f"best_{name}"]


@pytest.mark.parametrize(
    ("predictions", "null_odds", "best"),
    [
        ({"none": "y", "has": "z"}, {"none": -2, "has": -1}, (50, 0)),  # nothing beats no answers
        ({"none": "", "has": "x"}, {"has": -1, "none": 1}, (100, -1)),  # the lowest of equal ones
        ({"none": "y", "has": "x"}, {"has": 2, "none": 2}, (100, 2)),  # equal odds, the order tells
        ({"none": "y", "has": "x"}, {"none": 2, "has": 2}, (50, 0)),
        ({"none": "the", "has": "x"}, {"none": 1, "has": 2}, (50, 0)),  # "the" is an answer
    ],
)
def test_the_best_threshold_is_the_scripts(
    predictions: dict[str, str], null_odds: dict[str, float], best: tuple[float, float]
) -> None:
    found = unanswerable_scores({"none": [], "has": ["x"]}, predictions, null_odds)
    assert (found["best_exact"], found["best_exact_thresh"]) == best
    assert (found["best_f1"], found["best_f1_thresh"]) == best


def test_a_part_without_questions_is_left_out() -> None:
    found = unanswerable_scores({"q": []}, {"q": ""}, {"q": 1.0})
    assert not any(name.startswith("HasAns_") for name in found)
    found = unanswerable_scores({"q": ["x"]}, {"q": "x"}, {"q": -1.0})
    assert not any(name.startswith("NoAns_") for name in found)


def test_unanswerable_questions_without_prediction_count_0_too() -> None:
    gold = {"a": ["x"], "b": [], "c": [], "d": ["y"]}
    found = unanswerable_scores(gold, {"a": "x", "b": ""}, {"a": -1.0, "b": 1.0})
    assert found["missing"] == 2
    names = ("exact", "HasAns_exact", "NoAns_f1", "best_exact", "best_f1")
    assert [found[name] for name in names] == [50] * 5


# --- Bad input ------------------------------------------------------------------------------


def test_null_odds_must_be_numbers_and_there() -> None:
    gold, predictions = {"q1": ["x"], "q2": []}, {"q1": "x", "q2": ""}
    with pytest.raises(UserError, match="null odds of question q2 are NaN"):
        unanswerable_scores(gold, predictions, {"q1": 0.0, "q2": math.nan})
    with pytest.raises(UserError, match="question q2 has a prediction but no null odds"):
        unanswerable_scores(gold, predictions, {"q1": 0.0})


def test_there_must_be_questions_and_under_1_1_answers() -> None:
    for score in (
        lambda: answer_scores({}, {}),
        lambda: unanswerable_scores({}, {}, {}),
    ):
        with pytest.raises(UserError, match="no questions"):
            score()
    with pytest.raises(UserError, match="question q has no right answer"):
        answer_scores({"q": []}, {"q": ""})
