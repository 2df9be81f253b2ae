"""The words of long texts, cut and looked up in array arithmetic: a few nanoseconds a letter.

The letters, digits and signs that are met most get a byte each, so a word of up to 16 of them is
two numbers of eight bytes, and a hash table in arrays tells its ids. What has other letters or is
longer is passed to a function that works on text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bertjax.text.basic_words import alphabet

# Bytes that stand for white space and for what has no byte; signs, then letters come behind them.
_SPACE, _OTHER, _FIRST = 0, 1, 2
_CODES = 256
# Where what is met most lies in Unicode: Latin, Greek, Cyrillic, punctuation. None behind it has a
# byte.
_COMMON = ((0x0000, 0x0250), (0x0370, 0x0460), (0x2000, 0x2070))
_CODED = 0x2071
_MOST_SIGNS = 120
_WORD_BYTES, _HALF = 16, 8
# Slots of the hash table, a power of two; half of them is used at most.
_SLOTS = 1 << 19
# Odd numbers with no pattern in their bits, for multiplicative hashing.
_LOW, _HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
# [9]: keeps that many of the eight bytes.
_KEEP = np.array([(1 << 8 * i) - 1 for i in range(_HALF + 1)], np.uint64)
_MISSING = -1

# Texts -> the ids of each.
Encode = Callable[[list[str]], list[np.ndarray]]


class Words(NamedTuple):
    """The words of a text, as far as their borders tell them apart.

    Attributes:
      start: [W] characters before each.
      counts: [W] ids of each.
      ids: [sum of counts] uint32.
    """

    start: np.ndarray
    counts: np.ndarray
    ids: np.ndarray


class _Spans(NamedTuple):
    """Pieces of a text: [N] first characters and lengths."""

    start: np.ndarray
    length: np.ndarray

    def some(self, which: np.ndarray) -> _Spans:
        return _Spans(self.start[which], self.length[which])

    def texts(self, text: str) -> list[str]:
        ends = (self.start + self.length).tolist()
        return [text[a:b] for a, b in zip(self.start.tolist(), ends, strict=True)]


class WordTable:
    """Remembers the ids of words; forgets all of them when there are too many."""

    def __init__(self, lowercase: bool, encode: Encode, slots: int = _SLOTS) -> None:
        """
        Args:
          encode: the ids of texts without white space, worked out from scratch.
        """
        self._encode, self._slots = encode, slots
        self._shift = np.uint64(64 - (slots.bit_length() - 1))
        self._code, self._letters = _codes(lowercase)
        self._clear()

    def _clear(self) -> None:
        self._low, self._high = np.zeros((2, self._slots), np.uint64)
        # Where a word's ids begin in _ids, and how many there are.
        self._place, self._count = np.zeros((2, self._slots), np.int32)
        self._ids, self._used, self._words = np.zeros(1 << 16, np.uint32), 0, 0

    def words(self, text: str) -> Words:
        """All words of a text, in order; equal to what `encode` says of each of its chunks."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        # Behind the text stands as much white space as a word may be read beyond its end.
        codes = np.zeros(len(points) + _WORD_BYTES, np.uint8)
        codes[: len(points)] = self._code[np.minimum(points, len(self._code) - 1)]
        strange = _take_out(codes, _chunks_with(codes, _OTHER))
        plain = self._cut(codes)
        slot = self._look_up(text, codes, plain)
        known = slot != _MISSING
        found = self._gather(plain.start[known], slot[known])
        rare = _Spans(*map(np.concatenate, zip(strange, plain.some(~known), strict=True)))
        if not len(rare.start):
            return found
        ids = self._encode(rare.texts(text))
        counts = np.array([len(each) for each in ids], np.int64)
        return _merge(found, Words(rare.start, counts, np.concatenate(ids)))

    def _cut(self, codes: np.ndarray) -> _Spans:
        """Every sign is a word, and every run of letters."""
        letter = codes >= self._letters
        there = codes >= _FIRST
        joined = letter[1:] & letter[:-1]
        begins, ends = there.copy(), there
        begins[1:] &= ~joined
        ends[:-1] &= ~joined
        start = np.flatnonzero(begins)
        return _Spans(start, np.flatnonzero(ends) + 1 - start)

    def _look_up(self, text: str, codes: np.ndarray, spans: _Spans) -> np.ndarray:
        """[N] slots of the words; _MISSING for those that have no place in the table."""
        if self._words > self._slots // 4:
            self._clear()
        # Eight bytes from any place on: [len(codes) - 7] numbers that overlap.
        eight = np.ndarray((len(codes) - _HALF + 1,), "<u8", codes, strides=(1,))
        low = eight[spans.start] & _KEEP[np.minimum(spans.length, _HALF)]
        rest = np.clip(spans.length - _HALF, 0, _HALF)
        high = eight[spans.start + _HALF] & _KEEP[rest]
        slot = self._find(low, high)
        slot[spans.length > _WORD_BYTES] = _MISSING
        new = np.flatnonzero((slot == _MISSING) & (spans.length <= _WORD_BYTES))
        if len(new):
            some = new[_first_of_each(low[new], high[new])][: self._slots // 4]
            self._learn(low[some], high[some], self._encode(spans.some(some).texts(text)))
            slot[new] = self._find(low[new], high[new])
        return slot

    def _hash(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """[N] the first slot that is tried for each word."""
        return (((low * _LOW) ^ (high * _HIGH)) * _LOW >> self._shift).astype(np.int64)

    def _find(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """[N] slots of words, _MISSING for those that have none."""
        slot = self._hash(low, high)
        found = np.where((self._low[slot] == low) & (self._high[slot] == high), slot, _MISSING)
        left = np.flatnonzero(found == _MISSING)
        while len(left):
            slot[left] = (slot[left] + 1) % self._slots
            there = self._low[slot[left]]
            hit = (there == low[left]) & (self._high[slot[left]] == high[left])
            found[left[hit]] = slot[left[hit]]
            left = left[~hit & (there != 0)]
        return found

    def _learn(self, low: np.ndarray, high: np.ndarray, ids: list[np.ndarray]) -> None:
        """Puts words that are not there, and all different, into free slots."""
        count = np.array([len(each) for each in ids], np.int32)
        place = self._used + np.cumsum(count, dtype=np.int32) - count
        self._words, self._used = self._words + len(ids), self._used + int(count.sum())
        while self._used > len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
        self._ids[self._used - int(count.sum()) : self._used] = np.concatenate(ids)
        slot, left = self._hash(low, high), np.arange(len(ids))
        while len(left):
            # Of words that want the same slot the first gets it; the others try the next one.
            wanted, first = np.unique(slot[left], return_index=True)
            taken = left[first[self._low[wanted] == 0]]
            at = slot[taken]
            self._low[at], self._high[at] = low[taken], high[taken]
            self._place[at], self._count[at] = place[taken], count[taken]
            left = np.setdiff1d(left, taken, assume_unique=True)
            slot[left] = (slot[left] + 1) % self._slots

    def _gather(self, start: np.ndarray, slot: np.ndarray) -> Words:
        count = self._count[slot]
        before = np.cumsum(count, dtype=np.int32) - count
        place = np.repeat(self._place[slot] - before, count)
        place += np.arange(len(place), dtype=np.int32)
        return Words(start, count, self._ids[place])


def _first_of_each(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Places [N] -> one place of every different pair."""
    order = np.lexsort((low, high))
    low, high = low[order], high[order]
    differs = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return order[np.concatenate([[True], differs])]


def _codes(lowercase: bool) -> tuple[np.ndarray, int]:
    """[_CODED] the byte of every character, and the first byte that stands for a letter.

    The rules make the same of two characters whose bytes are equal.
    """
    points = [point for low, high in _COMMON for point in range(low, high)]
    rules = alphabet(points, lowercase)
    made = {kind: [m for m, k in rules.values() if k == kind] for kind in ("sign", "letter")}
    signs = list(dict.fromkeys(made["sign"]))[:_MOST_SIGNS]
    first = _FIRST + len(signs)
    letters = list(dict.fromkeys(made["letter"]))[: _CODES - first]
    byte = {char: number for number, char in enumerate([*signs, *letters], start=_FIRST)}
    codes = np.full(_CODED, _OTHER, np.uint8)
    for point, (char, kind) in rules.items():
        codes[point] = _SPACE if kind == "space" else byte.get(char, _OTHER)
    return codes, first


def _chunks_with(codes: np.ndarray, wanted: int) -> _Spans:
    """The runs without white space in which a byte occurs."""
    at = np.flatnonzero(codes == wanted)
    if not len(at):
        return _Spans(at, at)
    space = np.flatnonzero(codes == _SPACE)
    after = np.unique(np.searchsorted(space, at))
    start = np.where(after > 0, space[after - 1] + 1, 0)
    return _Spans(start, space[after] - start)


def _take_out(codes: np.ndarray, spans: _Spans) -> _Spans:
    """Overwrites spans with white space."""
    counted = np.cumsum(spans.length) - spans.length
    codes[np.repeat(spans.start - counted, spans.length) + np.arange(spans.length.sum())] = _SPACE
    return spans


def _merge(many: Words, few: Words) -> Words:
    """The words of both in the order of the text."""
    order = np.argsort(few.start, kind="stable")
    place = np.searchsorted(many.start, few.start[order])
    # Ids before every one of the many words, and behind the last of them.
    before = np.concatenate([[0], np.cumsum(many.counts)])[place]
    counts = few.counts[order]
    ends = np.cumsum(few.counts)[order]
    ids = [few.ids[end - count : end] for end, count in zip(ends, counts, strict=True)]
    return Words(
        np.insert(many.start, place, few.start[order]),
        np.insert(many.counts, place, counts),
        np.insert(many.ids, np.repeat(before, counts), np.concatenate(ids)),
    )
