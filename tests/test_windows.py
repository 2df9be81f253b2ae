"""Questions as rows: windows that lose nothing, targets at characters, each context read once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.tasks import windows
from bertjax.tasks.base import Context, Options
from bertjax.tasks.windows import Example
from bertjax.text.tokenizer import WordPieceTokenizer

# Twelve words of the tiny vocabulary, so of one token each; every one is there once.
TEXT = "the small old river watched a quiet garden before dawn every winter"
WORDS = TEXT.split()


def example(
    context: str = TEXT,
    *answers: str,
    question: str = "that lantern",
    gold: tuple[tuple[str, int], ...] | None = (),
) -> Example:
    """`answers` stand where they first occur in the context; without them `gold` counts."""
    found = tuple((answer, context.index(answer)) for answer in answers)
    return Example("q7", question, context, found or gold, "dev.json: data[0]")


def context(tokenizer: Any, max_seq_length: int = 32, **options: Any) -> Context:
    return Context(tokenizer, [], Options(max_seq_length=max_seq_length, **options))


# --- Windows --------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 3, 7, 20])
@pytest.mark.parametrize("stride", [1, 2, 5, 100])
@pytest.mark.parametrize("num_tokens", [0, 1, 7, 8, 23])
def test_windows_step_by_the_stride_and_leave_no_token_out(
    num_tokens: int, room: int, stride: int
) -> None:
    found = windows.windows(num_tokens, room, stride)
    assert {i for begin, end in found for i in range(begin, end)} == set(range(num_tokens))
    assert all(end - begin == room for begin, end in found[:-1])
    assert found[-1][1] - found[-1][0] <= room
    # A stride beyond the window's end would leave a gap.
    begins = [begin for begin, _ in found]
    assert begins == list(range(0, len(found) * min(stride, room), min(stride, room)))
    # The last window is the first that reaches the end.
    assert all(end < num_tokens for _, end in found[:-1])


def test_most_context_in_the_example_of_the_2018_code() -> None:
    """A: the man went to the / B: to the store and bought / C: and bought a gallon of."""
    owner = windows.max_context([(0, 5), (3, 8), (6, 11)])
    text = "the man went to the store and bought a gallon of"
    assert dict(zip(text.split(), owner, strict=True))["bought"] == 2


@pytest.mark.parametrize("seed", range(20))
def test_most_context_is_the_lesser_side_and_a_hundredth_of_the_length(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # A hundredth tells only of windows whose lengths differ by a hundred tokens.
    num_tokens, room, stride = (int(rng.integers(1, limit)) for limit in (900, 400, 200))
    found = windows.windows(num_tokens, room, stride)
    owner = windows.max_context(found)
    for token, window in enumerate(owner):
        scores = [
            min(token - begin, end - 1 - token) + 0.01 * (end - begin)
            if begin <= token < end
            else -1
            for begin, end in found
        ]
        assert window == scores.index(max(scores))


def test_every_token_is_its_own_in_one_window(tiny_tokenizer: WordPieceTokenizer) -> None:
    rows = windows.encode([example()], context(tiny_tokenizer, 11, doc_stride=2)).rows
    assert len(rows) > 2
    own = np.concatenate([row.note.offsets[row.note.own] for row in rows])
    assert [TEXT[begin:end] for begin, end in own] == WORDS


# --- Rows -----------------------------------------------------------------------------------


def test_a_row_is_cls_question_sep_window_sep(tiny_tokenizer: WordPieceTokenizer) -> None:
    t = tiny_tokenizer
    encoded = windows.encode([example()], context(t, 11, doc_stride=4))
    asked, ids = t.encode("that lantern"), t.encode(TEXT)
    assert encoded.choices == 1
    assert encoded.counts == {"in several windows": 1}
    assert [row.ids for row in encoded.rows] == [
        [t.cls_id, *asked, t.sep_id, *ids[begin:end], t.sep_id]
        for begin, end in ((0, 6), (4, 10), (8, 12))
    ]
    assert all(row.length_a == 4 for row in encoded.rows)


def test_windows_without_the_whole_answer_have_cls_as_target(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    """As in 2018: all windows are trained on."""
    where = context(tiny_tokenizer, 11, doc_stride=4)
    targets = [row.target for row in windows.encode([example(TEXT, "a quiet")], where).rows]
    # Tokens 5 and 6: the first window ends between them.
    assert targets == [(0, 0), (4 + 1, 4 + 2), (0, 0)]


def test_only_the_first_right_answer_is_a_target(tiny_tokenizer: WordPieceTokenizer) -> None:
    (row,) = windows.encode([example(TEXT, "old river", "old")], context(tiny_tokenizer)).rows
    assert row.target == (4 + 2, 4 + 3)


def test_an_answer_within_a_word_has_its_pieces_as_target(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    """garden ##er: the answer "garden" is the first piece alone; "arde" is all of it, too."""
    t = tiny_tokenizer
    text = "the gardener watched"
    assert t.pieces(t.encode(text)) == ["the", "garden", "##er", "watched"]
    for answer, target in (("garden", (5, 5)), ("arde", (5, 5)), ("ner", (5, 6)), ("er", (6, 6))):
        (row,) = windows.encode([example(text, answer)], context(t)).rows
        assert row.target == target


def test_no_answer_is_cls_and_an_unknown_one_is_no_target(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    rows = windows.encode([example(), example(gold=None)], context(tiny_tokenizer)).rows
    assert [row.target for row in rows] == [(0, 0), None]


def test_an_answer_is_moved_to_the_nearest_place_of_its_text(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    text = "river old river old river"
    starts = (10, 0, 6, 11, 19, 20, 25, 1000, -1)
    places = [windows.nearest(text, "river", start) for start in starts]
    assert places == [10, 0, 10, 10, 20, 20, 20, 20, 0]
    assert windows.nearest(text, "garden", 3) is None
    moved = example(text, gold=(("river", 11),))
    encoded = windows.encode([moved], context(tiny_tokenizer))
    assert encoded.rows[0].target == (4 + 2, 4 + 2)
    assert encoded.counts == {"with an answer moved to where its text stands": 1}


def test_an_answer_that_is_not_in_the_context_is_counted_and_no_target(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    lost = example(gold=(("bridge", 3),))
    encoded = windows.encode([lost], context(tiny_tokenizer, 11, doc_stride=4))
    assert [row.target for row in encoded.rows] == [None] * 3
    assert encoded.counts["with an answer that is not in the context"] == 1


def test_texts_without_a_token_are_counted(tiny_tokenizer: WordPieceTokenizer) -> None:
    encoded = windows.encode([example(question=""), example(" ")], context(tiny_tokenizer))
    assert encoded.counts == {
        "with a question without a token": 1,
        "with a context without a token, answered with nothing": 1,
    }


def test_a_long_question_is_cut_and_counted(tiny_tokenizer: WordPieceTokenizer) -> None:
    t = tiny_tokenizer
    asked = example(question=TEXT)
    encoded = windows.encode([asked], context(t, max_query_length=3))
    assert encoded.rows[0].ids[1:5] == [*t.encode("the small old"), t.sep_id]
    assert encoded.counts == {"with a question cut at 3 tokens": 1}


def test_a_question_that_leaves_no_room_is_named(tiny_tokenizer: WordPieceTokenizer) -> None:
    asked = example(question=TEXT)
    with pytest.raises(
        UserError,
        match=r"data\[0\]: a question of 12 tokens leaves no room .* max_seq_length 15; raise that "
        r"or lower max_query_length \(64\)",
    ):
        windows.encode([asked], context(tiny_tokenizer, 15))
    assert len(windows.encode([asked], context(tiny_tokenizer, 16, doc_stride=1)).rows) == 12


def test_a_context_is_encoded_once_for_all_its_questions(
    tiny_tokenizer: WordPieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, seen = tiny_tokenizer.encode_with_offsets, []

    def counted(text: str) -> Any:
        seen.append(text)
        return encode(text)

    monkeypatch.setattr(tiny_tokenizer, "encode_with_offsets", counted)
    windows.encode([example(), example("a river"), example()], context(tiny_tokenizer))
    assert seen == [TEXT, "a river"]
