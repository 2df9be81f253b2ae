"""Rows of segments to records: as in 2018, masked and padded, or compact and not masked.

    static   the features of the 2018 code: everything that a step takes, about 7 bytes a position
    compact  `tokens`, two bytes each (four if the vocabulary is large), and `label`, one number for
             each sequence; masks, positions and segments are made within the training step

In both a row reads "[CLS] A [SEP] B [SEP]"; in a compact packed one such rows follow each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bertjax.data import example_bytes, masking
from bertjax.data.masking import MaskingSettings, Pieces
from bertjax.data.segments import TokenStore
from bertjax.data.store import token_type
from bertjax.data.walk import Rows
from bertjax.text.tokenizer import Tokenizer

# Few enough that what is worked on stays in the processor's cache.
_ROWS_AT_ONCE = 512


class Layout(NamedTuple):
    """How the records of a build look.

    Attributes:
      max_seq_length: T.
      dynamic: compact records, masked later.
      pairs: second segments have the segment id 1.
      has_label: whether compact records carry labels.
      masking: how static records are masked.
    """

    max_seq_length: int
    dynamic: bool
    pairs: bool
    has_label: bool
    masking: MaskingSettings


class Filled(NamedTuple):
    """Rows of tokens.

    Attributes:
      input_ids: [N, T] int32.
      lengths: [N] tokens in a row.
      first: [N] tokens of each row's first segment.
      label: [N, S] labels of its sequences; num_labels: [N] how many there are.
    """

    input_ids: np.ndarray
    lengths: np.ndarray
    first: np.ndarray
    label: np.ndarray
    num_labels: np.ndarray


def fill(
    store: TokenStore, rows: Rows, span: tuple[int, int], length: int, tokenizer: Tokenizer
) -> Filled:
    """Lays out the rows span[0] to span[1] - 1."""
    some = slice(*np.searchsorted(rows.row, span))
    row, start, end, begins = (column[some] for column in rows[:4])
    row = row - span[0]
    number = span[1] - span[0]
    sizes = end - start
    widths = sizes + 1 + begins
    is_first = np.diff(row, prepend=-1) > 0
    before = np.cumsum(widths) - widths
    at = row * length + before - before[is_first][row] + begins  # of a segment's first token
    counted = np.cumsum(sizes) - sizes
    running = np.arange(sizes.sum())
    ids = np.full(number * length, tokenizer.pad_id, np.int32)
    source = np.repeat(start - counted, sizes) + running
    ids[np.repeat(at - counted, sizes) + running] = store.tokens[source]
    ids[at[begins] - 1] = tokenizer.cls_id
    ids[at + sizes] = tokenizer.sep_id
    num_labels = np.bincount(row[begins], minlength=number)
    label = np.zeros((number, num_labels.max()), np.int64)
    label[np.arange(label.shape[1]) < num_labels[:, None]] = rows.label[some][begins]
    lengths = np.bincount(row, widths, minlength=number).astype(np.int64)
    return Filled(ids.reshape(number, length), lengths, sizes[is_first], label, num_labels)


class Messages:
    """The records of rows, in order; counts what it lays out.

    Attributes:
      tokens: how many tokens the records hold so far, special ones included.
      most_sequences: the most sequences in a row so far.
    """

    def __init__(self, layout: Layout, tokenizer: Tokenizer) -> None:
        self.layout, self.tokenizer = layout, tokenizer
        self.tokens = self.most_sequences = 0
        self.pieces = masking.pieces(
            tokenizer.vocab_size, tokenizer.mask_id, tokenizer.never_random, tokenizer.starts_word()
        )

    def of(self, store: TokenStore, rows: Rows, rng: np.random.Generator) -> Iterator[bytes]:
        layout = self.layout
        for first in range(0, rows.num_rows, _ROWS_AT_ONCE):
            span = (first, min(first + _ROWS_AT_ONCE, rows.num_rows))
            filled = fill(store, rows, span, layout.max_seq_length, self.tokenizer)
            self.tokens += int(filled.lengths.sum())
            self.most_sequences = max(self.most_sequences, int(filled.num_labels.max()))
            if layout.dynamic:
                yield from example_bytes.encode(compact(filled, layout, self.tokenizer.vocab_size))
            else:
                yield from example_bytes.encode(static(filled, layout, self.pieces, rng))


def compact(
    filled: Filled, layout: Layout, vocab_size: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The features `tokens` and, if there are labels, `label`."""
    kind = token_type(vocab_size)
    ids = filled.input_ids.astype(np.dtype(kind).newbyteorder("<"))
    features = {"tokens": (ids.view(np.uint8), filled.lengths * ids.itemsize)}
    if layout.has_label:
        features["label"] = (filled.label, filled.num_labels)
    return features


def static(
    filled: Filled, layout: Layout, pieces: Pieces, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The features of 2018, of rows with one sequence."""
    number, length = filled.input_ids.shape
    place = np.arange(length)
    shapes = masking.shapes(number, length, layout.masking)
    draws = masking.Draws(*(rng.integers(0, 1 << 32, s, np.uint32) for s in shapes))
    present = place < filled.lengths[:, None]
    # The second [SEP] belongs to B, padding to 0.
    second = present & (place >= filled.first[:, None] + 2) & layout.pairs
    return {
        **masking.mask(filled.input_ids, filled.lengths, layout.masking, pieces, draws),
        "input_mask": present.astype(np.uint16),
        "segment_ids": second.astype(np.uint16),
        "next_sentence_labels": filled.label[:, :1],
    }
