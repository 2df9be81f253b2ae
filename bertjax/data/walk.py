"""Turns tokenised documents into the segments of training rows, as places in a token store.

The sentences of a part of a document lie one behind the other in the store, so a segment is one
stretch of tokens and a row is a handful of numbers; nothing is copied until rows are laid out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bertjax.data.segments import FORMATS, SegmentSettings, Step, TokenStore, Walker

# Parts walked through side by side.
_LANES = 512
# What is left of a packed row below this many tokens stays empty.
_MIN_SPACE = 8


class Rows(NamedTuple):
    """Segments, row by row.

    Attributes:
      row: [S] the row of each segment, ascending.
      start, end: [S] places of its tokens in the store.
      begins: [S] bool, the segment is the first of a sequence, so [CLS] stands before it.
      label: [S] the sequence's label: 1 if the second segment is random or the two are swapped.
      num_rows: how many rows there are; each has at least one segment.
    """

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    begins: np.ndarray
    label: np.ndarray
    num_rows: int


def make_rows(store: TokenStore, settings: SegmentSettings, rng: np.random.Generator) -> Rows:
    """Walks dupe_factor times through all parts; rows come out in random order."""
    walk = _Walk(store, settings, rng)
    while walk.lanes.size:
        walk.step()
    return walk.rows()


class _Walk:
    """Many lanes, each of which goes through its share of the parts one after the other."""

    def __init__(
        self, store: TokenStore, settings: SegmentSettings, rng: np.random.Generator
    ) -> None:
        self.store, self.settings, self.rng = store, settings, rng
        self.format = FORMATS[settings.segments]
        rounds = [rng.permutation(store.num_parts) for _ in range(settings.dupe_factor)]
        self.queue = np.concatenate(rounds) if rounds else np.zeros(0, np.int64)
        self.num_lanes = self._num_lanes()
        self.lanes = np.arange(self.num_lanes)  # those that are not at their end
        self.turn = np.zeros(self.num_lanes, np.int64)
        self.at = store.sentence_starts[store.part_starts[self.queue[self.lanes]]]
        self.space = np.full(self.num_lanes, settings.max_seq_length)
        self.row = np.arange(self.num_lanes)
        self.num_rows = self.num_lanes
        self.made: list[tuple[np.ndarray, ...]] = []

    def _num_lanes(self) -> int:
        """The last row of a lane stays half empty if it is packed, so there are fewer then."""
        limit = _LANES
        if self.settings.packed or self.format.joins:
            tokens = len(self.store.tokens) * self.settings.dupe_factor
            limit = min(limit, 1 + tokens // (400 * self.settings.max_seq_length))
        return min(limit, len(self.queue))

    def step(self) -> None:
        part = self.queue[self.turn * self.num_lanes + self.lanes]
        bounds = self.store.part_starts
        here = Walker(
            self.at, bounds[part], bounds[part + 1], self.store.documents[part], self.space
        )
        made = self.format.step(self.store, here, self.settings, self.rng)
        self._keep(made)
        self._advance(made.at, self.store.sentence_starts[here.last])

    def _keep(self, made: Step) -> None:
        """Notes the segments and what is left of the rows; opens new rows."""
        fresh = self.space == self.settings.max_seq_length
        lengths = made.end - made.start
        found = lengths[:, 0] > 0
        for k in range(lengths.shape[1]):
            some = lengths[:, k] > 0
            begins = np.full(some.sum(), k == 0) & (fresh[some] | (not self.format.joins))
            self.made.append(
                (self.row[some], made.start[some, k], made.end[some, k], begins, made.label[some])
            )
        used = lengths.sum(axis=1) + (lengths > 0).sum(axis=1)
        self.space = self.space - used - (found & (fresh | (not self.format.joins)))
        full = self.space < _MIN_SPACE
        if self.format.joins:  # the next sentence does not fit into the rest of the row
            full |= ~found
        elif not self.settings.packed:
            full |= found
        self.row = np.where(full, self.num_rows + np.cumsum(full) - 1, self.row)
        self.num_rows += int(full.sum())
        self.space = np.where(full, self.settings.max_seq_length, self.space)

    def _advance(self, at: np.ndarray, end: np.ndarray) -> None:
        """Lanes at the end of their part take the next; lanes without one are done."""
        ended = at >= end
        self.turn = self.turn + ended
        following = self.turn * self.num_lanes + self.lanes
        left = following < len(self.queue)
        part = self.queue[np.where(left, following, 0)]
        first = self.store.sentence_starts[self.store.part_starts[part]]
        self.at = np.where(ended, first, at)
        if not left.all():
            for name in ("lanes", "turn", "at", "space", "row"):
                setattr(self, name, getattr(self, name)[left])

    def rows(self) -> Rows:
        """Numbers the rows anew, in random order and without those that stayed empty."""
        columns = [np.concatenate(column) for column in zip(*self.made, strict=True)]
        used = np.unique(columns[0])
        number = np.full(self.num_rows, -1)
        number[used] = self.rng.permutation(len(used))
        row = number[columns[0]]
        order = np.argsort(row, kind="stable")
        start, end, begins, label = (column[order] for column in columns[1:])
        return Rows(row[order], start, end, begins, label, len(used))
