"""TFRecord shards and their manifest: the one table of features, writing, reading, checking.

The features carry the names and types of the 2018 code, so that its reader reads our shards and
ours reads its shards. Everything a training run must know about the records stands in
manifest.json beside them, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.json_file import write_json
from bertjax.whole_file import whole

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

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


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records: its name, how many records, how many bytes, their SHA-256."""

    file: str
    examples: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is in a folder of records; the single source of truth about it.

    Attributes:
      max_seq_length: T.
      max_predictions_per_seq: P.
      vocab_size, tokenizer: V, and {"kind", "fingerprint"} of the tokenizer beside the shards.
      settings: how the records were built (masking, pairing, seed, dupe factor).
      corpus: facts counted on the way (documents, sentences, tokens, unigram entropy in nats).
      source: what the records were made from; the same command with the same source is done.
      padding_share: share of positions that hold no token.
      shards: in order; record i of the folder is found by adding up their counts.
    """

    max_seq_length: int
    max_predictions_per_seq: int
    vocab_size: int
    tokenizer: dict[str, str]
    settings: dict[str, Any]
    corpus: dict[str, Any]
    source: dict[str, Any]
    padding_share: float
    shards: tuple[Shard, ...]
    bertjax_version: str
    format_version: int = FORMAT_VERSION

    @property
    def num_examples(self) -> int:
        return sum(shard.examples for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the contents of all shards."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        write_json(folder / MANIFEST, dataclasses.asdict(self))


def load_manifest(folder: Path) -> Manifest:
    """Reads and checks a folder's manifest and the sizes of its shards.

    Raises:
      UserError: no manifest, one of another version or without records, or a shard missing or of
        another size.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: not found; make the records with: python -m bertjax.prepare")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["shards"] = tuple(Shard(**shard) for shard in raw["shards"])
        manifest = Manifest(**raw)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a manifest ({error}); prepare the records again") from error
    if manifest.format_version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {manifest.format_version}, this bertjax reads "
            f"{FORMAT_VERSION}; prepare the records again"
        )
    if not manifest.num_examples:
        raise UserError(f"{path}: no records; prepare the records again")
    for shard in manifest.shards:
        file = folder / shard.file
        found = file.stat().st_size if file.is_file() else -1
        if found != shard.bytes:
            state = "missing" if found < 0 else f"{found} bytes instead of {shard.bytes}"
            raise UserError(f"{file}: {state}; copy it again or prepare the records again")
    return manifest


def serialize(arrays: dict[str, np.ndarray]) -> Iterator[bytes]:
    """Rows of FEATURES' arrays, each [N, length], to tf.train.Example messages."""
    # Imported late: the manifest above is read by files that must not load TensorFlow.
    from tensorflow.core.example import example_pb2

    # Row by row: lists of a whole table would fall out of the processor's cache.
    for row in range(len(arrays["input_ids"])):
        example = example_pb2.Example()
        features = example.features.feature
        for name, (_, kind) in FEATURES.items():
            feature = features[name]
            target = feature.float_list if kind == "float32" else feature.int64_list
            target.value.extend(arrays[name][row].tolist())
        yield example.SerializeToString(deterministic=True)


def write_shard(path: Path, messages: Iterable[bytes]) -> Shard:
    """Writes one TFRecord file whole or not at all, and returns its entry for the manifest."""
    import tensorflow as tf

    count, digest = 0, hashlib.sha256()
    try:
        with whole(path) as partial:
            with tf.io.TFRecordWriter(str(partial)) as writer:
                for message in messages:
                    writer.write(message)
                    count += 1
            with open(partial, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            size = partial.stat().st_size
    except tf.errors.OpError as error:
        raise UserError(
            f"{path}: could not be written ({error.message}); see to the disk's free space and "
            "the folder's permissions and run the same command again"
        ) from error
    return Shard(path.name, count, size, digest.hexdigest())


class ShardReader:
    """Random access to the records of one TFRecord file.

    A record is framed by its length (8 bytes), a checksum of that (4), and a checksum behind its
    content (4); hopping over the frames gives every record's place without reading contents.

    Raises:
      UserError: the file ends inside a record; file and byte offset are named.
    """

    _HEADER, _FOOTER = 12, 4

    def __init__(self, path: Path):
        self.path = path
        size = path.stat().st_size
        self._bytes = np.memmap(path, np.uint8, mode="r") if size else np.zeros(0, np.uint8)
        starts, lengths, offset = [], [], 0
        view = self._bytes.data
        while offset < size:
            end = offset + self._HEADER
            length = struct.unpack_from("<Q", view, offset)[0] if end <= size else size
            if end + length + self._FOOTER > size:
                raise UserError(
                    f"{path}: truncated inside the record at byte {offset}; copy the shard again "
                    "or prepare the records again"
                )
            starts.append(end)
            lengths.append(length)
            offset = end + length + self._FOOTER
        self._starts, self._lengths = np.array(starts, np.int64), np.array(lengths, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> bytes:
        start = self._starts[index]
        return self._bytes[start : start + self._lengths[index]].tobytes()
