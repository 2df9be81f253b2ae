"""The table of words gives the ids that the rules of 2018 give chunk by chunk."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bertjax.text.chunk_tokenizer import SPECIALS
from bertjax.text.word_table import WordTable
from bertjax.text.wordpiece import WordPieceTokenizer

# Letters, signs and spaces of every kind that the rules know: deleted, folded, standing alone, of
# several characters, dependent on their neighbours, beyond 2**16.
STRANGE = (
    "\u201c\u201d\u2019\u2014\u2026\u4e2d\u03a3\u03c3\u03c2\u0130\u00df\u017f\u212a\u00c5\ufb01\ud55c\u0301\u200b\ufffd"
    "\ud800\U0001f600\U0001d518\x0b\x0c\x1c\x85\xa0\u2028\u3000\x00\t\x7f"
)
CHARS = [chr(c) for c in range(33, 0x500)] + list("\u2018\u2019\u201c\u201d\u2014\u2026\u4e2d")
WORDPIECES = [*SPECIALS, *CHARS, *(f"##{char}" for char in CHARS), "##in", "rd", "et", "shr"]


def noise(seed: int, lines: int) -> list[str]:
    rng = random.Random(seed)
    pool = [chr(c) for c in range(0x600) if chr(c) not in "\r\n"] + list(STRANGE)
    pool += list("etaoin shrdlu ,.'") * 40
    return ["".join(rng.choices(pool, k=rng.randrange(60))) for _ in range(lines)]


@pytest.mark.parametrize("lowercase", [True, False])
def test_lines_have_the_ids_of_their_chunks(lowercase: bool) -> None:
    tokenizer = WordPieceTokenizer(WORDPIECES, lowercase)
    lines = ["", "x" * 40, "y" * 16 + " " + "z" * 17, "", *noise(0, 3000), ""]
    ids, lengths = tokenizer.encode_lines(lines)
    expected = [WordPieceTokenizer.encode(tokenizer, line) for line in lines]
    assert lengths.tolist() == [len(line) for line in expected]
    assert ids.tolist() == [i for line in expected for i in line]
    again, _ = tokenizer.encode_lines(lines)  # everything remembered now
    np.testing.assert_array_equal(again, ids)


def test_a_full_table_forgets_and_still_answers() -> None:
    """Far more words than slots, in one text and in many."""

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.array([int(t), len(t)], np.uint32) for t in texts]

    table = WordTable(True, encode, slots=64)
    for numbers in (range(1000), range(500, 520), range(90)):
        found = table.words(" ".join(map(str, numbers)))
        expected = [value for n in numbers for value in (n, len(str(n)))]
        assert found.ids.tolist() == expected
        assert table._words <= 32


def test_words_of_sixteen_letters_are_told_apart_by_every_letter() -> None:
    seen: dict[str, int] = {}

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.array([seen.setdefault(t, len(seen))], np.uint32) for t in texts]

    table = WordTable(True, encode)
    words = ["a" * 16, *("a" * i + "b" + "a" * (15 - i) for i in range(16)), "a" * 15, "a" * 8]
    first = table.words(" ".join(words)).ids
    assert len(set(first.tolist())) == len(words)
    np.testing.assert_array_equal(table.words("\n".join(words)).ids, first)


def test_starts_are_places_in_the_text() -> None:
    tokenizer = WordPieceTokenizer(WORDPIECES, True)
    text = " a \u4e2db  c\U0001f600d, e"
    found = tokenizer._table.words(text)
    assert [text[i] for i in found.start.tolist()] == ["a", "\u4e2d", "c", "e"]
