"""Documents to tokens: what a worker does with the parts of documents it is given."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertjax import corpus, duplicate_lines, tokenizer
from bertjax.corpus import Part
from bertjax.data.store import TokenParts, token_type

_ID_BYTES = 4


class TextSettings(NamedTuple):
    """How text becomes tokens.

    Attributes:
      tokenizer: what tokenizer.load takes.
      language: its sentences are split; "" if lines are sentences already.
      min_tokens: shorter documents are dropped.
      seed: of the order of the parts.
      dropped_lines: what duplicate_lines.find gave, or None.
    """

    tokenizer: Path
    language: str = "en"
    min_tokens: int = 1
    seed: int = 0
    dropped_lines: Path | None = None


class Tokenized(NamedTuple):
    """The parts that are left, and what became of the others.

    Attributes:
      parts: in the order of the input.
      read: how many parts there were.
      document_tokens: [N] tokens of each part of the input; first: [N] bool, begins a document.
      short, lines: documents and lines that were dropped.
      characters: bytes of text.
    """

    parts: TokenParts
    read: int
    document_tokens: np.ndarray
    first: np.ndarray
    short: int
    lines: int
    characters: int


@cache
def _tokenizer(path: Path) -> tokenizer.Tokenizer:
    return tokenizer.load(path)


def tokenize(job: tuple[TextSettings, list[Part]]) -> Tokenized:
    """Splits lines into sentences and these into tokens.

    Raises:
      UserError: as corpus.lines.
    """
    settings, parts = job
    encode = _tokenizer(settings.tokenizer).encode_packed
    kept: list[int] = []
    sentences: list[bytes] = []
    num_sentences, num_tokens = [], []
    dropped_lines = short = 0
    for number, part in enumerate(parts):
        lines = corpus.lines(part)
        if settings.dropped_lines is not None:
            unwanted = duplicate_lines.dropped(part, settings.dropped_lines)
            lines = [line for place, line in enumerate(lines) if place not in unwanted]
            dropped_lines += len(unwanted)
        if settings.language:
            lines = [s for line in lines for s in corpus.sentences(line, settings.language)]
        found = [ids for ids in encode(lines) if ids]
        tokens = sum(map(len, found)) // _ID_BYTES
        num_tokens.append(tokens)
        if part.is_whole and tokens < settings.min_tokens:
            short += 1
        elif tokens:
            kept.append(number)
            num_sentences.append(len(found))
            sentences += found
    every = np.array(num_tokens, np.int64)
    return Tokenized(
        parts=_packed(settings, [parts[i] for i in kept], sentences, num_sentences, every[kept]),
        read=len(parts),
        document_tokens=every,
        first=np.array([part.number == 0 for part in parts], bool),
        short=short,
        lines=dropped_lines,
        characters=sum(len(part.raw) for part in parts),
    )


def _packed(
    settings: TextSettings,
    parts: list[Part],
    sentences: list[bytes],
    num_sentences: list[int],
    num_tokens: np.ndarray,
) -> TokenParts:
    ids = np.frombuffer(b"".join(sentences), np.uint32)
    keys, own = _keys(settings.seed, parts)
    documents = [int.from_bytes(part.document[:8], "little") for part in parts]
    return TokenParts(
        key=keys,
        # A document of one part is known by that; 0 is no other's document.
        document=np.where([part.is_whole for part in parts], own, np.array(documents, np.uint64)),
        number=np.array([part.number for part in parts], np.uint32),
        num_sentences=np.array(num_sentences, np.int64),
        num_tokens=num_tokens,
        sentence_lengths=np.array([len(s) // _ID_BYTES for s in sentences], np.uint32),
        tokens=ids.astype(token_type(_tokenizer(settings.tokenizer).vocab_size)),
    )


def _keys(seed: int, parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
    """[P] and [P] uint64, which hang on seed and text alone."""
    key = str(seed).encode()
    digests = [hashlib.blake2b(part.raw, digest_size=16, key=key).digest() for part in parts]
    pairs = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
