"""Shards to batches: deterministic, seekable, each host reading only its own rows.

Which records stand in the batch of a step is a pure function of (seed, step): position p of the
endless stream lies in epoch p // N, and a keyed permutation of 0..N-1, another one each epoch,
tells the record. So opening at step 1,000,000 costs what opening at step 0 costs, and nothing but
the step has to be saved.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np
import tensorflow as tf

from bertjax.data.records import FEATURES, Manifest, ShardReader, load_manifest
from bertjax.errors import UserError

Batch = dict[str, np.ndarray]


class Records:
    """All records of a folder as one random-access sequence of serialized messages.

    Raises:
      UserError: as records.load_manifest; a shard whose number of records, or their lengths, are
        not the manifest's.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest: Manifest = load_manifest(folder)
        self._shards = [ShardReader(folder / shard.file) for shard in self.manifest.shards]
        for reader, shard in zip(self._shards, self.manifest.shards, strict=True):
            if len(reader) != shard.examples:
                raise UserError(
                    f"{reader.path}: {len(reader)} records, the manifest says {shard.examples}; "
                    "copy it again or prepare the records again"
                )
            if len(reader):
                self._check_lengths(reader)
        self._ends = list(accumulate(map(len, self._shards)))

    def _check_lengths(self, reader: ShardReader) -> None:
        """Parses a shard's first record, so that a wrong length is told before a run begins."""
        try:
            _parse(tf.constant([reader[0]]), self.manifest)
        except tf.errors.InvalidArgumentError as error:
            raise UserError(
                f"{reader.path}: its records have not the features of max_seq_length "
                f"{self.manifest.max_seq_length} and max_predictions_per_seq "
                f"{self.manifest.max_predictions_per_seq}, as the manifest says; prepare the "
                "records again"
            ) from error

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        shard = bisect.bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        return self._shards[shard][index - first]


def _parse(messages: tf.Tensor, manifest: Manifest) -> dict[str, tf.Tensor]:
    """[B] messages -> {feature: [B, length]}, int32 and float32."""
    lengths = {
        "T": manifest.max_seq_length,
        "P": manifest.max_predictions_per_seq,
        "1": 1,
    }
    spec = {
        name: tf.io.FixedLenFeature([lengths[length]], tf.dtypes.as_dtype(kind))
        for name, (length, kind) in FEATURES.items()
    }
    parsed = tf.io.parse_example(messages, spec)
    return {
        name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
        for name, value in parsed.items()
    }


def _checked(batches: Iterator[Batch], records: Records) -> Iterator[Batch]:
    """The batches, each looked through for what would make the loss NaN or meaningless.

    Raises:
      UserError: a record that cannot be parsed, or an id that is not in the vocabulary.
    """
    size = records.manifest.vocab_size
    try:
        for batch in batches:
            for name in ("input_ids", "masked_lm_ids"):
                wrong = batch[name][(batch[name] < 0) | (batch[name] >= size)]
                if len(wrong):
                    raise UserError(
                        f"{records.folder}: {name} holds the id {wrong[0]}, but the vocabulary of "
                        f"the manifest has {size} entries; prepare the records again"
                    )
            yield batch
    # TensorFlow's own message quotes the record's bytes, which need not be text.
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
        raise UserError(
            f"{records.folder}: a record is damaged; copy the shards again or prepare the records "
            "again"
        ) from error


def permuted(positions: tf.Tensor, num_records: int, seed: int) -> tf.Tensor:
    """Positions [B] of the endless stream -> record numbers [B]; each epoch is a permutation."""
    epochs = positions // num_records
    key = tf.stack([tf.fill(tf.shape(epochs), tf.constant(seed, tf.int64)), epochs], axis=1)
    # The raw operation: its public wrapper pads vectors of keys along the wrong axis.
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % num_records,
        seed=tf.cast(tf.pad(key, [[0, 0], [0, 1]]), tf.int32),
        max_index=tf.constant(num_records - 1, tf.int64),
        # With the usual 4 rounds many records keep place and neighbours from epoch to epoch.
        rounds=8,
    )


def train_batches(
    records: Records,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    host: int = 0,
    num_hosts: int = 1,
) -> Iterator[Batch]:
    """The endless stream of batches from a step on.

    Args:
      batch_size: rows of the global batch; this host yields its batch_size / num_hosts of them.
      seed: order of the records.
      start_step: the first batch yielded is that of this step.
      host, num_hosts: which part of the global batch is this process's.

    Yields:
      {feature: [batch_size / num_hosts, length]} in NumPy arrays.

    Raises:
      UserError: the hosts do not divide the batch.
    """
    if batch_size % num_hosts:
        raise UserError(f"batch_size {batch_size} is not a multiple of the {num_hosts} hosts")
    local = batch_size // num_hosts

    def fetch(indices: np.ndarray) -> np.ndarray:
        return np.array([records[index] for index in indices], object)

    def read(step: tf.Tensor) -> dict[str, tf.Tensor]:
        first = step * batch_size + host * local
        indices = permuted(tf.range(first, first + local), len(records), seed)
        messages = tf.numpy_function(fetch, [indices], tf.string)
        return _parse(tf.ensure_shape(messages, [local]), records.manifest)

    dataset = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    dataset = dataset.map(read, num_parallel_calls=2, deterministic=True).prefetch(4)
    return _checked(dataset.as_numpy_iterator(), records)


def eval_batches(
    records: Records, *, batch_size: int, host: int = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    """Every record once, in order; the last batch is filled with copies of weight 0.

    Yields what train_batches yields, and "example_weights" [B / num_hosts] float32.
    """
    local = batch_size // num_hosts

    def read() -> Iterator[Batch]:
        for first in range(host * local, len(records) + host * local, batch_size):
            wanted = np.arange(first, first + local)
            real = wanted < len(records)
            messages = tf.constant([records[index] for index in wanted * real])
            batch = _parse(messages, records.manifest)
            arrays = {name: value.numpy() for name, value in batch.items()}
            arrays["masked_lm_weights"] *= real[:, None]
            yield {**arrays, "example_weights": real.astype(np.float32)}

    return _checked(read(), records)
