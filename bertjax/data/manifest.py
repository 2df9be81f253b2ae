"""manifest.json: all that a training run must know about a folder of records, and nowhere else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.json_file import write_json

MANIFEST = "manifest.json"
FORMAT_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records: its name, how many records, how many bytes, their SHA-256.

    first is the checksum of the first record, which tells shards of two builds apart when they are
    opened, where to read all of them would take too long.
    """

    file: str
    examples: int
    bytes: int
    sha256: str
    first: str = ""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is in a folder of records; the single source of truth about it.

    Attributes:
      max_seq_length: T.
      max_predictions_per_seq: P.
      vocab_size, tokenizer: V, and {"kind", "fingerprint"} of the tokenizer beside the shards.
      dynamic: masked within the training step, so records are compact; else masked already.
      packed: several sequences in a row.
      pairs: a sequence has two segments; has_label: and a label that tells if the second belongs
        there.
      max_sequences: the most sequences in a row.
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
    dynamic: bool = False
    packed: bool = False
    pairs: bool = True
    has_label: bool = True
    max_sequences: int = 1
    format_version: int = FORMAT_VERSION

    @property
    def num_examples(self) -> int:
        return sum(shard.examples for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the contents of all shards."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def piece_counts(self) -> np.ndarray:
        """[V] how often each entry of the vocabulary stands in the text.

        Raises:
          UserError: records of a bertjax that did not keep the counts.
        """
        counts = self.corpus.get("piece_counts")
        if counts is None:
            raise UserError("the records do not tell the counts of words; prepare them again")
        return np.array(counts.split(), np.int64)

    def save(self, folder: Path) -> None:
        content = dataclasses.asdict(self)
        write_json(folder / MANIFEST, {**content, "sha256": _digest(content)})


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(folder: Path) -> Manifest:
    """Reads and checks a folder's manifest and the sizes of its shards.

    Raises:
      UserError: no manifest, one that was edited, of another version or without records; a shard
        missing or of another size.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: not found; make the records with: python -m bertjax.prepare")
    manifest = _read(path)
    if not manifest.num_examples:
        raise UserError(f"{path}: no records; prepare the records again")
    files = [folder / shard.file for shard in manifest.shards]
    with ThreadPoolExecutor(storage.AT_ONCE) as pool:
        sizes = pool.map(lambda file: storage.size(file) if file.is_file() else -1, files)
    for file, shard, found in zip(files, manifest.shards, sizes, strict=True):
        if found != shard.bytes:
            state = "missing" if found < 0 else f"{found} bytes instead of {shard.bytes}"
            raise UserError(f"{file}: {state}; copy it again or prepare the records again")
    return manifest


def _read(path: Path) -> Manifest:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["format_version"]
        if version == FORMAT_VERSION:
            if raw.pop("sha256") != _digest(raw):
                raise UserError(
                    f"{path}: was edited, its checksum does not fit; what it says must be true of "
                    "the shards, so prepare the records again"
                )
            raw["shards"] = tuple(Shard(**shard) for shard in raw["shards"])
            return Manifest(**raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest ({error}); prepare the records again") from error
    raise UserError(
        f"{path}: format version {version}, this bertjax reads {FORMAT_VERSION}; prepare the "
        "records again"
    )
