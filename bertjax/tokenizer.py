"""Turns text into ids and back: WordPiece and SentencePiece behind one small interface.

WordPiece follows the rules of the 2018 release (google-research/bert, tokenization.py): control
characters deleted, CJK characters and punctuation standing alone, lower case and accents removed
for an uncased vocabulary, then greedy longest match. Those rules never look across white space,
so the ids of every white-space-delimited chunk are remembered: English runs mostly from memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece
from tokenizers.models import WordPiece as GreedyMatch

from bertjax.errors import UserError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# As at the head of google-research/bert. Hugging Face's WordPiece has 100: there a word of 101 to
# 200 characters is one [UNK], here it is cut into pieces.
MAX_CHARS_PER_WORD = 200
_SETTINGS_FILE = "tokenizer_config.json"


class Tokenizer(Protocol):
    """What the rest of the code knows about a tokenizer; offsets are character positions."""

    kind: str  # "wordpiece" or "sentencepiece"
    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    fingerprint: str  # sha256, in hex, of the vocabulary and of the settings
    never_random: np.ndarray  # sorted ids that a random replacement must never be

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without [CLS] and [SEP]."""

    def encode_batch(self, lines: list[str]) -> list[list[int]]:
        """The ids of each line."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and for each of them (begin, end) in the text as it was given."""

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary entry of each id."""

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text; [PAD], [CLS] and [SEP] are left out."""

    def starts_word(self) -> np.ndarray:
        """bool [V]: the piece begins a word, so whole-word masking starts a new unit there."""

    def save(self, folder: str | Path) -> None:
        """Writes the files that `load` reads into an existing or a new folder."""


# --- The rules of 2018, one character at a time ---------------------------------------------


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


class _Memo(dict[str, tuple[int, ...]]):
    """Chunk -> ids, filled on demand and emptied when full so that memory stays bounded."""

    def __init__(self, work_out: Callable[[str], tuple[int, ...]], limit: int = 1_000_000) -> None:
        super().__init__()
        self._work_out, self._limit = work_out, limit

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        if len(self) >= self._limit:
            self.clear()
        ids = self._work_out(chunk)
        # A chunk of a long run without spaces will hardly come again, but would weigh a lot.
        if len(chunk) <= 100:
            self[chunk] = ids
        return ids


# --- WordPiece ------------------------------------------------------------------------------


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
        self._memo = _Memo(self._encode_chunk)
        reserved = [ids[name] for name in SPECIALS]
        reserved += [i for i, t in enumerate(tokens) if re.fullmatch(r"\[unused\d+\]", t)]
        self.never_random = np.unique(np.array(reserved, np.int32))
        self.fingerprint = _sha256(self._vocabulary(), self._settings())

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

    def _encode_chunk(self, chunk: str) -> tuple[int, ...]:
        words = basic_words(chunk, self.lowercase).split()
        return tuple(i for word in words for i, _ in self._match_word(word))

    def encode(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self._memo.__getitem__, chunks(text))))

    def encode_batch(self, lines: list[str]) -> list[list[int]]:
        return [self.encode(line) for line in lines]

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
        _write(Path(folder) / "vocab.txt", self._vocabulary())
        _write(Path(folder) / _SETTINGS_FILE, _json(settings))


# --- SentencePiece --------------------------------------------------------------------------

_SENTENCEPIECE_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}


class SentencePieceTokenizer:
    """A SentencePiece model whose pieces include [CLS], [SEP], [MASK] and [PAD] (or <s> ...)."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, name: str = "spiece.model", lowercase: bool = False) -> None:
        """`lowercase` lowers the text before the model, for models that were trained that way.

        Raises UserError, naming `name`, for a broken model or one without a special piece.
        """
        self.lowercase = lowercase
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise UserError(f"{name}: not a SentencePiece model") from None
        self._bytes = model
        self.vocab_size = self._model.get_piece_size()
        self.tokens = [self._model.id_to_piece(i) for i in range(self.vocab_size)]
        ids = {token: i for i, token in enumerate(self.tokens)}
        found = {}
        for role, names in _SENTENCEPIECE_NAMES.items():
            found[role] = next((ids[n] for n in names if n in ids), -1)
            if found[role] < 0:
                raise UserError(
                    f"{name}: no {names[0]} piece; train the model with {names[0]} as a control "
                    "symbol (bertjax's own vocabularies have it)"
                )
        self.pad_id, self.cls_id = found["pad"], found["cls"]
        self.sep_id, self.mask_id = found["sep"], found["mask"]
        self.unk_id = self._model.unk_id()
        self.never_random = self._never_random()
        self.fingerprint = _sha256(model, self._settings())

    def _settings(self) -> dict[str, Any]:
        return {"do_lower_case": self.lowercase}

    def _never_random(self) -> np.ndarray:
        model = self._model
        checks = (model.is_control, model.is_unknown, model.is_unused, model.is_byte)
        reserved = {i for i in range(self.vocab_size) if any(check(i) for check in checks)}
        reserved |= {self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id}
        return np.array(sorted(reserved), np.int32)

    def _lower(self, text: str) -> str:
        """Lower case of the same length, so that offsets still hold."""
        if not self.lowercase:
            return text
        lower = text.lower()
        if len(lower) == len(text):
            return lower
        return "".join(char.lower()[0] for char in text)

    def encode(self, text: str) -> list[int]:
        return self._model.encode(self._lower(text))

    def encode_batch(self, lines: list[str]) -> list[list[int]]:
        return self._model.encode([self._lower(line) for line in lines])

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = self._model.encode(self._lower(text), return_type="offset_mapping")
        offsets = []
        for begin, end in found["offsets"]:
            while begin < end and text[begin].isspace():  # the white space that ▁ stands for
                begin += 1
            offsets.append((begin, end))
        return list(found["ids"]), offsets

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self.tokens[i] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        hidden = (self.pad_id, self.cls_id, self.sep_id)
        # Not the library's decode: that one leaves out [MASK] and blurs unknown pieces.
        return "".join(self.pieces(i for i in ids if i not in hidden)).replace("▁", " ").strip()

    def starts_word(self) -> np.ndarray:
        whole = set(self.never_random.tolist())
        return np.array([t.startswith("▁") or i in whole for i, t in enumerate(self.tokens)])

    def save(self, folder: str | Path) -> None:
        _write(Path(folder) / "spiece.model", self._bytes)
        settings = {"tokenizer_class": "AlbertTokenizer", **self._settings()}
        _write(Path(folder) / _SETTINGS_FILE, _json(settings))


# --- Files ----------------------------------------------------------------------------------


def load(path: str | Path, lowercase: bool | None = None) -> Tokenizer:
    """Reads a vocab.txt, a SentencePiece .model, or a folder that holds one of them.

    In a folder, tokenizer_config.json beside the vocabulary says whether to lower the text (so
    folders from Hugging Face read as they are, and tokenizer.json serves where it is the only
    file). An explicit `lowercase` wins. Without either, a WordPiece vocabulary in which no word
    piece has a capital letter is uncased.

    Raises:
      UserError: a missing, empty, broken or unsuitable file, with its name and line.
    """
    file = _find(Path(path))
    settings = _read_settings(file.parent / _SETTINGS_FILE)
    if lowercase is None:
        lowercase = settings.get("do_lower_case")
    if file.suffix == ".model":
        return SentencePieceTokenizer(file.read_bytes(), str(file), bool(lowercase))
    if file.suffix == ".json":
        tokens, settings = _read_tokenizer_json(file)
        lowercase = settings["do_lower_case"] if lowercase is None else lowercase
    else:
        tokens = _read_vocabulary(file)
    for name in SPECIALS:
        if name not in tokens:
            raise UserError(
                f"{file}: no {name} in the vocabulary; BERT needs {', '.join(SPECIALS)}"
            )
    if lowercase is None:
        lowercase = not any(t != t.lower() for t in tokens if not t.startswith("["))
    limit = settings.get("max_chars_per_word", MAX_CHARS_PER_WORD)
    return WordPieceTokenizer(tokens, lowercase, limit)


def _find(path: Path) -> Path:
    """The vocabulary file that a path means."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such vocabulary file or folder")
    for pattern in ("vocab.txt", "spiece.model", "*.model", "tokenizer.json"):
        found = sorted(path.glob(pattern))
        if found:
            return found[0]
    raise UserError(f"{path}: no vocab.txt, *.model or tokenizer.json in this folder")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings beside a vocabulary; rules other than those of 2018 are refused."""
    settings = _read_json(path) if path.is_file() else {}
    strip_accents = settings.get("strip_accents")
    if strip_accents is not None and strip_accents != settings.get("do_lower_case", strip_accents):
        raise UserError(
            f"{path}: strip_accents is {strip_accents} but do_lower_case is not; BERT's rules of "
            "2018 do both or neither"
        )
    if settings.get("tokenize_chinese_chars") is False:
        raise UserError(f"{path}: tokenize_chinese_chars must be true, as in the rules of 2018")
    return settings


def _read_tokenizer_json(path: Path) -> tuple[list[str], dict[str, Any]]:
    """The vocabulary and settings in a Hugging Face tokenizer.json."""
    content = _read_json(path)
    model = content.get("model", {})
    if model.get("type") != "WordPiece":
        raise UserError(f"{path}: its model is {model.get('type')}, not WordPiece")
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    if [model["vocab"][token] for token in tokens] != list(range(len(tokens))):
        raise UserError(f"{path}: the ids of its vocabulary have gaps")
    limit = model.get("max_input_chars_per_word", MAX_CHARS_PER_WORD)
    normalizer = content.get("normalizer") or {}
    lowercase = normalizer.get("lowercase")
    return tokens, {"do_lower_case": lowercase, "max_chars_per_word": limit}


def _read_vocabulary(path: Path) -> list[str]:
    """The tokens of a vocab.txt, one a line."""
    data = path.read_bytes()
    try:
        lines = data.decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; is this a vocabulary file?") from None
    if not data.strip():
        raise UserError(f"{path}: the vocabulary is empty")
    first: dict[str, int] = {}
    for number, line_text in enumerate(lines, 1):
        token = line_text.strip()
        if token in first:
            raise UserError(f"{path}:{number}: {token!r} is already on line {first[token]}")
        first[token] = number
    return list(first)


def _sha256(vocabulary: bytes, settings: dict[str, Any]) -> str:
    return hashlib.sha256(vocabulary + _json(settings)).hexdigest()


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
