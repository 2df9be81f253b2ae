"""Words by their n-grams: a word's vector is the mean of its parts' (Bojanowski et al. 2017).

A word has a row of its own, if it is in the vocabulary, and one for each n-gram of "<word>", which
n-grams of the same hash share. So words that were never seen have vectors, too. The hash, and the
mean in place of the paper's sum, are those of the fastText program.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array


class Settings(Protocol):
    """Of Word2VecConfig, which see."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def buckets(self) -> int: ...
    @property
    def min_gram(self) -> int: ...
    @property
    def max_gram(self) -> int: ...
    @property
    def max_characters(self) -> int: ...
    def __hash__(self) -> int: ...


def grams(word: str, least: int, most: int) -> list[str]:
    """The n-grams of a word with its ends marked; the ends by themselves are none.

    >>> grams("where", 3, 3)
    ['<wh', 'whe', 'her', 'ere', 're>']
    """
    marked = f"<{word}>"
    return [
        marked[begin : begin + length]
        for begin in range(len(marked))
        for length in range(least, min(most, len(marked) - begin) + 1)
        if length > 1 or 0 < begin < len(marked) - 1
    ]


@functools.lru_cache(maxsize=1 << 20)
def bucket(gram: str, buckets: int) -> int:
    """FNV-1a of 32 bits over UTF-8, whose bytes fastText takes as signed numbers."""
    value = 2166136261
    for byte in gram.encode("utf-8", "replace"):
        signed = byte if byte < 128 else byte | 0xFFFFFF00
        value = ((value ^ signed) * 16777619) & 0xFFFFFFFF
    return value % buckets


def table(words: Any, config: Settings) -> np.ndarray:
    """[V, P] int32: the rows that each entry of a tokenizer's vocabulary is made of.

    First its own, then those of its n-grams. Where there are fewer, the row behind the last one.
    Entries that were added to the vocabulary have none of their own; special ones have no n-grams.
    """
    return _table(words, words.vocab_size, config)


@functools.lru_cache(maxsize=4)
def _table(words: Any, size: int, config: Settings) -> np.ndarray:
    """Once for a vocabulary of a size, for every program that is traced asks."""
    nowhere = config.vocab_size + config.buckets
    special = set(words.never_random.tolist())
    rows = []
    for number, entry in enumerate(words.pieces(range(size))):
        own = [number] if number < config.vocab_size else []
        parts: list[str] = []
        if number not in special:
            parts = grams(entry, config.min_gram, config.max_gram)[: _most_grams(config)]
        rows.append(own + [config.vocab_size + bucket(part, config.buckets) for part in parts])
    longest = max(map(len, rows))
    return np.array([row + [nowhere] * (longest - len(row)) for row in rows], np.int32)


def _most_grams(config: Settings) -> int:
    lengths = range(config.min_gram, config.max_gram + 1)
    return sum(config.max_characters - length + 1 for length in lengths)


def mean(rows: Array, parts: np.ndarray | Array, ids: Array) -> Array:
    """Vectors of words, [..., D], from the rows of a table and the parts of all words, [V, P]."""
    # [..., P], [..., P, D]
    found = jnp.asarray(parts)[ids]
    vectors = rows.at[found].get(mode="fill", fill_value=0)
    number = (found < len(rows)).sum(axis=-1, keepdims=True)
    return vectors.sum(axis=-2) / jnp.maximum(number, 1).astype(vectors.dtype)
