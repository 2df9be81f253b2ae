"""Turns documents into segment pairs for next-sentence prediction, as places in a token store.

The sentences of a document lie one behind the other in the store, so a segment is always one
stretch of tokens, and a pair is four numbers. Nothing is copied until a batch of pairs is laid out.
Devlin et al. 2018, section 3.1 and appendix A.2; the details are those of the 2018 builder.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class TokenStore(NamedTuple):
    """A tokenised corpus.

    Attributes:
      tokens: [num_tokens] ids, a memory-mapped file.
      sentence_starts: [num_sentences + 1] places in tokens; the last is num_tokens.
      document_starts: [num_documents + 1] places in sentence_starts; the last is num_sentences.
    """

    tokens: np.ndarray
    sentence_starts: np.ndarray
    document_starts: np.ndarray

    @property
    def num_documents(self) -> int:
        return len(self.document_starts) - 1

    def document(self, index: int) -> list[int]:
        """Where the document's sentences start, and behind them where the last one ends."""
        first, last = self.document_starts[index], self.document_starts[index + 1]
        return self.sentence_starts[first : last + 1].tolist()


class Pair(NamedTuple):
    """Segments tokens[a_start:a_end] and tokens[b_start:b_end]; is_random: B does not follow A."""

    a_start: int
    a_end: int
    b_start: int
    b_end: int
    is_random: int


@dataclasses.dataclass(frozen=True)
class PairSettings:
    """max_seq_length T counts [CLS] and two [SEP]; short_seq_prob of the targets are shorter."""

    max_seq_length: int
    short_seq_prob: float = 0.1

    @property
    def max_tokens(self) -> int:
        return self.max_seq_length - 3


def _random_segment(
    store: TokenStore, other_than: int, target: int, rng: random.Random
) -> tuple[int, int]:
    """A stretch of whole sentences of another document, at least `target` tokens if it has them."""
    index = rng.randrange(store.num_documents - 1)
    index += index >= other_than
    first, last = int(store.document_starts[index]), int(store.document_starts[index + 1])
    start = rng.randrange(first, last)
    begin = int(store.sentence_starts[start])
    # The first sentence boundary that reaches the target, found without walking over sentences.
    reach = int(
        np.searchsorted(store.sentence_starts[start + 1 : last + 1], begin + max(target, 1))
    )
    end = int(store.sentence_starts[min(start + 1 + reach, last)])
    return begin, end


def _truncate(start: int, end: int, length: int, rng: random.Random) -> tuple[int, int]:
    """Drops tokens one by one, each from the front or the back with equal chance."""
    excess = end - start - length
    front = rng.getrandbits(excess).bit_count() if excess > 0 else 0
    return start + front, start + front + min(length, end - start)


def fit_lengths(a: int, b: int, limit: int) -> tuple[int, int]:
    """Lengths left after dropping tokens from the longer segment (B if equal) until both fit."""
    excess = a + b - limit
    if excess <= 0:
        return a, b
    # First the longer one alone comes down to the other, then both in turn, B first.
    from_longer = min(excess, abs(a - b))
    a, b = (a - from_longer, b) if a > b else (a, b - from_longer)
    rest = excess - from_longer
    return a - rest // 2, b - (rest + 1) // 2


def _fit(
    a: tuple[int, int], b: tuple[int, int], is_random: bool, limit: int, rng: random.Random
) -> Pair:
    a_length, b_length = fit_lengths(a[1] - a[0], b[1] - b[0], limit)
    a_start, a_end = _truncate(*a, a_length, rng)
    b_start, b_end = _truncate(*b, b_length, rng)
    return Pair(a_start, a_end, b_start, b_end, int(is_random))


def document_pairs(
    store: TokenStore, index: int, settings: PairSettings, rng: random.Random
) -> Iterator[Pair]:
    """Walks once through a document and yields its pairs (the 2018 builder's procedure).

    Sentences are gathered until they reach the target length; a random cut makes A of the first
    part. With probability 0.5, or when there is no second part, B comes from a random place of
    another document and the sentences behind the cut are used again for the next pair.

    In one thing it differs: the 2018 builder draws the target once for a document, so that a book
    in ten comes out in short sequences only; here it is drawn for every pair.
    """
    starts = store.document(index)
    num_sentences = len(starts) - 1
    limit = settings.max_tokens
    first = 0
    while first < num_sentences:
        target = rng.randint(2, limit) if rng.random() < settings.short_seq_prob else limit
        last = first
        while last < num_sentences and starts[last] - starts[first] < target:
            last += 1
        cut = first + 1 if last - first < 2 else rng.randint(first + 1, last - 1)
        a = (starts[first], starts[cut])
        is_random = last - first == 1 or rng.random() < 0.5
        if is_random:
            b = _random_segment(store, index, target - (a[1] - a[0]), rng)
            first = cut
        else:
            b = (starts[cut], starts[last])
            first = last
        yield _fit(a, b, is_random, limit, rng)


def lay_out(
    store: TokenStore,
    pairs: np.ndarray,
    max_seq_length: int,
    *,
    cls_id: int,
    sep_id: int,
    pad_id: int,
) -> dict[str, np.ndarray]:
    """[N, 5] pairs -> rows "[CLS] A [SEP] B [SEP]" padded to T.

    Returns:
      input_ids, input_mask, segment_ids: [N, T] int64; next_sentence_labels: [N, 1] int64;
      lengths: [N]; maskable: [N, T] bool, True where a token of the text stands.
    """
    a_start, a_end, b_start, b_end, is_random = pairs.T[:, :, None]
    a, b = a_end - a_start, b_end - b_start
    place = np.arange(max_seq_length)
    in_a = (place >= 1) & (place <= a)
    in_b = (place >= a + 2) & (place <= a + b + 1)
    source = np.where(in_a, a_start + place - 1, np.where(in_b, b_start + place - a - 2, 0))
    ids = store.tokens[source].astype(np.int64)
    maskable = in_a | in_b
    lengths = a + b + 3
    ids = np.where(maskable, ids, np.where(place < lengths, sep_id, pad_id))
    ids[:, 0] = cls_id
    return {
        "input_ids": ids,
        "input_mask": (place < lengths).astype(np.int64),
        "segment_ids": ((place >= a + 2) & (place < lengths)).astype(np.int64),
        "next_sentence_labels": is_random,
        "lengths": lengths[:, 0],
        "maskable": maskable,
    }
