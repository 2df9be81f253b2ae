"""Words by their n-grams, as Bojanowski et al. 2017 and the fastText program have them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.models import subwords
from bertjax.models.word2vec import Word2VecConfig
from bertjax.text.tokenizer import SPECIALS
from bertjax.text.words import OpenWords, WordTokenizer

WORDS = WordTokenizer([*SPECIALS, "where", "there"], True)
CONFIG = Word2VecConfig(WORDS.vocab_size, 4, buckets=1000)


def test_the_n_grams_of_where_are_the_papers() -> None:
    """Section 3.2."""
    assert subwords.grams("where", 3, 3) == ["<wh", "whe", "her", "ere", "re>"]
    found = subwords.grams("where", 3, 6)
    assert len(found) == 5 + 4 + 3 + 2 and "<where" in found
    assert subwords.grams("a", 1, 2) == ["<a", "a", "a>"]


@pytest.mark.parametrize(
    ("gram", "value"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)]
)
def test_the_hash_is_fnv_1a(gram: str, value: int) -> None:
    """The test vectors of its authors (Fowler, Noll, Vo)."""
    assert subwords.bucket(gram, 1 << 32) == value


def test_bytes_beyond_ascii_are_signed_numbers() -> None:
    """By hand, as a C compiler with signed characters extends them to 32 bits."""
    value = 2166136261
    for byte in (-61, -87):  # UTF-8 of an e with an acute accent
        value = ((value ^ (byte & 0xFFFFFFFF)) * 16777619) % 2**32
    assert subwords.bucket("\N{LATIN SMALL LETTER E WITH ACUTE}", 1 << 32) == value


def test_a_word_is_made_of_its_row_and_its_n_grams() -> None:
    table = subwords.table(WORDS, CONFIG)
    nowhere = CONFIG.vocab_size + CONFIG.buckets
    assert table[:5, 0].tolist() == list(range(5)) and (table[:5, 1:] == nowhere).all()
    where, there = table[5], table[6]
    grams = [7 + subwords.bucket(gram, 1000) for gram in subwords.grams("where", 3, 6)]
    assert where[where < nowhere].tolist() == [5, *grams]
    assert {7 + subwords.bucket("here>", 1000)} <= set(where) & set(there)


def test_a_word_never_seen_is_the_mean_of_its_n_grams() -> None:
    words = OpenWords(WORDS)
    (number,) = words.encode("Nowhere")
    assert number == WORDS.vocab_size and words.encode("nowhere where") == [number, 5]
    assert words.fingerprint == WORDS.fingerprint
    rows = np.random.default_rng(0).normal(size=(1007, 4)).astype(np.float32)
    found = subwords.mean(jnp.asarray(rows), subwords.table(words, CONFIG), jnp.array([[number]]))
    grams = [7 + subwords.bucket(gram, 1000) for gram in subwords.grams("nowhere", 3, 6)]
    np.testing.assert_allclose(found[0, 0], rows[grams].mean(axis=0), rtol=1e-5)


def test_of_a_long_word_the_first_letters_count() -> None:
    words = WordTokenizer([*SPECIALS, "a" * 18, "b" * 60], True)
    table = subwords.table(words, Word2VecConfig(words.vocab_size, 4, buckets=1000))
    number = (table < 1007).sum(axis=1)
    assert number[5] == number[6] == 1 + 18 + 17 + 16 + 15


@pytest.mark.parametrize("wrong", [{"buckets": -1}, {"min_gram": 0}, {"min_gram": 7}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"model.{next(iter(wrong))}"):
        Word2VecConfig(10, 4, **wrong)
