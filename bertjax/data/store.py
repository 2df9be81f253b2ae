"""Sorts a tokenised corpus of any size by a random key, in bounded memory.

Parts of documents come in the order of the input and are wanted in random order, a shard's worth at
a time. Each has a key made of its own text and the seed. Parts are gathered until a buffer is full,
sorted by their keys and written as a run; a shard is a range of keys, which every run holds in one
piece. So the order hangs on the texts alone, equal texts meet in one shard, and neither the number
of workers nor that of the files changes anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import write_array_header_2_0

from bertjax.data.segments import TokenStore
from bertjax.files.json_file import read_json, write_json

# A range of keys is given in this many steps.
_KEY_BITS = 20
KEY_BINS = 1 << _KEY_BITS
_KEY_SHIFT = np.uint64(64 - _KEY_BITS)


class TokenParts(NamedTuple):
    """Tokenised parts of documents.

    Attributes:
      key: [P] uint64, random but for the part's text.
      document: [P] uint64, equal for the parts of one document.
      number: [P] uint32, the part's place in its document.
      num_sentences, num_tokens: [P] int64.
      sentence_lengths: [S] uint32, tokens of the sentences of all parts.
      tokens: [T] uint16 or uint32 ids of all parts.
    """

    key: np.ndarray
    document: np.ndarray
    number: np.ndarray
    num_sentences: np.ndarray
    num_tokens: np.ndarray
    sentence_lengths: np.ndarray
    tokens: np.ndarray

    def take(self, order: np.ndarray) -> TokenParts:
        """The parts with these numbers, in this order."""
        columns: list[np.ndarray] = [column[order] for column in self[:5]]
        columns.append(_take_ragged(self.sentence_lengths, self.num_sentences, order))
        columns.append(_take_ragged(self.tokens, self.num_tokens, order))
        return TokenParts._make(columns)


# Columns with a row of several values for each part, and those that count them.
_RAGGED = {"sentence_lengths": "num_sentences", "tokens": "num_tokens"}


def join(some: Sequence[TokenParts]) -> TokenParts:
    return TokenParts._make(np.concatenate(columns) for columns in zip(*some, strict=True))


def _take_ragged(values: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The rows `order` of a table whose rows, of different lengths, lie one behind the other."""
    ends = np.cumsum(lengths)
    starts, ends = (ends - lengths)[order].tolist(), ends[order].tolist()
    # Slices, and no array of places, which would take several times the memory of the values.
    rows = [values[start:end] for start, end in zip(starts, ends, strict=True)]
    return np.concatenate([values[:0], *rows])


def token_type(vocab_size: int) -> type[np.unsignedinteger]:
    """The smallest type that holds every id."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def key_bins(keys: np.ndarray) -> np.ndarray:
    """The bins, int64 and below KEY_BINS, into which uint64 keys fall."""
    return (keys >> _KEY_SHIFT).astype(np.int64)


class Runs:
    """Sorted runs below a folder; written once, in order, then read by ranges of keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        return sorted(self.folder.glob("run-*[0-9]"))

    def write(self, parts: TokenParts, facts: dict[str, Any]) -> None:
        """Adds a run, whole or not at all; `facts` tell what the runs hold, up to this one."""
        partial = self.folder / "run.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(partial / "facts.json", facts)
        order = np.argsort(parts.key, kind="stable")
        for name in ("key", "document", "number"):
            np.save(partial / f"{name}.npy", getattr(parts, name)[order])
        for values, lengths in _RAGGED.items():
            counts = getattr(parts, lengths)
            ends = np.concatenate([[0], np.cumsum(counts[order])])
            np.save(partial / f"{lengths}.npy", ends)
            _save_ragged(partial / f"{values}.npy", getattr(parts, values), counts, order)
        os.replace(partial, self.folder / f"run-{len(self.paths()):05d}")

    def facts(self) -> dict[str, Any]:
        """Those of the last run; empty if there is none."""
        paths = self.paths()
        return read_json(paths[-1] / "facts.json") if paths else {}

    def num_parts(self) -> int:
        return sum(len(_load(path, "key")) for path in self.paths())

    def tokens_by_key(self) -> np.ndarray:
        """[KEY_BINS] how many tokens fall into each range of keys."""
        found = np.zeros(KEY_BINS)
        for path in self.paths():
            bins, tokens = key_bins(_load(path, "key")), np.diff(_load(path, "num_tokens"))
            found += np.bincount(bins, tokens, minlength=KEY_BINS)
        return found.astype(np.int64)

    def read(self, first: int, last: int) -> TokenParts:
        """All parts whose keys fall into the bins [first, last), run by run."""
        return join([_read_run(path, first, last) for path in self.paths()])


def _save_ragged(path: Path, values: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> None:
    """Row by row, so that there is never a second copy of all values in memory."""
    ends = np.cumsum(lengths)
    starts, ends = (ends - lengths)[order].tolist(), ends[order].tolist()
    with path.open("wb") as file:
        header = {"descr": values.dtype.str, "fortran_order": False, "shape": values.shape}
        write_array_header_2_0(file, header)
        for start, end in zip(starts, ends, strict=True):
            file.write(values[start:end].tobytes())


def _load(run: Path, name: str) -> np.ndarray:
    """A column of a run; reading it touches only what is asked for."""
    return np.load(run / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def _read_run(run: Path, first: int, last: int) -> TokenParts:
    keys = _load(run, "key")
    begin = int(np.searchsorted(keys, np.uint64(first) << _KEY_SHIFT)) if first else 0
    end = len(keys)
    if last < KEY_BINS:
        end = int(np.searchsorted(keys, np.uint64(last) << _KEY_SHIFT))
    sentences = _load(run, "num_sentences")[begin : end + 1]
    tokens = _load(run, "num_tokens")[begin : end + 1]
    columns = [np.array(_load(run, name)[begin:end]) for name in ("key", "document", "number")]
    columns += [np.diff(sentences), np.diff(tokens)]
    columns.append(np.array(_load(run, "sentence_lengths")[sentences[0] : sentences[-1]]))
    columns.append(np.array(_load(run, "tokens")[tokens[0] : tokens[-1]]))
    return TokenParts._make(columns)


def shard_bounds(tokens_by_key: np.ndarray, shards: int) -> np.ndarray:
    """Bins of keys that cut the tokens into about equal ranges, as many as asked for.

    They are fewer where a text that stands there very often fills several, for none may be empty.
    """
    reached = np.cumsum(tokens_by_key)
    wanted = reached[-1] * np.arange(1, shards) / shards
    inner = np.unique(np.searchsorted(reached, wanted, "right"))
    inner = inner[reached[inner - 1] * (inner > 0) > 0]
    return np.concatenate([[0], inner, [len(tokens_by_key)]])


def without_duplicates(parts: TokenParts) -> TokenParts:
    """Drops all but the first of parts with the same text."""
    order = np.lexsort((parts.number, parts.document, parts.key))
    key, tokens = parts.key[order], parts.num_tokens[order]
    repeated = np.zeros(len(order), bool)
    repeated[1:] = (key[1:] == key[:-1]) & (tokens[1:] == tokens[:-1])
    return parts if not repeated.any() else parts.take(np.sort(order[~repeated]))


def token_store(parts: TokenParts) -> TokenStore:
    """The parts with their documents side by side; the order hangs on the parts alone."""
    parts = parts.take(np.lexsort((parts.key, parts.number, parts.document)))
    zero = np.zeros(1, np.int64)
    return TokenStore(
        parts.tokens,
        np.concatenate([zero, np.cumsum(parts.sentence_lengths, dtype=np.int64)]),
        np.concatenate([zero, np.cumsum(parts.num_sentences)]),
        np.unique(parts.document, return_inverse=True)[1],
    )
