"""Answers: exact characters, the best of all pairs of tokens, null odds and thresholds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bertjax.data.rows import Row
from bertjax.errors import UserError
from bertjax.tasks.base import Context, Options
from bertjax.tasks.spans import Prediction, Spans
from bertjax.tasks.windows import Example
from bertjax.text.tokenizer import SPECIALS, WordPieceTokenizer

# Twelve words of the tiny vocabulary, so of one token each; every one is there once.
TEXT = "the small old river watched a quiet garden before dawn every winter"
WORDS = TEXT.split()


def example(
    context: str = TEXT,
    *answers: str,
    question: str = "that lantern",
    gold: tuple[tuple[str, int], ...] | None = (),
    id: str = "q",
) -> Example:
    """`answers` stand where they first occur in the context; without them `gold` counts."""
    found = tuple((answer, context.index(answer)) for answer in answers)
    return Example(id, question, context, found or gold, f"dev.json: {id}")


def context(tokenizer: Any, max_seq_length: int = 32, **options: Any) -> Context:
    return Context(tokenizer, [], Options(max_seq_length=max_seq_length, **options))


def perfect(rows: Sequence[Row]) -> list[np.ndarray]:
    """Scores of a model that knows the target of every row; where it is [CLS], it says nothing."""
    outputs = []
    for row in rows:
        scores = np.zeros((len(row.ids), 2), np.float32)
        if row.target != (0, 0):
            scores[row.target, (0, 1)] = 10
        outputs.append(scores)
    return outputs


def random_scores(rows: Sequence[Row], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 3, (len(row.ids), 2)).astype(np.float32) for row in rows]


def predict_one(family: Spans, one: Example, scores: Any, where: Context) -> Prediction:
    rows = family.encode([one], where).rows
    outputs = scores(rows) if callable(scores) else [np.array(s, np.float32) for s in scores]
    (prediction,) = family.predict([one], rows, outputs, where)
    return prediction


# --- Predictions ----------------------------------------------------------------------------

PIECES = "le cafe du naive 日 本 elan ##s . ο ##δ ##ος"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("le CAFÉ\u2028du 日本 naïve", "CAFÉ"),
        ("le cafe\u0301\u2029du", "cafe\u0301"),
        ("du naïve\u200b Élans.", "naïve\u200b Élans"),
        ("le 日本du\u3000café", "日本"),
        ("le 日本du\u3000café", "本du"),
        ("LE ΟΔΟΣ, du", "ΟΔΟΣ"),
        ("le\u0085  CAFÉ\t\r\n.Du", "CAFÉ\t\r\n.Du"),
    ],
)
def test_answers_are_exact_characters_of_the_context(text: str, answer: str) -> None:
    """Accents, CJK, capitals, and separators that other readers take for the end of a line."""
    where = context(WordPieceTokenizer([*SPECIALS, *PIECES.split()], lowercase=True))
    prediction = predict_one(Spans(False), example(text, answer, question=""), perfect, where)
    assert prediction.text == answer
    assert text[prediction.n_best[0].start : prediction.n_best[0].end] == answer


def brute_force(
    one: Example, rows: Sequence[Row], outputs: Sequence[np.ndarray], options: Options
) -> list[tuple[float, int, int]]:
    """(score, begin, end) of all pairs of tokens that may be an answer, the best one first."""
    found = []
    for row, scores in zip(rows, outputs, strict=True):
        for first in range(len(row.note.offsets)):
            for last in range(first, len(row.note.offsets)):
                if row.note.own[first] and last - first < options.max_answer_length:
                    places = first + row.length_a, last + row.length_a
                    score = float(scores[places[0], 0] + scores[places[1], 1])
                    span = row.note.offsets[first, 0], row.note.offsets[last, 1]
                    found.append((score, *map(int, span)))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("unanswerable", [False, True])
@pytest.mark.parametrize(
    ("length", "options"),
    [
        (32, {"n_best": 5, "max_answer_length": 4}),
        (11, {"n_best": 20, "max_answer_length": 3, "doc_stride": 2}),
        (11, {"n_best": 3, "max_answer_length": 100, "doc_stride": 4}),
        (9, {"n_best": 1, "max_answer_length": 1, "doc_stride": 1}),
        (32, {"n_best": 500}),
    ],
)
def test_the_best_of_all_pairs_are_found(
    tiny_tokenizer: WordPieceTokenizer, unanswerable: bool, length: int, options: dict[str, int]
) -> None:
    family, where = Spans(unanswerable), context(tiny_tokenizer, length, **options)
    asked = [example(TEXT, "old", id=str(i)) for i in range(20)]
    rows = family.encode(asked, where).rows
    outputs = random_scores(rows)
    for number, prediction in enumerate(family.predict(asked, rows, outputs, where)):
        mine = [i for i, row in enumerate(rows) if row.note.example == number]
        shown = [rows[i] for i in mine], [outputs[i] for i in mine]
        wanted = brute_force(asked[number], *shown, where.options)[: where.options.n_best]
        answers = [a for a in prediction.n_best if a.text]
        assert [(a.start, a.end) for a in answers] == [(begin, end) for _, begin, end in wanted]
        scores = [a.start_logit + a.end_logit for a in answers]
        np.testing.assert_allclose(scores, [score for score, _, _ in wanted], rtol=1e-6)
        assert prediction.best == TEXT[wanted[0][1] : wanted[0][2]]
        null = min(float(output[0].sum()) for output in shown[1])
        assert prediction.null_odds == pytest.approx(null - wanted[0][0], abs=1e-5)
        all_scores = np.array([a.start_logit + a.end_logit for a in prediction.n_best])
        assert (np.diff(all_scores) <= 0).all()
        shares = np.exp(all_scores) / np.exp(all_scores).sum()
        np.testing.assert_allclose([a.probability for a in prediction.n_best], shares, rtol=1e-6)


def by_hand(start: Sequence[float], end: Sequence[float]) -> np.ndarray:
    """Scores for [CLS] that lantern [SEP] ... [SEP]; of [CLS], then of the context's tokens."""
    both = [[values[0], 9, 9, 9, *values[1:], 9] for values in (start, end)]
    return np.array(both, np.float32).T


def test_neither_question_nor_separators_nor_backward_pairs_are_answers(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    one = example("the old river", "old")
    scores = by_hand([5, 0, 0, 2], [5, 4, 0, 1])
    prediction = predict_one(Spans(False), one, [scores], context(tiny_tokenizer))
    # "the" 0 + 4 and not the river backwards, 2 + 4.
    assert [a.text for a in prediction.n_best[:2]] == ["the", "river"]
    assert [a.start_logit + a.end_logit for a in prediction.n_best[:2]] == [4, 3]
    assert all(a.text for a in prediction.n_best)
    assert len(prediction.n_best) == 6
    total = math.exp(4) + math.exp(3) + 2 * math.exp(1) + 2 * math.exp(0)
    assert prediction.n_best[0].probability == pytest.approx(math.exp(4) / total)


def test_of_answers_with_the_same_text_the_best_one_counts(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    one = example("river old river", "old")
    scores = by_hand([0, 1, 0, 3], [0, 1, 0, 3])
    prediction = predict_one(Spans(False), one, [scores], context(tiny_tokenizer))
    assert [a.text for a in prediction.n_best].count("river") == 1
    assert (prediction.n_best[0].text, prediction.n_best[0].start) == ("river", 10)


@pytest.mark.parametrize(
    ("threshold", "text"), [(0.0, ""), (0.49, ""), (0.5, "old river"), (2.0, "old river")]
)
def test_no_answer_if_the_odds_are_above_the_threshold(
    tiny_tokenizer: WordPieceTokenizer, threshold: float, text: str
) -> None:
    """[CLS] 1 + 2 = 3, "old river" 2 + 0.5 = 2.5: null odds of 0.5."""
    one = example("the old river")
    scores = by_hand([1, -5, 2, -5], [2, -5, -5, 0.5])
    where = context(tiny_tokenizer, null_threshold=threshold)
    prediction = predict_one(Spans(True), one, [scores], where)
    assert prediction.null_odds == 0.5
    assert (prediction.text, prediction.best) == (text, "old river")
    null, best = prediction.n_best[:2]
    assert (null.text, null.start_logit, null.end_logit, null.start, null.end) == ("", 1, 2, 0, 0)
    assert null.probability / best.probability == pytest.approx(math.exp(0.5))


def test_the_least_sure_window_decides_on_no_answer(tiny_tokenizer: WordPieceTokenizer) -> None:
    where = context(tiny_tokenizer, 7, doc_stride=2)
    windows = [by_hand([4, 0, 0], [4, 0, 0]), by_hand([1, 1, 0], [1, 0, 0])]
    prediction = predict_one(Spans(True), example("the old river watched"), windows, where)
    # Windows "the old" and "river watched": min(8, 2) - max(0, 1).
    assert prediction.null_odds == 1


def test_a_token_counts_in_the_window_with_most_context(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    """Windows of the first and of the last 6 of 8 words: "watched", the fifth, is the second's."""
    text = " ".join(WORDS[:8])
    where = context(tiny_tokenizer, 11, doc_stride=2)
    assert WORDS[4] == "watched"
    ends = [0, 0, 0, 0, 0, 0, 0]
    first, second = by_hand([0, 0, 0, 0, 0, 7, 0], ends), by_hand([0, 0, 0, 1, 0, 0, 0], ends)
    prediction = predict_one(Spans(False), example(text, "old"), [first, second], where)
    best = prediction.n_best[0]
    assert best.text.startswith("watched")
    assert best.start_logit == 1


def test_scores_that_are_not_finite_name_the_question(tiny_tokenizer: WordPieceTokenizer) -> None:
    where = context(tiny_tokenizer)
    for bad in (np.nan, np.inf, -np.inf):
        scores = by_hand([0, 0, 0, bad], [0, 0, 0, 0])
        with pytest.raises(UserError, match="scores for question q7 are not finite"):
            predict_one(Spans(True), example("the old river", id="q7"), [scores], where)


@pytest.mark.parametrize("text", ["", " \t\u200b"])
def test_a_context_without_tokens_has_no_answer(
    tiny_tokenizer: WordPieceTokenizer, text: str
) -> None:
    where = context(tiny_tokenizer, null_threshold=1000.0)
    for family in (Spans(True), Spans(False)):
        one = example(text, gold=None)
        encoded = family.encode([one], where)
        assert encoded.counts == {"with a context without a token, answered with nothing": 1}
        (prediction,) = family.predict([one], encoded.rows, random_scores(encoded.rows), where)
        assert prediction.text == prediction.best == ""
        assert [a.text for a in prediction.n_best] == [""]
        assert math.isfinite(prediction.null_odds)


def test_a_context_of_a_hundred_thousand_characters(tiny_tokenizer: WordPieceTokenizer) -> None:
    text = f"{'the old river ' * 7_143}bridge before dawn"
    assert len(text) > 100_000
    one = example(text, "bridge")
    where = context(tiny_tokenizer, 384)
    assert predict_one(Spans(False), one, perfect, where).best == "bridge"


@pytest.mark.parametrize("name", ["doc_stride", "max_query_length", "max_answer_length", "n_best"])
def test_options_below_one_are_refused(tiny_tokenizer: WordPieceTokenizer, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} 0: give at least 1"):
        Spans(True).encode([example()], context(tiny_tokenizer, **{name: 0}))


def test_a_question_without_answer_needs_a_task_that_takes_it(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    with pytest.raises(UserError, match=r"dev\.json: q: a question without an answer; squad2"):
        Spans(False).encode([example()], context(tiny_tokenizer))


class _Pieces:
    """A tokenizer of which some tokens stand for white space alone, as SentencePiece's ▁ does."""

    cls_id, sep_id = 0, 1

    def encode(self, text: str) -> list[int]:
        return []

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        return [2, 3, 2, 4], [(1, 1), (1, 2), (3, 3), (3, 4)]


def test_tokens_of_white_space_alone_neither_begin_nor_end_an_answer() -> None:
    where = context(_Pieces(), max_answer_length=2)
    scores = np.zeros((7, 2), np.float32)
    scores[[2, 4]] = 5
    prediction = predict_one(Spans(False), example(" a b", "a"), [scores], where)
    assert {a.text for a in prediction.n_best} == {"a", "b"}


def test_an_untrained_model_answers_every_question_of_squad_1(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    """The 20 best firsts and lasts alone might all be in the question, or in the wrong order."""
    where = context(tiny_tokenizer, 64)
    one = example(question=" ".join(["lantern"] * 40), gold=(("old", 10),))
    family = Spans(False)
    (row,) = family.encode([one], where).rows
    scores = np.zeros((len(row.ids), 2), np.float32)
    scores[: row.length_a] = 5
    scores[row.length_a :, 0] = np.arange(len(row.ids) - row.length_a)
    scores[row.length_a :, 1] = -np.arange(len(row.ids) - row.length_a)
    (prediction,) = family.predict([one], [row], [scores], where)
    assert prediction.text


# --- Scores and files -----------------------------------------------------------------------


@pytest.fixture
def five(tiny_tokenizer: WordPieceTokenizer) -> tuple[list[Example], list[Prediction], Context]:
    """Two questions with and three without an answer, with the null odds of CASES."""
    asked = [
        example("the old river", "old", id="a"),
        example("the old river", "river", id="b"),
        example("the old river", id="c"),
        example("the old river", id="d"),
        example("the old river", id="e"),
    ]
    family, where = Spans(True), context(tiny_tokenizer)
    rows = family.encode(asked, where).rows
    # Each best answer, "river" to b and "old" to the others, has a score of 5.
    outputs = [by_hand([5 + odds, *start], [0] * 4) for odds, start in CASES]
    return asked, family.predict(asked, rows, outputs, where), where


# Null odds, and the scores of being the first token.
CASES = [(-3, [0, 5, 0]), (1, [0, 0, 5]), (2, [0, 5, 0]), (-2, [0, 5, 0]), (3, [0, 5, 0])]


def test_scores_at_the_threshold_and_at_the_best(
    five: tuple[list[Example], list[Prediction], Context],
) -> None:
    asked, predictions, _ = five
    assert [p.null_odds for p in predictions] == [-3, 1, 2, -2, 3]
    assert [p.text for p in predictions] == ["old", "", "", "old", ""]
    scores = Spans(True).score(asked, predictions)
    # Right at 0: a, c and e; d is answered, b is not. Right at -3: a, c, d and e.
    assert scores["exact"] == scores["f1"] == 60
    assert scores["HasAns_exact"] == 50
    assert scores["NoAns_exact"] == pytest.approx(200 / 3)
    assert scores["best_exact"] == scores["best_f1"] == 80
    assert scores["best_exact_thresh"] == scores["best_f1_thresh"] == -3
    assert "exact_at_0" not in scores


@pytest.mark.parametrize(
    ("threshold", "texts", "exact"),
    [(1.0, ["old", "river", "", "old", ""], 80), (-5.0, [""] * 5, 60)],
)
def test_scores_at_0_and_at_the_best_threshold_are_there_whatever_is_given(
    five: tuple[list[Example], list[Prediction], Context],
    tiny_tokenizer: WordPieceTokenizer,
    threshold: float,
    texts: list[str],
    exact: float,
) -> None:
    asked, _, _ = five
    where = context(tiny_tokenizer, null_threshold=threshold)
    rows = Spans(True).encode(asked, where).rows
    outputs = [by_hand([5 + odds, *start], [0] * 4) for odds, start in CASES]
    predictions = Spans(True).predict(asked, rows, outputs, where)
    assert [p.text for p in predictions] == texts
    scores = Spans(True).score(asked, predictions)
    assert (scores["exact"], scores["best_exact"]) == (exact, 80)
    assert scores["exact_at_0"] == scores["f1_at_0"] == 60


def test_a_perfect_model_is_always_right(tiny_tokenizer: WordPieceTokenizer) -> None:
    """Also over several windows, and with every answer of two or three words."""
    asked = [
        example(TEXT, " ".join(WORDS[i : i + n]), id=f"{i} {n}") for i in range(10) for n in (2, 3)
    ]
    for length in (32, 11):
        where = context(tiny_tokenizer, length, doc_stride=2)
        family = Spans(False)
        rows = family.encode(asked, where).rows
        predictions = family.predict(asked, rows, perfect(rows), where)
        scores = family.score(asked, predictions)
        assert scores["exact_match"] == scores["f1"] == 100


def test_files_are_what_the_official_scorers_read(
    five: tuple[list[Example], list[Prediction], Context],
) -> None:
    asked, predictions, where = five
    files = Spans(True).files("dev", asked, predictions, where)
    contents = {name: json.loads(content) for name, content in files.items()}
    assert set(contents) == {"predictions-dev.json", "nbest-dev.json", "null_odds-dev.json"}
    assert contents["predictions-dev.json"] == {"a": "old", "b": "", "c": "", "d": "old", "e": ""}
    assert contents["null_odds-dev.json"] == {"a": -3, "b": 1, "c": 2, "d": -2, "e": 3}
    first = contents["nbest-dev.json"]["a"][0]
    assert first.pop("probability") == pytest.approx(predictions[0].n_best[0].probability)
    assert first == {"text": "old", "start_logit": 5, "end_logit": 0, "start": 4, "end": 7}
    one = [predictions[0]]
    assert set(Spans(False).files("test", asked[:1], one, where)) == {
        "predictions-test.json",
        "nbest-test.json",
    }


def test_answers_and_collapse(five: tuple[list[Example], list[Prediction], Context]) -> None:
    _, predictions, where = five
    assert [prediction.text for prediction in predictions] == ["old", "", "", "old", ""]
    assert not Spans(True).collapsed(predictions, where)
    assert Spans(True).collapsed(predictions[1:3], where)


def test_there_are_no_labels_to_learn() -> None:
    assert Spans(True).find_labels([example()]) == []
