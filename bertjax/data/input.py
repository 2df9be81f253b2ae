"""Records to batches: deterministic, seekable, each host reading only its own rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bertjax.data import example_bytes, order
from bertjax.data.order import Order
from bertjax.data.records import Records, parse
from bertjax.data.store import token_type
from bertjax.errors import UserError

Batch = dict[str, np.ndarray]
# Epoch of evaluation, whose masks are always the same.
_NO_EPOCH = -1


def train_batches(
    records: Records,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
    shapes: tuple[int, ...] = (),
    first_row: int = 0,
) -> Iterator[Batch]:
    """The endless stream of batches from a step on.

    Args:
      batch_size: rows of the global batch.
      seed: order of the records.
      start_step: the first batch yielded is that of this step.
      parts, num_parts: which of the equal parts of the global batch are this process's.
      shapes: lengths to group compact records by; batch_size is that of the longest.
      first_row: rows of the stream that were read before step 0, in batches of another size; not
        with `shapes`.

    Yields:
      What records.parse gives, with B = batch_size * len(parts) / num_parts; of compact records
      also record and epoch [B] int32, which masks are made of. example_weights [B] float32 where a
      row may be no example: with `shapes`, and when damaged records are skipped.

    Raises:
      UserError: the parts do not divide the batch; a record is damaged, or holds an id that is not
        in the vocabulary.
    """
    if batch_size % num_parts:
        raise UserError(f"batch_size {batch_size} is not a multiple of the {num_parts} parts")
    length = records.manifest.max_seq_length
    plan: Order = order.Shuffled(len(records), batch_size, length, seed, first_row)
    if shapes:
        plan = order.Bucketed(num_tokens(records), [*shapes, length], batch_size, seed)
    weighted = bool(shapes) or records.skip_damaged

    dataset = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max).map(
        lambda step: _read(records, plan.share(step, parts, num_parts), weighted),
        num_parallel_calls=2,
        deterministic=True,
    )
    return _checked(dataset.prefetch(4).as_numpy_iterator(), records)


def eval_batches(
    records: Records,
    *,
    batch_size: int,
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
    most: int = 0,
) -> Iterator[Batch]:
    """Every record once, in order; the last batch is filled with copies of weight 0.

    Yields what train_batches yields, with example_weights.

    Args:
      most: take no more records than that, evenly spread; 0: all.
    """
    rows = order.rows_of(parts, num_parts, batch_size)
    length = records.manifest.max_seq_length
    stride = -(-len(records) // most) if most else 1
    taken = -(-len(records) // stride)

    def share(number: tf.Tensor) -> order.Share:
        wanted = (number * batch_size + rows) * stride
        real = wanted < len(records)
        epochs = tf.fill(rows.shape, tf.constant(_NO_EPOCH, tf.int64))
        weights = tf.cast(real, tf.float32)
        return order.Share(tf.where(real, wanted, 0), epochs, weights, tf.constant(length))

    dataset = tf.data.Dataset.range(-(-taken // batch_size)).map(
        lambda number: _read(records, share(number), True), num_parallel_calls=2, deterministic=True
    )
    return _checked(dataset.prefetch(2).as_numpy_iterator(), records)


def check_lengths(records: Records) -> None:
    """Raises UserError: masked or packed records, whose rows are all of one length."""
    manifest = records.manifest
    if not manifest.dynamic or manifest.packed:
        raise UserError(
            f"{records.folder}: data.shapes groups records by length, and these are "
            f"{'packed' if manifest.packed else 'padded'}; prepare them with --masking=dynamic and "
            "without --packed"
        )


def num_tokens(records: Records) -> np.ndarray:
    """[N] tokens of compact records of one sequence, told from their sizes.

    Raises what check_lengths does.
    """
    check_lengths(records)
    manifest = records.manifest
    counts = np.arange(1, manifest.max_seq_length + 1)
    size = np.dtype(token_type(manifest.vocab_size)).itemsize
    blank = np.zeros((len(counts), size * len(counts)), np.uint8)
    features: dict[str, Any] = {"tokens": (blank, size * counts)}
    if manifest.has_label:
        features["label"] = (np.zeros((len(counts), 1), np.int64), np.ones(len(counts), int))
    sizes = np.array([len(message) for message in example_bytes.encode(features)])
    return counts[np.minimum(np.searchsorted(sizes, records.lengths()), len(counts) - 1)]


# --- One batch ------------------------------------------------------------------------------


# Converted by AutoGraph, every call in `fetch` would take ten times as long.
@tf.autograph.experimental.do_not_convert
def _read(records: Records, share: order.Share, weighted: bool) -> dict[str, tf.Tensor]:
    """Fetches and parses a batch."""

    def fetch(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # No operation of TensorFlow may run in here: it would wait for a thread of the same pool.
        try:
            found = [records.get(index) for index in indices.tolist()]
            first = records.first if None in found else b""
        except UserError as error:
            records.error = error  # TensorFlow would make it one of its own
            raise
        there = np.array([message is not None for message in found], np.float32)
        return np.array([first if message is None else message for message in found], object), there

    messages, there = tf.numpy_function(fetch, [share.records], [tf.string, tf.float32])
    messages.set_shape(share.records.shape)
    there.set_shape(share.records.shape)
    batch = parse(messages, records.manifest, share.length)
    if records.manifest.dynamic:
        batch |= {
            "record": tf.cast(share.records, tf.int32),
            "epoch": tf.cast(share.epochs, tf.int32),
        }
    if weighted:
        batch["example_weights"] = share.weights * there
        if not records.manifest.dynamic:
            batch["masked_lm_weights"] *= batch["example_weights"][:, None]
    return batch


def _checked(batches: Iterator[Batch], records: Records) -> Iterator[Batch]:
    """The batches, each looked through for what would make the loss NaN or meaningless."""
    size = records.manifest.vocab_size
    # TensorFlow's own message quotes the record's bytes, which need not be text.
    failures = (tf.errors.OpError, UnicodeDecodeError)
    try:
        for batch in batches:
            for name in ("input_ids", "masked_lm_ids"):
                ids = batch.get(name)
                if ids is not None and not (ids.min() >= 0 and ids.max() < size):
                    wrong = ids[(ids < 0) | (ids >= size)][0]
                    raise UserError(
                        f"{records.folder}: {name} holds the id {wrong}, but the vocabulary of "
                        f"the manifest has {size} entries; prepare the records again"
                    )
            yield batch
    except failures as error:
        if records.error is not None:
            raise records.error from None
        raise UserError(
            f"{records.folder}: a record is damaged; copy the shards again or prepare the records "
            "again"
        ) from error
