"""Texts and pairs: encoded and cut as in 2018, softmax and numbers back, and what is written."""

from __future__ import annotations

import csv
import io
import random
import time
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from bertjax.errors import UserError
from bertjax.scores import metrics
from bertjax.tasks.base import Context, Encoded, Options
from bertjax.tasks.sentences import Classification, Example, Prediction, Regression, cut_pair
from bertjax.text.tokenizer import WordPieceTokenizer

LABELS = ["dry", "wet"]


def example(text_a: str, text_b: str | None = None, gold: Any = "wet") -> Example:
    return Example(text_a, text_b, gold, "dev.tsv:17")


@pytest.fixture(scope="module")
def family() -> Classification:
    return Classification(metrics.accuracy)


@pytest.fixture(scope="module")
def context(tiny_tokenizer: WordPieceTokenizer) -> Context:
    return Context(tiny_tokenizer, LABELS, Options(max_seq_length=40))


def encode(context: Context, *examples: Example, limit: int = 40) -> Encoded:
    options = Options(max_seq_length=limit)
    return Classification(metrics.accuracy).encode(examples, context._replace(options=options))


# --- Encoding -------------------------------------------------------------------------------


def test_one_text_and_two_texts(context: Context) -> None:
    t = context.tokenizer
    river, old = t.encode("the river"), t.encode("old garden")
    encoded = encode(context, example("the river"), example("the river", "old garden", "dry"))
    single, pair = encoded.rows
    assert single == ([t.cls_id, *river, t.sep_id], 4, 1, None)
    assert pair == ([t.cls_id, *river, t.sep_id, *old, t.sep_id], 4, 0, None)
    assert encoded.counts == {}
    assert encoded.choices == 1


def cut_as_in_2018(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """_truncate_seq_pair of the 2018 code, one token at a time."""
    a, b = list(a), list(b)
    while len(a) + len(b) > room:
        (a if len(a) > len(b) else b).pop()
    return a, b


def test_the_longer_text_is_cut_from_its_end_as_in_2018() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        a, b = ([*range(rng.randint(0, 30))] for _ in range(2))
        room = rng.randint(0, len(a) + len(b))
        assert cut_pair(a, b, room) == cut_as_in_2018(a, b, room)


def test_rows_are_full_where_they_are_cut_and_counted(context: Context) -> None:
    t = context.tokenizer
    long, short = "the small old quiet bright green heavy distant curious river", "a garden"
    a, b = t.encode(long), t.encode(short)
    encoded = encode(context, example(long), example(long, short), example(short), limit=9)
    alone, pair, whole = (row.ids for row in encoded.rows)
    assert alone == [t.cls_id, *a[:7], t.sep_id]
    assert pair == [t.cls_id, *a[:4], t.sep_id, *b, t.sep_id]
    assert whole == [t.cls_id, *b, t.sep_id]
    assert encoded.counts == {"cut at 9 tokens": 2}


def test_what_just_fits_is_not_called_cut(context: Context) -> None:
    assert encode(context, example("the old river the old river"), limit=8).counts == {}


def test_empty_texts_are_rows_and_counted(context: Context) -> None:
    t = context.tokenizer
    river = t.encode("river")
    examples = [example(""), example("river", ""), example("", "river"), example("", "")]
    encoded = encode(context, *examples, example("river"))
    assert [(row.ids, row.length_a) for row in encoded.rows[:4]] == [
        ([t.cls_id, t.sep_id], 2),
        ([t.cls_id, *river, t.sep_id, t.sep_id], 3),
        ([t.cls_id, t.sep_id, *river, t.sep_id], 2),
        ([t.cls_id, t.sep_id, t.sep_id], 2),
    ]
    assert encoded.counts == {"empty text": 4}


def test_a_text_of_100_000_characters_is_cut_in_no_time(context: Context) -> None:
    start = time.perf_counter()
    encoded = encode(context, example("old " * 25_000, "river " * 17_000), example("x" * 100_000))
    assert time.perf_counter() - start < 2
    assert [len(row.ids) for row in encoded.rows] == [40, 3]


def test_what_is_to_be_predicted_has_no_target(context: Context) -> None:
    assert encode(context, example("river", gold=None)).rows[0].target is None


def test_an_unknown_label_is_named_with_file_and_line(context: Context) -> None:
    with pytest.raises(UserError, match=r"^dev\.tsv:17: unknown label 'mud'; .*: dry, wet$"):
        encode(context, example("river", gold="mud"))


def test_no_room_for_a_text(context: Context) -> None:
    with pytest.raises(UserError, match="max_seq_length 7 is too short"):
        encode(context, example("river"), limit=7)


def test_labels_are_those_of_the_training_examples_sorted(family: Classification) -> None:
    golds = ["wet", "dry", "wet"]
    assert family.find_labels([example("a", gold=gold) for gold in golds]) == LABELS
    with pytest.raises(UserError, match=r"^dev\.tsv: only one label, 'wet'"):
        family.find_labels([example("a"), example("b")])


# --- Predictions ----------------------------------------------------------------------------


def predict(family: Classification, context: Context, outputs: Any) -> list[Prediction]:
    examples = [example("river")] * len(outputs)
    return family.predict(examples, [], [np.float32(output) for output in outputs], context)


def test_probabilities_are_the_softmax_of_the_scores(
    family: Classification, context: Context
) -> None:
    outputs = np.random.default_rng(0).normal(0, 3, (50, 2))
    found = predict(family, context, outputs)
    wanted = special.softmax(outputs, axis=1)
    assert np.allclose([p.probabilities for p in found], wanted, atol=1e-6)
    assert [p.label for p in found] == [LABELS[i] for i in outputs.argmax(axis=1)]
    (sure,) = predict(family, context, [[1e4, -1e4]])
    assert sure.probabilities.tolist() == [1, 0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused_with_its_example(
    family: Classification, context: Context, wrong: float
) -> None:
    with pytest.raises(UserError, match=r"^dev\.tsv:17: .* not finite"):
        predict(family, context, [[0, 1], [wrong, 0]])
    with pytest.raises(UserError, match=r"^dev\.tsv:17: .* not finite"):
        Regression().predict([example("river")], [], [np.float32([wrong])], context)


def test_the_score_is_that_of_labels_by_name(context: Context) -> None:
    seen = []

    def score(gold: Any, predicted: Any) -> dict[str, float]:
        seen.append((list(gold), list(predicted)))
        return {"accuracy": 0.5}

    family = Classification(score)
    found = predict(family, context, [[0, 1], [1, 0]])
    assert family.score([example("a"), example("b")], found) == {"accuracy": 0.5}
    assert seen == [(["wet", "wet"], ["wet", "dry"])]


def test_a_model_that_says_always_the_same_has_collapsed(
    family: Classification, context: Context
) -> None:
    assert family.collapsed(predict(family, context, [[0, 1], [2, 3]]), context)
    assert not family.collapsed(predict(family, context, [[0, 1], [1, 0]]), context)
    assert Regression().collapsed([2.5, 2.5 + 1e-7], context)
    assert not Regression().collapsed([2.5, 2.50001], context)


# --- What is written ------------------------------------------------------------------------

ODD = 'a\tb "c"\nd\u2028e'


def read(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content, newline=""), delimiter="\t"))


def test_the_file_holds_texts_labels_and_all_probabilities(
    family: Classification, context: Context
) -> None:
    examples = [example(ODD, "", "dry"), example("river", ODD, None)]
    found = predict(family, context, [[0, 0], [0, np.log(3)]])
    files = family.files("test", examples, found, context)
    assert list(files) == ["predictions-test.tsv"]
    header = "index prediction label confidence text_a text_b p(dry) p(wet)"
    assert files["predictions-test.tsv"].split("\n")[0] == header.replace(" ", "\t")
    assert [list(row.values()) for row in read(files["predictions-test.tsv"])] == [
        ["0", "dry", "dry", "0.5000", ODD, "", "0.500000", "0.500000"],
        ["1", "wet", "", "0.7500", "river", ODD, "0.250000", "0.750000"],
    ]


def test_single_texts_have_no_second_column(family: Classification, context: Context) -> None:
    found = predict(family, context, [[0, 1]])
    (row,) = read(family.files("dev", [example("a")], found, context)["predictions-dev.tsv"])
    assert "text_a" in row
    assert "text_b" not in row


def test_regression_from_target_to_answer(context: Context) -> None:
    family, golds = Regression(), [0.0, 2.5, 5.0, 1.0]
    examples = [example("river", "lantern", gold) for gold in golds]
    encoded = family.encode([*examples, example("river", gold=None)], context)
    assert [row.target for row in encoded.rows] == [*golds, None]
    assert family.find_labels(examples) == []
    found = family.predict(examples, [], list(np.float32([[0.1], [2], [6], [2.25]])), context)
    scores = family.score(examples, found)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(golds, found)[0])
    assert scores["spearman"] == pytest.approx(stats.spearmanr(golds, found)[0])
    rows = read(family.files("dev", examples, found, context)["predictions-dev.tsv"])
    assert list(rows[1].items()) == [
        ("index", "1"),
        ("prediction", "2.000000"),
        ("label", "2.5"),
        ("text_a", "river"),
        ("text_b", "lantern"),
    ]
