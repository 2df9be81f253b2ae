"""Documents to tokens: what a worker does with the parts of documents it is given."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertjax.data.store import TokenParts, token_type
from bertjax.text import corpus, duplicate_lines, tokenizer
from bertjax.text.corpus import Part


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
def load(path: Path) -> tokenizer.Tokenizer:
    """A tokenizer, loaded once in every process."""
    return tokenizer.load(path)


def tokenize(job: tuple[TextSettings, list[Part]]) -> Tokenized:
    """Splits lines into sentences and these into tokens.

    Raises:
      UserError: as corpus.lines.
    """
    settings, parts = job
    sentences, owners, dropped_lines = _sentences(settings, parts)
    ids, lengths = load(settings.tokenizer).encode_lines(sentences)
    owner = np.array(owners, np.int64)
    tokens = np.bincount(owner, lengths, minlength=len(parts)).astype(np.int64)
    whole = np.array([part.is_whole for part in parts], bool)
    short = whole & (tokens < settings.min_tokens)
    kept = ~short & (tokens > 0)
    some = kept[owner] & (lengths > 0)
    some_ids = ids if some.all() else ids[np.repeat(some, lengths)]
    key, document = _keys(settings.seed, parts)
    return Tokenized(
        parts=TokenParts(
            key=key[kept],
            document=document[kept],
            number=np.array([part.number for part in parts], np.uint32)[kept],
            num_sentences=np.bincount(owner[some], minlength=len(parts))[kept],
            num_tokens=tokens[kept],
            sentence_lengths=lengths[some].astype(np.uint32),
            tokens=some_ids.astype(token_type(load(settings.tokenizer).vocab_size)),
        ),
        read=len(parts),
        document_tokens=tokens,
        first=np.array([part.number == 0 for part in parts], bool),
        short=int(short.sum()),
        lines=dropped_lines,
        characters=sum(len(part.raw) for part in parts),
    )


def _sentences(settings: TextSettings, parts: list[Part]) -> tuple[list[str], list[int], int]:
    """All sentences, the number of the part of each, and how many lines were dropped."""
    sentences: list[str] = []
    owners: list[int] = []
    dropped = 0
    for number, part in enumerate(parts):
        lines = corpus.lines(part)
        if settings.dropped_lines is not None:
            unwanted = duplicate_lines.dropped(part, settings.dropped_lines)
            lines = [line for place, line in enumerate(lines) if place not in unwanted]
            dropped += len(unwanted)
        if settings.language:
            lines = [s for line in lines for s in corpus.sentences(line, settings.language)]
        sentences += lines
        owners += [number] * len(lines)
    return sentences, owners, dropped


def _keys(seed: int, parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
    """[P] uint64 keys and documents, which hang on seed and text alone."""
    key = str(seed).encode()
    digests = [hashlib.blake2b(part.raw, digest_size=16, key=key).digest() for part in parts]
    # A document of one part is known by that.
    documents = [
        digest[8:] if part.is_whole else part.document[:8]
        for digest, part in zip(digests, parts, strict=True)
    ]
    keys = np.frombuffer(b"".join(digests), "<u8")[::2]
    return keys, np.frombuffer(b"".join(documents), "<u8")
