"""Builds one shard: tokens of parts of documents, their segments, records, an index."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertjax.data import segments, store, tfrecord, tokenized
from bertjax.data.build_settings import BuildSettings
from bertjax.data.layout import Messages
from bertjax.data.manifest import Shard
from bertjax.data.segments import FORMATS
from bertjax.data.walk import make_rows
from bertjax.errors import UserError
from bertjax.files.whole_file import whole, write_whole

# Tokens of a shard, about: 64 MiB of masked records, 16 MiB of compact ones. A build that has only
# a few such shards makes smaller ones, for each is one worker's job.
_SHARD_TOKENS, _SMALL_SHARD_TOKENS, _FEW = 7_000_000, 1_000_000, 16
# A shard needs some parts of documents, so that random segments have a choice.
_SHARD_PARTS = 8


# All of them with their indexes.
SHARD_FILES = "records-*-of-*.*"


def shard_name(number: int, shards: int) -> str:
    """The file of one of so many shards, counted from 0."""
    return f"records-{number:05d}-of-{shards:05d}.tfrecord"


class ShardJob(NamedTuple):
    """Which shard to build, of what, and where to."""

    work: Path
    output: Path
    tokenizer: Path
    settings: BuildSettings
    number: int
    shards: int
    first_key: int
    last_key: int

    @property
    def name(self) -> str:
        return shard_name(self.number, self.shards)


def write_shard(parts: store.TokenParts, job: ShardJob) -> tuple[dict[str, Any], np.ndarray]:
    """Writes one shard with its index.

    Returns:
      What the manifest needs to know of it, and how often each piece stands in its text.

    Raises:
      UserError: no documents to draw random segments from.
    """
    settings = job.settings
    read_tokens, read_documents = len(parts.tokens), _num_documents(parts)
    if settings.drop_duplicates:
        parts = store.without_duplicates(parts)
    tokens = store.token_store(parts)
    _check_documents(tokens, settings)
    rng = np.random.default_rng([settings.seed, job.number])
    tokenizer = tokenized.load(job.tokenizer)
    messages = Messages(settings.layout(), tokenizer)
    rows = make_rows(tokens, settings.walk(), rng)
    shard = write_records(job.output / job.name, messages.of(tokens, rows, rng))
    entry = {
        **dataclasses.asdict(shard),
        "documents": _num_documents(parts),
        "sentences": len(parts.sentence_lengths),
        "tokens": len(parts.tokens),
        "duplicate_documents": read_documents - _num_documents(parts),
        "duplicate_tokens": read_tokens - len(parts.tokens),
        "filled": messages.tokens,
        "max_sequences": messages.most_sequences,
    }
    return entry, np.bincount(tokens.tokens, minlength=tokenizer.vocab_size).astype(np.int64)


def _num_documents(parts: store.TokenParts) -> int:
    return int((parts.number == 0).sum())


def _check_documents(tokens: segments.TokenStore, settings: BuildSettings) -> None:
    needed = FORMATS[settings.segments].documents
    if tokens.num_documents < needed:
        raise UserError(
            f"a shard holds {tokens.num_documents} document(s), and --segments={settings.segments} "
            "draws from another one; put a blank line between documents, give several files or "
            "fewer --num_shards, or choose --segments=doc_sentences"
        )


def write_records(path: Path, messages: Iterable[bytes]) -> Shard:
    """The file of records and its index, each whole or not at all."""
    with whole(path) as partial, partial.open("wb") as file:
        lengths = tfrecord.write(file, messages)
    return entry_of(path, lengths)


def entry_of(path: Path, lengths: list[int]) -> Shard:
    """What the manifest says of a file of records of these lengths; writes the index beside it."""
    write_whole(tfrecord.index_path(path), tfrecord.index_bytes(lengths))
    size, first = path.stat().st_size, tfrecord.first_sum(path, lengths)
    return Shard(path.name, len(lengths), size, sha256(path), first)


def sha256(path: Path) -> str:
    """Of a whole file, as the manifest keeps it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def num_shards(tokens: int, parts: int, settings: BuildSettings) -> int:
    """As asked, or by the size of the build; never so many that a shard has too few parts."""
    if settings.num_shards:
        return max(1, min(settings.num_shards, parts))
    made = tokens * settings.dupe_factor
    few = min(math.ceil(made / _SMALL_SHARD_TOKENS), _FEW)
    return max(1, min(max(few, math.ceil(made / _SHARD_TOKENS)), parts // _SHARD_PARTS))
