"""A tokenizer that works word by word: what WordPiece and whole words have in common.

The rules of basic_words never look across white space, so the ids of every white-space-delimited
chunk are remembered: English runs mostly from memory.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from bertjax.files import storage
from bertjax.files.whole_file import write_whole
from bertjax.text.basic_words import basic_words, chunks
from bertjax.text.vocabulary_files import MAX_CHARS_PER_WORD, SETTINGS_FILE, fingerprint, to_json
from bertjax.text.word_table import WordTable

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Stands between chunks that are worked on together: white space, which no chunk holds and the rules
# leave alone.
_BETWEEN = "\N{EM SPACE}"
_CHUNK = re.compile(r"(?:\S|[\x0b\x0c\x1c-\x1f\x85])+")
_WORD = re.compile(r"\S+")
# Chunks that are remembered; a longer one will hardly come again, but would weigh a lot.
_MEMO_SIZE, _MEMO_LENGTH = 300_000, 100


class ChunkTokenizer(ABC):
    """Ids of the words of a text; text such as "[MASK]" is split like any other text.

    Attributes:
      kind: what its vocabulary holds.
      file: the name of its vocabulary file; tokenizer_class: what its settings say it is.
      tokens: the vocabulary in the order of its ids, with the five specials in it.
    """

    kind: str
    file: str
    tokenizer_class: str

    def __init__(
        self, tokens: list[str], lowercase: bool, max_chars_per_word: int = MAX_CHARS_PER_WORD
    ) -> None:
        self.tokens, self.lowercase = tokens, lowercase
        self.max_chars_per_word = max_chars_per_word
        self.vocab_size = len(tokens)
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            self.ids[name] for name in SPECIALS
        )
        # Chunk -> packed ids.
        self._memo: dict[str, bytes] = {}
        reserved = [self.ids[name] for name in SPECIALS]
        reserved += [i for i, t in enumerate(tokens) if re.fullmatch(r"\[unused\d+\]", t)]
        self.never_random = np.unique(np.array(reserved, np.int32))
        self.fingerprint = fingerprint(self._vocabulary(), self._settings())

    @abstractmethod
    def _match_word(self, word: str) -> list[tuple[int, int]]:
        """(id, characters covered) of each piece of a word."""

    def _settings(self) -> dict[str, Any]:
        """What the ids hang on beside the vocabulary."""
        return {"do_lower_case": self.lowercase, "max_chars_per_word": self.max_chars_per_word}

    def _vocabulary(self) -> bytes:
        return "".join(token + "\n" for token in self.tokens).encode()

    def _encode_chunks(self, chunks: list[str]) -> dict[str, bytes]:
        """Packed ids of chunks that are not remembered; worked on together, for calls cost most."""
        texts = basic_words(_BETWEEN.join(chunks), self.lowercase).split(_BETWEEN)
        return {
            chunk: array(
                "I", [i for word in text.split() for i, _ in self._match_word(word)]
            ).tobytes()
            for chunk, text in zip(chunks, texts, strict=True)
        }

    def _packed(self, found: list[str]) -> list[bytes]:
        """Packed ids of each chunk, from memory as far as they are there."""
        packed = list(map(self._memo.get, found))
        if None in packed:
            missing = {chunk for chunk, ids in zip(found, packed, strict=True) if ids is None}
            new = self._encode_chunks(list(missing))
            packed = [new[c] if i is None else i for c, i in zip(found, packed, strict=True)]
            self._remember(new)
        return cast(list[bytes], packed)

    @cached_property
    def _table(self) -> WordTable:
        """For long texts."""

        def encode(texts: list[str]) -> list[np.ndarray]:
            return [np.frombuffer(ids, np.uint32) for ids in self._packed(texts)]

        return WordTable(self.lowercase, encode)

    def _remember(self, new: dict[str, bytes]) -> None:
        """Forgets all when it is too much, so that memory stays bounded."""
        if len(self._memo) + len(new) > _MEMO_SIZE:
            self._memo = {}
        short = (item for item in new.items() if len(item[0]) <= _MEMO_LENGTH)
        self._memo.update(islice(short, _MEMO_SIZE))

    def encode(self, text: str) -> list[int]:
        # Joining bytes is several times faster than chaining numbers.
        return array("I", b"".join(self._packed(chunks(text)))).tolist()

    def encode_lines(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        # All lines at once: what a call costs would weigh more than the lines themselves.
        words = self._table.words("\n".join(lines))
        ends = np.cumsum(np.array([len(line) + 1 for line in lines], np.int64))
        # [L + 1] ids before every line and behind the last one
        before = np.concatenate([[0], np.cumsum(words.counts)])
        before = before[np.searchsorted(words.start, np.concatenate([[0], ends]))]
        return words.ids, np.diff(before)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for chunk in _CHUNK.finditer(text):
            for piece, begin, end in self._locate(chunk.group()):
                ids.append(piece)
                offsets.append((chunk.start() + begin, chunk.start() + end))
        return ids, offsets

    def _locate(self, chunk: str) -> list[tuple[int, int, int]]:
        """(id, begin, end) of each piece of one chunk.

        Every rule maps one character to none, one or more; only the shape of a final sigma hangs
        on its neighbours, not its length. So lengths taken one by one place the normalised text.
        """
        lengths = [len(basic_words(char, self.lowercase)) for char in chunk]
        source = [i for i, length in enumerate(lengths) for _ in range(length)]
        found = []
        for word in _WORD.finditer(basic_words(chunk, self.lowercase)):
            at = word.start()
            for piece, length in self._match_word(word.group()):
                begin, end = source[at], source[at + length - 1] + 1
                # A deleted accent or control character belongs to the letter before it.
                while end < len(chunk) and not lengths[end]:
                    end += 1
                found.append((piece, begin, end))
                at += length
        return found

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self.tokens[i] for i in ids]

    def save(self, folder: str | Path) -> None:
        settings = {"tokenizer_class": self.tokenizer_class, **self._settings()}
        names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIALS, strict=True))
        settings |= {f"{name}_token": token for name, token in names.items()}
        write_whole(storage.path(folder) / self.file, self._vocabulary())
        write_whole(storage.path(folder) / SETTINGS_FILE, to_json(settings))
