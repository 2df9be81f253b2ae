"""WordPiece by the rules of the 2018 release (google-research/bert, tokenization.py).

Control characters deleted, CJK characters and punctuation standing alone, lower case and accents
removed for an uncased vocabulary, then greedy longest match. Those rules never look across white
space, so the ids of every white-space-delimited chunk are remembered: English runs mostly from
memory.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from tokenizers.models import WordPiece as GreedyMatch

from bertjax.vocabulary_files import MAX_CHARS_PER_WORD, SETTINGS_FILE, fingerprint, to_json
from bertjax.whole_file import write_whole

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class _Table(dict[int, str]):
    """A str.translate table that works out each character's row when it is first met."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        row = self[code] = self._rule(chr(code))
        return row


def _is_cjk(char: str) -> bool:
    code = ord(char)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def _clean(char: str) -> str:
    """Deletes control characters and U+FFFD, puts spaces around CJK characters."""
    if char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf"):
        return ""
    return f" {char} " if _is_cjk(char) else char


def _split_punctuation(char: str) -> str:
    """Puts spaces around punctuation; every printable ASCII sign counts as such ($, ^, `, ...)."""
    sign = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    return f" {char} " if sign or unicodedata.category(char).startswith("P") else char


def _fold(char: str) -> str:
    """As _split_punctuation, and deletes the marks that NFD has split from their letters."""
    return "" if unicodedata.category(char) == "Mn" else _split_punctuation(char)


_CLEAN, _SPLIT, _FOLDED = _Table(_clean), _Table(_split_punctuation), _Table(_fold)


def basic_words(text: str, lowercase: bool) -> str:
    """A text without tab or line breaks after the rules of 2018, its words set apart by spaces."""
    text = text.translate(_CLEAN)
    if not lowercase:
        return text.translate(_SPLIT)
    return unicodedata.normalize("NFD", text.lower()).translate(_FOLDED)


# Python's split() and \s break words at these, the 2018 code deletes them as control characters.
_DELETED_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_CHUNK = re.compile(r"(?:\S|[\x0b\x0c\x1c-\x1f\x85])+")
_WORD = re.compile(r"\S+")


def chunks(text: str) -> list[str]:
    """The white-space-delimited chunks of a text; no rule of 2018 looks across their borders."""
    if _DELETED_SPACE.search(text):
        text = _DELETED_SPACE.sub("", text)
    return text.split()


# Stands between lines that are encoded together; the rules delete it from text.
_BREAK, _BREAK_ID = "\0", np.uint32(0xFFFFFFFF)
# Stands between chunks that are worked on together: white space, which no chunk holds and the rules
# leave alone.
_BETWEEN = "\N{EM SPACE}"
# Chunks that are remembered; a longer one will hardly come again, but would weigh a lot.
_MEMO_SIZE, _MEMO_LENGTH = 300_000, 100


class WordPieceTokenizer:
    """WordPiece by the rules of 2018; text such as "[MASK]" is split like any other text."""

    kind = "wordpiece"

    def __init__(
        self, tokens: list[str], lowercase: bool, max_chars_per_word: int = MAX_CHARS_PER_WORD
    ) -> None:
        """`tokens` is the vocabulary in the order of its ids, with the five specials in it."""
        self.tokens, self.lowercase = tokens, lowercase
        self.max_chars_per_word = max_chars_per_word
        self.vocab_size = len(tokens)
        ids = {token: i for i, token in enumerate(tokens)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            ids[name] for name in SPECIALS
        )
        self._match = GreedyMatch(
            ids, unk_token="[UNK]", max_input_chars_per_word=max_chars_per_word
        )
        # The longest match of a word that is an entry itself needs no search.
        self._whole = {t: i for t, i in ids.items() if len(t) <= max_chars_per_word}
        # Chunk -> packed ids.
        self._memo: dict[str, bytes] = {}
        reserved = [ids[name] for name in SPECIALS]
        reserved += [i for i, t in enumerate(tokens) if re.fullmatch(r"\[unused\d+\]", t)]
        self.never_random = np.unique(np.array(reserved, np.int32))
        self.fingerprint = fingerprint(self._vocabulary(), self._settings())

    def _vocabulary(self) -> bytes:
        return "".join(token + "\n" for token in self.tokens).encode()

    def _settings(self) -> dict[str, Any]:
        return {"do_lower_case": self.lowercase, "max_chars_per_word": self.max_chars_per_word}

    def _match_word(self, word: str) -> list[tuple[int, int]]:
        """(id, characters covered) of each piece of a word."""
        if (whole := self._whole.get(word)) is not None:
            return [(whole, len(word))]
        try:
            found = self._match.tokenize(word)
        except UnicodeEncodeError:  # half of a surrogate pair: no vocabulary has that
            return [(self.unk_id, len(word))]
        if len(found) == 1:
            return [(found[0].id, len(word))]
        return [(t.id, len(t.value) - 2 * (i > 0)) for i, t in enumerate(found)]

    def _encode_chunks(self, chunks: list[str]) -> dict[str, bytes]:
        """Packed ids of chunks that are not remembered; worked on together, for calls cost most."""
        texts = basic_words(_BETWEEN.join(chunks), self.lowercase).split(_BETWEEN)
        return {
            chunk: array(
                "I", [i for word in text.split() for i, _ in self._match_word(word)]
            ).tobytes()
            for chunk, text in zip(chunks, texts, strict=True)
        }

    def _pack(self, text: str) -> bytes:
        found = chunks(text)
        packed = list(map(self._memo.get, found))
        if None in packed:
            missing = {chunk for chunk, ids in zip(found, packed, strict=True) if ids is None}
            new = self._encode_chunks(list(missing)) | {_BREAK: _BREAK_ID.tobytes()}
            packed = [new[c] if i is None else i for c, i in zip(found, packed, strict=True)]
            self._remember(new)
        # Joining bytes is several times faster than chaining numbers.
        return b"".join(cast(list[bytes], packed))

    def _remember(self, new: dict[str, bytes]) -> None:
        """Forgets all when it is too much, so that memory stays bounded."""
        if len(self._memo) + len(new) > _MEMO_SIZE:
            self._memo = {}
        short = (item for item in new.items() if len(item[0]) <= _MEMO_LENGTH)
        self._memo.update(islice(short, _MEMO_SIZE))

    def encode(self, text: str) -> list[int]:
        return array("I", self._pack(text.replace(_BREAK, ""))).tolist()

    def encode_lines(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        # All lines at once: what a call costs would weigh more than the lines themselves.
        text = f" {_BREAK} ".join([line.replace(_BREAK, "") for line in [*lines, ""]])
        packed = np.frombuffer(self._pack(text), np.uint32)
        breaks = np.flatnonzero(packed == _BREAK_ID)
        lengths = np.diff(breaks, prepend=-1) - 1
        return packed[packed != _BREAK_ID], lengths

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

    def decode(self, ids: Iterable[int]) -> str:
        hidden = (self.pad_id, self.cls_id, self.sep_id)
        return " ".join(self.pieces(i for i in ids if i not in hidden)).replace(" ##", "")

    def starts_word(self) -> np.ndarray:
        return np.array([not token.startswith("##") for token in self.tokens])

    def save(self, folder: str | Path) -> None:
        settings = {"tokenizer_class": "BertTokenizer", **self._settings()}
        names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIALS, strict=True))
        settings |= {f"{name}_token": token for name, token in names.items()}
        write_whole(Path(folder) / "vocab.txt", self._vocabulary())
        write_whole(Path(folder) / SETTINGS_FILE, to_json(settings))
