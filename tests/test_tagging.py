"""Tagging: every word gets one tag, where it has the most context; nothing is cut or lost."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.data.rows import Row
from bertjax.errors import UserError
from bertjax.scores.entity_scores import entity_scores
from bertjax.tasks.base import Context, Encoded, Options
from bertjax.tasks.conll import read_columns, to_bio2
from bertjax.tasks.tagging import Example, Prediction, Tagging
from bertjax.tasks.word_windows import Window, windows
from bertjax.text.tokenizer import WordPieceTokenizer

LABELS = ("O", "B-PER", "I-PER")
# One, two and several pieces of the tiny vocabulary, and characters that it deletes.
WORDS = ["the", "river", "rivers", "Xyz", "carried", "a", "don't", "\ufe0f", "\u200b", ""]
FAMILY = Tagging()


def sentence(
    words: Sequence[str], tags: Sequence[str] | None = None, document: int = 0, line: int = 1
) -> Example:
    gold = ["O"] * len(words) if tags is None else list(tags)
    return Example(list(words), gold, document, f"dev.conll:{line}")


def sentences(number: int, seed: int = 0) -> list[Example]:
    """Of 1 to 30 words and random tags in BIO2, one to four in a document."""
    rng = random.Random(seed)
    made, document = [], 0
    for line in range(number):
        words = rng.choices(WORDS, k=rng.randint(1, 30))
        document += rng.random() < 0.4
        tags = to_bio2(rng.choices(LABELS, k=len(words)))
        made.append(sentence(words, tags, document, line))
    return made


def make_context(tokenizer: WordPieceTokenizer, **options: Any) -> Context:
    return Context(tokenizer, LABELS, Options(**options))


def true_outputs(rows: Sequence[Row]) -> list[np.ndarray]:
    """Scores that are high for a row's targets; where it has none, for "B-PER"."""
    return [5 * np.eye(3, dtype=np.float32)[[1 if t < 0 else t for t in r.target]] for r in rows]


def predict(examples: Sequence[Example], encoded: Encoded, context: Context) -> list[Prediction]:
    return FAMILY.predict(examples, encoded.rows, true_outputs(encoded.rows), context)


# --- Windows --------------------------------------------------------------------------------


def piece_counts(number: int, longest: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.choice((1, 1, 1, 2, 3, longest)) for _ in range(number)]


def context_in(window: Window, word: int, lengths: Sequence[int]) -> int:
    """Pieces left or right of a word in a window, whichever are fewer; -1 outside of it."""
    if not window.begin <= word < window.end:
        return -1
    return min(sum(lengths[window.begin : word]), sum(lengths[word + 1 : window.end]))


@pytest.mark.parametrize("room", [6, 7, 30, 126])
@pytest.mark.parametrize("number", [1, 5, 127, 1000])
def test_every_word_is_its_windows_own_once_where_it_has_most_context(
    number: int, room: int
) -> None:
    lengths = piece_counts(number, room // 2, seed=room)
    found = windows(lengths, room)
    own = [word for w in found for word in range(w.first, w.last)]
    assert own == list(range(number))
    for window in found:
        assert sum(lengths[window.begin : window.end]) <= room
        for word in range(window.first, window.last):
            near = [w for w in found if w.begin <= word < w.end]
            most = max(context_in(w, word, lengths) for w in near)
            assert context_in(window, word, lengths) == most


@pytest.mark.parametrize("number", [127, 200, 1000])
def test_a_word_has_a_quarter_of_the_row_on_both_sides_or_the_end_of_the_text(number: int) -> None:
    for window in windows([1] * number, 126):
        for word in range(window.first, window.last):
            assert window.begin == 0 or word - window.begin >= 126 // 4
            assert window.end == number or window.end - 1 - word >= 126 // 4


def test_a_text_that_has_room_is_one_window_and_the_last_of_many_is_full() -> None:
    assert windows([1] * 126, 126) == [Window(0, 126, 0, 126)]
    assert windows([], 126) == []
    assert [(w.begin, w.end) for w in windows([1] * 130, 126)] == [(0, 126), (4, 130)]


# --- Encoding -------------------------------------------------------------------------------


def test_the_target_stands_on_a_words_first_piece(tiny_tokenizer: WordPieceTokenizer) -> None:
    example = sentence(["The", "rivers", "carried"], ["O", "B-PER", "I-PER"])
    (row,) = FAMILY.encode([example], make_context(tiny_tokenizer)).rows
    pieces = tiny_tokenizer.pieces(row.ids)
    assert pieces == ["[CLS]", "the", "river", "##s", "carried", "[SEP]"]
    assert row.target == [-1, 0, 1, -1, 2, -1]
    assert row.length_a == len(row.ids)


@pytest.mark.parametrize("document_context", [False, True])
@pytest.mark.parametrize("max_seq_length", [8, 16, 64])
def test_what_is_predicted_at_the_targets_are_the_tags_of_all_words(
    max_seq_length: int, document_context: bool, tiny_tokenizer: WordPieceTokenizer
) -> None:
    """Also of words of which the tokenizer leaves nothing, and of a sentence without words."""
    examples = [*sentences(60), sentence([], document=99)]
    context = make_context(
        tiny_tokenizer, max_seq_length=max_seq_length, document_context=document_context
    )
    encoded = FAMILY.encode(examples, context)
    assert max(len(row.ids) for row in encoded.rows) <= max_seq_length
    targets = sum(tag >= 0 for row in encoded.rows for tag in row.target)
    assert targets == sum(len(example.words) for example in examples)
    assert [p.tags for p in predict(examples, encoded, context)] == [e.gold for e in examples]


def test_a_sentence_of_a_thousand_words_loses_none(tiny_tokenizer: WordPieceTokenizer) -> None:
    rng = random.Random(0)
    example = sentence(rng.choices(WORDS[:6], k=1000), to_bio2(rng.choices(LABELS, k=1000)))
    context = make_context(tiny_tokenizer, max_seq_length=64)
    encoded = FAMILY.encode([example], context)
    assert len(encoded.rows) > 20
    assert encoded.counts == {"over 64 tokens, in several windows": 1}
    assert predict([example], encoded, context)[0].tags == example.gold


def test_words_of_nothing_are_unknown_and_counted(tiny_tokenizer: WordPieceTokenizer) -> None:
    examples = [sentence(["the", "\ufe0f", "river"]), sentence(["", "\ufe0f"])]
    encoded = FAMILY.encode(examples, make_context(tiny_tokenizer))
    pieces = [tiny_tokenizer.pieces(row.ids)[1:-1] for row in encoded.rows]
    assert pieces == [["the", "[UNK]", "river"], ["[UNK]", "[UNK]"]]
    assert encoded.counts == {"words read as [UNK], nothing is left of them": 3}


def test_a_word_of_many_pieces_keeps_the_first_and_leaves_room_for_others(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    example = sentence(["the", "!" * 1000, "river"], LABELS)
    context = make_context(tiny_tokenizer, max_seq_length=16)
    encoded = FAMILY.encode([example], context)
    (row,) = encoded.rows
    assert tiny_tokenizer.pieces(row.ids)[1:-1] == ["the", *"!" * 7, "river"]
    assert encoded.counts == {"words cut at 7 pieces": 1}
    assert predict([example], encoded, context)[0].tags == list(LABELS)


def test_without_gold_there_is_nothing_to_learn(tiny_tokenizer: WordPieceTokenizer) -> None:
    example = sentence(["the", "river"])._replace(gold=None)
    (row,) = FAMILY.encode([example], make_context(tiny_tokenizer)).rows
    assert row.target == [-1] * 4


def test_errors_name_the_sentence_and_the_mend(tiny_tokenizer: WordPieceTokenizer) -> None:
    strange = sentence(["the", "river"], ["O", "B-LOC"], line=17)
    with pytest.raises(UserError, match="dev.conll:17: unknown tag 'B-LOC' of 'river'.*I-PER"):
        FAMILY.encode([strange], make_context(tiny_tokenizer))
    with pytest.raises(UserError, match="max_seq_length 7 is too short"):
        FAMILY.encode([], make_context(tiny_tokenizer, max_seq_length=7))


# --- Document context -----------------------------------------------------------------------


def test_context_is_that_of_the_document_alone(tiny_tokenizer: WordPieceTokenizer) -> None:
    """Every document has a word of its own: no row holds those of two, and each fills its row."""
    nouns = ["river", "farmer", "garden"]
    examples = [sentence([nouns[d]] * n, document=d) for d in range(3) for n in (3, 20, 1, 9)]
    context = make_context(tiny_tokenizer, max_seq_length=16, document_context=True)
    encoded = FAMILY.encode(examples, context)
    for row in encoded.rows:
        assert len(row.ids) == 16
        assert len(set(row.ids[1:-1])) == 1
    assert not encoded.counts


def test_a_short_sentence_is_read_with_its_neighbours(tiny_tokenizer: WordPieceTokenizer) -> None:
    examples = [
        sentence(["the", "river"]),
        sentence(["carried"], ["B-PER"]),
        sentence(["a", "letter"]),
        sentence(["before"], document=1),
    ]
    context = make_context(tiny_tokenizer, document_context=True)
    encoded = FAMILY.encode(examples, context)
    texts = [tiny_tokenizer.decode(row.ids) for row in encoded.rows]
    assert texts == ["the river carried a letter", "before"]
    assert encoded.counts == {"alone in their document, without context": 1}
    assert predict(examples, encoded, context)[1].tags == ["B-PER"]


def test_a_file_that_tells_of_no_documents_is_one(tiny_tokenizer: WordPieceTokenizer) -> None:
    examples = [sentence(words)._replace(document=None) for words in (["the", "river"], ["a"])]
    apart = FAMILY.encode(examples, make_context(tiny_tokenizer))
    assert (len(apart.rows), apart.counts) == (2, {})
    encoded = FAMILY.encode(examples, make_context(tiny_tokenizer, document_context=True))
    assert [tiny_tokenizer.decode(row.ids) for row in encoded.rows] == ["the river a"]
    assert encoded.counts == {"read as one document, for no -DOCSTART- line parts them": 2}


def test_document_context_reads_every_document_about_twice(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    examples = [sentence(["river"] * 20) for _ in range(50)]
    context = make_context(tiny_tokenizer, document_context=True)
    read = sum(len(row.ids) for row in FAMILY.encode(examples, context).rows)
    assert 1.8 < read / 1000 < 2.2


# --- Labels and scores ----------------------------------------------------------------------


def test_labels_are_sorted_after_o_and_types_are_whole() -> None:
    examples = [sentence("ab", ["I-PER", "B-LOC"]), sentence("a", ["O"])]
    assert FAMILY.find_labels(examples) == ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
    singles = [sentence("abc", ["S-X", "E-Y", "O"])]
    assert FAMILY.find_labels(singles) == ["O", *(f"{p}-{t}" for p in "BEIS" for t in "XY")]
    assert FAMILY.find_labels([sentence("ab", ["NN", "-LRB-"])]) == ["-LRB-", "NN"]
    assert FAMILY.find_labels([sentence("ab", ["", "O"])]) == ["O", ""]
    bilou = [sentence("ab", ["U-X", "O"])]
    assert FAMILY.find_labels(bilou) == ["O", "B-X", "I-X", "U-X"]
    with pytest.raises(UserError, match="only one tag, O; a task needs at least two"):
        FAMILY.find_labels([sentence("ab", ["O", "O"])])


def test_scores_are_the_scorers() -> None:
    examples = sentences(20)
    guesses = [random.Random(1).choices(LABELS, k=len(e.words)) for e in examples]
    found = FAMILY.score(examples, [Prediction(tags, []) for tags in guesses])
    wanted = entity_scores([e.gold or [] for e in examples], guesses)
    assert found == {name: wanted[name] for name in found}
    assert list(found) == ["f1", "precision", "recall", "token_accuracy", "strict_f1"]


def test_of_iob1_there_is_no_strict_score_and_that_is_told(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    """There an I begins most entities, which BIO2 does not take for any."""
    examples = [sentence("abc", ["I-PER", "I-PER", "O"]), sentence("ab", ["B-PER", "I-PER"])]
    predictions = [Prediction(example.gold or [], []) for example in examples]
    found = FAMILY.score(examples, predictions)
    assert found == {"f1": 1, "precision": 1, "recall": 1, "token_accuracy": 1}
    assert FAMILY.score(examples[1:], predictions[1:])["strict_f1"] == 1
    told = FAMILY.encode(examples, make_context(tiny_tokenizer)).counts
    assert told == {"in IOB1, where an I- may begin an entity, so without strict_f1": 1}


def test_parts_of_speech_are_scored_by_their_accuracy() -> None:
    found = FAMILY.score([sentence("abcd", ["NN", "O", "DT", "NN"])], [Prediction(["NN"] * 4, [])])
    assert set(found.values()) == {0.5}


def test_tags_without_a_type_are_of_entities_where_only_o_is_beside_them() -> None:
    examples = [sentence("abcd", ["B", "I", "O", "B"])]
    found = FAMILY.score(examples, [Prediction(["B", "O", "O", "B"], [])])
    assert (found["f1"], found["token_accuracy"]) == (0.5, 0.75)
    assert FAMILY.find_labels([sentence("ab", ["O", "B"])]) == ["O", "B", "I"]
    # A part of speech may be called so, too.
    spoken = [sentence("abcd", ["NN", "I", "O", "B"])]
    assert set(FAMILY.score(spoken, [Prediction(["NN", "NN", "O", "B"], [])]).values()) == {0.75}
    assert FAMILY.find_labels(spoken) == ["O", "B", "I", "NN"]


def test_without_an_entity_in_gold_nothing_is_found() -> None:
    found = FAMILY.score([sentence("ab")], [Prediction(["O", "B-PER"], [])])
    assert (found["f1"], found["token_accuracy"]) == (0, 0.5)


# --- Predictions ----------------------------------------------------------------------------


def test_a_tag_has_the_probability_of_the_softmax(tiny_tokenizer: WordPieceTokenizer) -> None:
    context = make_context(tiny_tokenizer)
    examples = [sentence(["the", "river"])]
    rows = FAMILY.encode(examples, context).rows
    scores = np.zeros((4, 3), np.float32)
    scores[2] = [900, 900 - np.log(2), 0]
    (found,) = FAMILY.predict(examples, rows, [scores], context)
    assert found.tags == ["O", "O"]
    assert found.probabilities == pytest.approx([1 / 3, 2 / 3], rel=1e-4)


def test_a_broken_model_is_told_by_its_sentence(tiny_tokenizer: WordPieceTokenizer) -> None:
    context = make_context(tiny_tokenizer)
    examples = [sentence(["the"]), sentence(["the", "river"], line=17)]
    rows = FAMILY.encode(examples, context).rows
    outputs = true_outputs(rows)
    outputs[1][2, 0] = np.nan
    with pytest.raises(UserError, match="dev.conll:17: .*not finite"):
        FAMILY.predict(examples, rows, outputs, context)


def test_a_word_without_a_prediction_is_no_result(tiny_tokenizer: WordPieceTokenizer) -> None:
    context = make_context(tiny_tokenizer)
    examples = [sentence(["the"]), sentence(["the", "river"])]
    rows = FAMILY.encode(examples, context).rows[:1]
    with pytest.raises(AssertionError):
        FAMILY.predict(examples, rows, true_outputs(rows), context)


def test_collapsed_is_the_same_tag_everywhere(tiny_tokenizer: WordPieceTokenizer) -> None:
    context = make_context(tiny_tokenizer)
    nothing, one = Prediction(["O", "O"], []), Prediction(["O", "I-PER"], [])
    assert FAMILY.collapsed([nothing, nothing], context)
    # As of a tagger of parts of speech that has learnt the commonest alone.
    assert FAMILY.collapsed([Prediction(["NOUN", "NOUN"], []), Prediction(["NOUN"], [])], context)
    assert not FAMILY.collapsed([nothing, one], context)


# --- Files ----------------------------------------------------------------------------------


def test_conlleval_gets_three_columns_for_every_word(
    tiny_tokenizer: WordPieceTokenizer, tmp_path: Path
) -> None:
    """The words' own white space would be columns: it is not written."""
    examples = [
        sentence(["New York", "\u2028", ""], ["B-PER", "O", "O"]),
        sentence(["\ufe0f"], ["B-PER"]),
    ]
    predictions = [Prediction(["O", "O", "I-PER"], [0.5] * 3), Prediction(["B-PER"], [0.9])]
    files = FAMILY.files("dev", examples, predictions, make_context(tiny_tokenizer))
    text = files["predictions-dev.conll"]
    assert text == "New_York B-PER O\n_ O O\n_ O I-PER\n\n\ufe0f B-PER B-PER\n"
    path = tmp_path / "predictions.conll"
    path.write_text(text, encoding="utf-8")
    assert [e.gold for e in read_columns(path)] == [p.tags for p in predictions]


def test_scores_by_type_are_written_where_gold_has_entities(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    examples = [sentence(["a", "b", "c"], ["B-PER", "O", "B-LOC"])]
    predictions = [Prediction(["B-PER", "O", "B-PER"], [1.0] * 3)]
    context = make_context(tiny_tokenizer)

    def written(gold: list[str] | None) -> str | None:
        some = [example._replace(gold=gold) for example in examples]
        return FAMILY.files("dev", some, predictions, context).get("by_type-dev.json")

    found = json.loads(written(examples[0].gold) or "")
    assert found["PER"] == {"f1": 2 / 3, "precision": 0.5, "recall": 1.0, "entities": 1}
    assert found["LOC"] == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "entities": 1}
    assert written(None) is None and written(["NOUN", "VERB", "NOUN"]) is None


def test_words_to_be_tagged_are_written_with_their_tags(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    examples = [e._replace(gold=None) for e in (sentence(["the", "river"]), sentence(["a"]))]
    predictions = [Prediction(["O", "B-PER"], [1.0, 0.25]), Prediction(["O"], [1 / 3])]
    files = FAMILY.files("test", examples, predictions, make_context(tiny_tokenizer))
    assert files["predictions-test.conll"] == "the O\nriver B-PER\n\na O\n"
    records = [json.loads(line) for line in files["predictions-test.jsonl"].splitlines()]
    assert records == [
        {
            "words": ["the", "river"],
            "gold": None,
            "predicted": ["O", "B-PER"],
            "probabilities": [1.0, 0.25],
        },
        {"words": ["a"], "gold": None, "predicted": ["O"], "probabilities": [0.333333]},
    ]
