"""The records of a folder: any of them by its number, and messages to arrays."""

from __future__ import annotations

import bisect
import sys
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import tensorflow as tf

from bertjax.data import fetched, tfrecord
from bertjax.data import manifest as manifests
from bertjax.data.manifest import Manifest, Shard
from bertjax.data.store import token_type
from bertjax.errors import UserError

# name -> (length: T tokens, P predictions or 1; type in the record). The 2018 names and types.
FEATURES: dict[str, tuple[str, str]] = {
    "input_ids": ("T", "int64"),
    "input_mask": ("T", "int64"),
    "segment_ids": ("T", "int64"),
    "masked_lm_positions": ("P", "int64"),
    "masked_lm_ids": ("P", "int64"),
    "masked_lm_weights": ("P", "float32"),
    "next_sentence_labels": ("1", "int64"),
}


class Records:
    """All records of a folder as one random-access sequence of serialized messages.

    Attributes:
      place: the folder itself, or of one in a bucket its local copy.
      damaged: {(file, byte)} of records that were skipped.
      error: what went wrong while a batch was read in the background.

    Raises:
      UserError: as manifest.load; records that have not the features the manifest says. A record
        that is cut short or has another checksum raises when it is read, unless `skip_damaged`.
    """

    def __init__(self, folder: Path, skip_damaged: bool = False) -> None:
        self.folder, self.skip_damaged = folder, skip_damaged
        self.manifest: Manifest = manifests.load(folder)
        self.place = fetched.place(folder, self.manifest)
        self.damaged: set[tuple[str, int]] = set()
        self.error: UserError | None = None
        self._ends = list(accumulate(shard.examples for shard in self.manifest.shards))
        self._readers: dict[int, tfrecord.Reader] = {}
        self._check_features()

    def __len__(self) -> int:
        return self._ends[-1]

    def reader(self, shard: int) -> tfrecord.Reader:
        """Opens a shard when it is first wanted."""
        found = self._readers.get(shard)
        if found is None:
            entry = self.manifest.shards[shard]
            path = self.place / entry.file
            lengths = tfrecord.read_index(path, entry.examples)
            try:
                lengths = tfrecord.scan(path) if lengths is None else lengths
            except tfrecord.Damaged as error:
                raise UserError(f"{path}: {error}; {_MEND}") from None
            if len(lengths) != entry.examples:
                raise UserError(
                    f"{path}: {len(lengths)} records, the manifest says {entry.examples}; {_MEND}"
                )
            found = tfrecord.Reader(path, lengths)
            self._check_build(found, entry)
            self._readers[shard] = found
        return found

    def _check_build(self, reader: tfrecord.Reader, entry: Shard) -> None:
        """Raises UserError: the first record is whole, but not the one that the manifest knows."""
        try:
            found = tfrecord.masked_sum(reader[0]).hex() if entry.first else ""
        except tfrecord.Damaged:
            return  # Told when it is read.
        if found != entry.first:
            raise UserError(
                f"{reader.path}: of another build than {manifests.MANIFEST} beside it; {_MEND}"
            )

    def __getitem__(self, index: int) -> bytes:
        return self.get(index) or self.first

    def get(self, index: int) -> bytes | None:
        """A record, or None if it is damaged and damaged ones are skipped."""
        shard = bisect.bisect_right(self._ends, index)
        reader = self.reader(shard)
        try:
            return reader[index - (self._ends[shard - 1] if shard else 0)]
        except tfrecord.Damaged as error:
            if not self.skip_damaged:
                raise UserError(
                    f"{reader.path}: {error}; {_MEND}, or leave such records out: "
                    "data.skip_damaged=True"
                ) from None
            place = (reader.path.name, error.offset)
            if place not in self.damaged:
                self.damaged.add(place)
                print(
                    f"warning: {reader.path}: {error}; skipped ({len(self.damaged)} so far)",
                    file=sys.stderr,
                )
            return None

    @cached_property
    def first(self) -> bytes:
        """The first record that can be read; it takes the place of those that cannot."""
        found = next((m for m in map(self.get, range(len(self))) if m is not None), None)
        if found is None:
            raise UserError(f"{self.folder}: every record is damaged; {_MEND}")
        return found

    def lengths(self) -> np.ndarray:
        """[len(self)] bytes of every record, from the index files."""
        shards = range(len(self.manifest.shards))
        return np.concatenate([self.reader(shard).lengths for shard in shards])

    def _check_features(self) -> None:
        """Parses the first record, so that a wrong length is told before a run begins."""
        try:
            parse(tf.constant([self.first]), self.manifest)
        except tf.errors.InvalidArgumentError as error:
            raise UserError(
                f"{self.folder / self.manifest.shards[0].file}: its records have not the features "
                f"of max_seq_length {self.manifest.max_seq_length} and max_predictions_per_seq "
                f"{self.manifest.max_predictions_per_seq}, as the manifest says; prepare the "
                "records again"
            ) from error


_MEND = "copy the shard again or prepare the records again"


def parse(messages: tf.Tensor, manifest: Manifest, length: tf.Tensor | None = None) -> dict:
    """[B] messages -> arrays, int32 and float32.

    Masked records give FEATURES. Compact ones give input_ids [B, T], T being `length` or the
    manifest's, lengths [B] and, if there are labels, next_sentence_labels [B, S].
    """
    if manifest.dynamic:
        whole = tf.constant(manifest.max_seq_length) if length is None else length
        return _parse_compact(messages, manifest, whole)
    lengths = {"T": manifest.max_seq_length, "P": manifest.max_predictions_per_seq, "1": 1}
    spec = {
        name: tf.io.FixedLenFeature([lengths[size]], tf.dtypes.as_dtype(kind))
        for name, (size, kind) in FEATURES.items()
    }
    parsed = tf.io.parse_example(messages, spec)
    return {
        name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
        for name, value in parsed.items()
    }


def _parse_compact(messages: tf.Tensor, manifest: Manifest, length: tf.Tensor) -> dict:
    spec = {"tokens": tf.io.FixedLenFeature([], tf.string)}
    if manifest.has_label:
        spec["label"] = tf.io.FixedLenSequenceFeature(
            [], tf.int64, allow_missing=True, default_value=0
        )
    parsed = tf.io.parse_example(messages, spec)
    size = np.dtype(token_type(manifest.vocab_size)).itemsize
    kind = tf.uint16 if size == 2 else tf.int32  # TensorFlow does not decode uint32
    ids = tf.io.decode_raw(parsed["tokens"], kind, fixed_length=length * size)
    found = {
        "input_ids": tf.cast(ids, tf.int32),
        "lengths": tf.strings.length(parsed["tokens"]) // size,
    }
    if manifest.has_label:
        labels = tf.cast(parsed["label"], tf.int32)
        missing = manifest.max_sequences - tf.shape(labels)[1]
        found["next_sentence_labels"] = tf.pad(labels, [[0, 0], [0, missing]])
    return found
