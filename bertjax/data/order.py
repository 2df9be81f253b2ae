"""Which records stand in the batch of a step: a pure function of seed and step.

So opening at step 1,000,000 costs what opening at step 0 costs, and nothing but the step has to be
saved. Position p of the endless stream lies in epoch p // N, and a keyed permutation of 0..N-1,
another one each epoch, tells the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf


class Share(NamedTuple):
    """A process's part of a batch, in tensors.

    Attributes:
      records: [b] int64 their numbers.
      epochs: [b] int64 how often each has been seen before.
      weights: [b] float32, 0 for a row that only fills the batch.
      length: int32, positions of a row.
    """

    records: tf.Tensor
    epochs: tf.Tensor
    weights: tf.Tensor
    length: tf.Tensor


class Order(Protocol):
    """Batches by their step (int64); who holds `parts` of `num_parts` equal ones gets its share."""

    def share(self, step: tf.Tensor, parts: Sequence[int], num_parts: int) -> Share: ...


def rows_of(parts: Sequence[int], num_parts: int, batch_size: int | tf.Tensor) -> tf.Tensor:
    """[b] int64 places in a batch of the rows that its parts hold, one part after the other."""
    size = batch_size // num_parts
    first = tf.constant(parts, tf.int64)[:, None] * size
    return tf.reshape(first + tf.range(size, dtype=tf.int64), [-1])


def permuted(positions: tf.Tensor, number: tf.Tensor, seed: int, stream: tf.Tensor) -> tf.Tensor:
    """Positions [B] of an endless stream -> numbers below `number`; each epoch is a permutation.

    Streams of the same seed are independent.
    """
    epochs = positions // number
    fixed = tf.fill(tf.shape(epochs), tf.constant(seed, tf.int64))
    streams = tf.fill(tf.shape(epochs), tf.cast(stream, tf.int64))
    # The raw operation: its public wrapper pads vectors of keys along the wrong axis.
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % number,
        seed=tf.cast(tf.stack([fixed, epochs, streams], axis=1), tf.int32),
        max_index=number - 1,
        # With the usual 4 rounds many records keep place and neighbours from epoch to epoch.
        rounds=8,
    )


class Shuffled:
    """Batches of equal shape, across the borders of epochs."""

    def __init__(
        self, number: int, batch_size: int, length: int, seed: int, first_row: int = 0
    ) -> None:
        """`first_row` rows of the stream were read before step 0."""
        self.number, self.batch_size, self.length, self.seed = number, batch_size, length, seed
        self.first_row = first_row

    def share(self, step: tf.Tensor, parts: Sequence[int], num_parts: int) -> Share:
        first = self.first_row + step * self.batch_size
        positions = first + rows_of(parts, num_parts, self.batch_size)
        number = tf.constant(self.number, tf.int64)
        records = permuted(positions, number, self.seed, tf.constant(0))
        return Share(
            records, positions // number, tf.ones(positions.shape), tf.constant(self.length)
        )


class Bucketed:
    """Batches of records of similar length, in few shapes of about as many tokens.

    In every epoch every record stands in one batch; the last batch of each shape is filled up with
    rows of weight 0. The shapes come in random order.
    """

    def __init__(self, lengths: np.ndarray, shapes: list[int], batch_size: int, seed: int) -> None:
        """
        Args:
          lengths: [N] tokens of the records.
          shapes: lengths that batches are padded to; records go into the shortest that holds them.
          batch_size: rows of a batch of the longest shape; shorter ones have a multiple of it.
        """
        self.seed = seed
        shapes = sorted(set(shapes))
        bucket = np.searchsorted(shapes, lengths)
        counts = np.bincount(bucket, minlength=len(shapes))
        sizes = np.array([batch_size * (shapes[-1] // shape) for shape in shapes])
        # Records sorted by bucket, where the buckets begin, and behind which batch each ends.
        self.members = tf.constant(np.argsort(bucket, kind="stable"), tf.int64)
        self.starts = tf.constant(np.cumsum(counts) - counts, tf.int64)
        self.counts, self.sizes = (tf.constant(x, tf.int64) for x in (counts, sizes))
        self.ends = tf.constant(np.cumsum(-(-counts // sizes)), tf.int64)
        self.shapes = tf.constant(shapes, tf.int32)

    def share(self, step: tf.Tensor, parts: Sequence[int], num_parts: int) -> Share:
        total = self.ends[-1]
        # Stream 0 orders the batches, stream i + 1 the records of bucket i.
        batch = permuted(step[None], total, self.seed, tf.constant(0))
        bucket = tf.searchsorted(self.ends, batch, side="right")[0]
        count, size = self.counts[bucket], self.sizes[bucket]
        first = (batch[0] - tf.concat([[0], self.ends], 0)[bucket]) * size
        places = first + rows_of(parts, num_parts, size)
        real = places < count
        positions = step // total * count + tf.where(real, places, 0)
        inner = permuted(positions, count, self.seed, bucket + 1)
        records = tf.gather(self.members, self.starts[bucket] + inner)
        epochs = tf.fill(tf.shape(records), step // total)
        return Share(records, epochs, tf.cast(real, tf.float32), self.shapes[bucket])
