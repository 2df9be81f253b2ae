"""Multiple choice: a row for every choice, probabilities over an example's own choices."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest

from bertjax.data import rows as data_rows
from bertjax.errors import UserError
from bertjax.tasks.base import Context, Options
from bertjax.tasks.choice import Choice, Example, Prediction
from bertjax.text.tokenizer import WordPieceTokenizer

FAMILY = Choice()


def example(*choices: str, context: str = "the old river", gold: int | None = 1) -> Example:
    return Example(context, choices, gold, "dev.jsonl:17")


TWO, THREE = example("found", "watched"), example("a", "the village", "the lantern", gold=2)


def context(tokenizer: WordPieceTokenizer, max_seq_length: int = 16) -> Context:
    return Context(tokenizer, [], Options(max_seq_length=max_seq_length))


def predict(examples: list[Example], scores: Any, where: Context) -> list[Prediction]:
    outputs = [np.array(row, np.float32) for row in scores]
    return FAMILY.predict(examples, FAMILY.encode(examples, where).rows, outputs, where)


# --- Rows -----------------------------------------------------------------------------------


def test_every_choice_is_a_row_with_the_context(tiny_tokenizer: WordPieceTokenizer) -> None:
    t = tiny_tokenizer
    encoded = FAMILY.encode([TWO, THREE], context(t))
    first = [t.cls_id, *t.encode("the old river"), t.sep_id]
    texts = ["found", "watched", None, "a", "the village", "the lantern"]
    assert encoded.choices == 3
    assert [row.ids for row in encoded.rows] == [
        [] if text is None else [*first, *t.encode(text), t.sep_id] for text in texts
    ]
    assert [row.length_a for row in encoded.rows] == [5, 5, 0, 5, 5, 5]
    assert encoded.rows[0].target == 1
    assert encoded.rows[3].target == 2


def test_choices_that_an_example_lacks_are_masked(tiny_tokenizer: WordPieceTokenizer) -> None:
    encoded = FAMILY.encode([TWO, THREE], context(tiny_tokenizer))
    shape = data_rows.Shape("choice", 2, 16, tiny_tokenizer.pad_id, encoded.choices)
    ((numbers, batch),) = data_rows.eval_batches(encoded.rows, shape)
    places = numbers.argsort()
    assert batch["choice_mask"][places].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"][places].tolist() == [1, 2]


def test_the_longer_text_is_cut_from_its_end_and_counted(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    t = tiny_tokenizer
    long = "the small old quiet bright green river"
    encoded = FAMILY.encode(
        [example("a", long), example(long, "a b", context=long), TWO], context(t, 10)
    )
    # Room for 7 tokens.
    a, b = t.encode("the old river"), t.encode(long)
    c, s = t.cls_id, t.sep_id
    assert [row.ids for row in encoded.rows[:4]] == [
        [c, *a, s, *t.encode("a"), s],
        [c, *a, s, *b[:4], s],
        [c, *b[:4], s, *b[:3], s],
        [c, *b[:5], s, *t.encode("a b"), s],
    ]
    assert encoded.rows[3].length_a == 7
    assert encoded.counts == {"cut at 10 tokens": 2}


def test_empty_texts_are_counted(tiny_tokenizer: WordPieceTokenizer) -> None:
    encoded = FAMILY.encode(
        [example("", "a"), example("a", "b", context="")], context(tiny_tokenizer)
    )
    assert encoded.counts == {"empty text": 2}


def test_no_room_is_refused(tiny_tokenizer: WordPieceTokenizer) -> None:
    with pytest.raises(UserError, match="max_seq_length 7 is too short; use at least 8"):
        FAMILY.encode([TWO], context(tiny_tokenizer, 7))


# --- Predictions ----------------------------------------------------------------------------


def test_probabilities_are_over_an_examples_own_choices(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    scores = [[np.log(1), np.log(3), -1e9], [0, np.log(2), 0]]
    two, three = predict([TWO, THREE], scores, context(tiny_tokenizer))
    assert (two.number, three.number) == (1, 1)
    np.testing.assert_allclose(two.probabilities, [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(three.probabilities, [0.25, 0.5, 0.25], rtol=1e-6)


def test_accuracy_by_hand(tiny_tokenizer: WordPieceTokenizer) -> None:
    examples = [TWO, TWO, THREE, THREE]
    scores = [[0, 1, -1e9], [1, 0, -1e9], [0, 0, 1], [-9, -8, -7]]
    predictions = predict(examples, scores, context(tiny_tokenizer))
    assert FAMILY.score(examples, predictions) == {"accuracy": 0.75}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_name_the_example(
    tiny_tokenizer: WordPieceTokenizer, bad: float
) -> None:
    with pytest.raises(UserError, match=r"dev\.jsonl:17: the model's scores are not finite"):
        predict([TWO], [[0, bad]], context(tiny_tokenizer))


def test_the_file_holds_predictions_and_texts(tiny_tokenizer: WordPieceTokenizer) -> None:
    where = context(tiny_tokenizer)
    examples = [TWO, example("a\tb", "c\n", "d", gold=None)]
    predictions = predict(examples, [[0, np.log(3), -1e9], [9, 0, 0]], where)
    files = FAMILY.files("test", examples, predictions, where)
    assert list(files) == ["predictions-test.tsv"]
    header, *rows = csv.reader(io.StringIO(files["predictions-test.tsv"]), delimiter="\t")
    assert header[:5] == ["index", "prediction", "label", "confidence", "context"]
    assert header[5:] == ["choice0", "p(0)", "choice1", "p(1)", "choice2", "p(2)"]
    texts = ["found", "0.250000", "watched", "0.750000", "", ""]
    assert rows[0] == ["0", "1", "1", "0.7500", "the old river", *texts]
    texts = ["a\tb", "0.999753", "c\n", "0.000123", "d", "0.000123"]
    assert rows[1] == ["1", "0", "", "0.9998", "the old river", *texts]


def test_answers_are_numbers_and_a_constant_one_is_a_collapse(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    where = context(tiny_tokenizer)
    different = predict([TWO, TWO], [[0, 1], [1, 0]], where)
    assert [prediction.number for prediction in different] == [1, 0]
    assert not FAMILY.collapsed(different, where)
    assert FAMILY.collapsed(predict([TWO, TWO], [[0, 1], [2, 3]], where), where)


def test_choices_are_numbers_and_there_are_no_labels_to_learn() -> None:
    assert FAMILY.find_labels([TWO]) == []
