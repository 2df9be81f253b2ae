"""Texts of words as rows: each word's pieces, and overlapping windows that cut no word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from bertjax.data.rows import Row
from bertjax.text.tokenizer import Tokenizer


class Window(NamedTuple):
    """The words from `begin` to before `end`; those from `first` to before `last` are its own."""

    begin: int
    end: int
    first: int
    last: int


def windows(lengths: Sequence[int], room: int) -> list[Window]:
    """Overlapping windows over the words of a text, no word cut.

    A window begins about half a room after the one before; the last one is filled up from the
    left. A word is its own window's where it has the most context: where the shorter of what
    stands left and right of it is longest, in pieces; the first window where that is equal.

    Args:
      lengths: pieces of each word, from 1 to room // 2.
      room: pieces in a window, at least 2.

    Returns:
      Windows in order. Their own words, one window after the other, are all words in order.
    """
    offsets = np.cumsum([0, *lengths])
    most = np.full(len(lengths), -1)
    owner = np.zeros(len(lengths), np.int64)
    spans: list[tuple[int, int]] = []
    begin = end = 0
    while end < len(lengths):
        end = int(np.searchsorted(offsets, offsets[begin] + room, "right")) - 1
        if end == len(lengths):
            begin = int(np.searchsorted(offsets, offsets[end] - room))
        left = offsets[begin:end] - offsets[begin]
        right = offsets[end] - offsets[begin + 1 : end + 1]
        contexts = np.minimum(left, right)
        owner[begin:end][contexts > most[begin:end]] = len(spans)
        most[begin:end] = np.maximum(contexts, most[begin:end])
        spans.append((begin, end))
        begin = int(np.searchsorted(offsets, offsets[begin] + room // 2))
    # Along the words the owner only rises, so a window's own words stand together.
    borders = np.searchsorted(owner, np.arange(len(spans) + 1)).tolist()
    return [Window(*span, *borders[k : k + 2]) for k, span in enumerate(spans)]


def pieces_of(
    sentences: Sequence[Sequence[str]], tokenizer: Tokenizer, limit: int, counts: Counter[str]
) -> dict[str, list[int]]:
    """Ids of every word that occurs, 1 to `limit`; each is encoded by itself, as in 2018."""
    occurrences = Counter(chain.from_iterable(sentences))
    words = list(occurrences)
    pieces = {}
    flat, lengths = tokenizer.encode_lines(words)
    found = np.split(flat, np.cumsum(lengths)[:-1]) if words else []
    for word, array in zip(words, found, strict=True):
        ids = array.tolist()
        counts["words read as [UNK], nothing is left of them"] += occurrences[word] * (not ids)
        counts[f"words cut at {limit} pieces"] += occurrences[word] * (len(ids) > limit)
        pieces[word] = ids[:limit] or [tokenizer.unk_id]
    return pieces


def rows_of(words: list[list[int]], tags: list[int], tokenizer: Tokenizer, room: int) -> list[Row]:
    """The windows of a text; a row's note is where its own words' first pieces stand.

    Args:
      words: the pieces of each.
      tags: of each; -1 for none.
      room: pieces in a row, beside [CLS] and [SEP].
    """
    lengths = [len(word) for word in words]
    offsets = np.cumsum([0, *lengths])
    rows = []
    for begin, end, first, last in windows(lengths, room):
        ids = [tokenizer.cls_id, *chain.from_iterable(words[begin:end]), tokenizer.sep_id]
        places = 1 + offsets[first:last] - offsets[begin]
        target = np.full(len(ids), -1)
        target[places] = tags[first:last]
        rows.append(Row(ids, len(ids), target.tolist(), places))
    return rows
