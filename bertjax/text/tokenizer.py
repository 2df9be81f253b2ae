"""Turns text into ids and back: WordPiece, SentencePiece and words behind one small interface."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.text import vocabulary_files
from bertjax.text.chunk_tokenizer import SPECIALS
from bertjax.text.sentence_pieces import SentencePieceTokenizer
from bertjax.text.wordpiece import WordPieceTokenizer
from bertjax.text.words import WordTokenizer


class Tokenizer(Protocol):
    """What the rest of the code knows about a tokenizer; offsets are character positions."""

    kind: str  # "wordpiece", "sentencepiece" or "words"
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

    def encode_lines(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """For much text: the ids of all lines, uint32, and how many of them each line has."""

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


def load(path: str | Path, lowercase: bool | None = None) -> Tokenizer:
    """Reads a vocab.txt, a words.txt, a SentencePiece .model, or a folder that holds one of them.

    In a folder, tokenizer_config.json beside the vocabulary says whether to lower the text (so
    folders from Hugging Face read as they are, and tokenizer.json serves where it is the only
    file). An explicit `lowercase` wins. Without either, a vocabulary in which no word has a capital
    letter is uncased.

    Raises:
      UserError: a missing, empty, broken or unsuitable file, with its name and line.
    """
    file = vocabulary_files.find(storage.path(path))
    settings = vocabulary_files.read_settings(file.parent / vocabulary_files.SETTINGS_FILE)
    if lowercase is None:
        lowercase = settings.get("do_lower_case")
    if file.suffix == ".model":
        return SentencePieceTokenizer(file.read_bytes(), str(file), bool(lowercase))
    if file.suffix == ".json":
        tokens, settings = vocabulary_files.read_tokenizer_json(file)
        lowercase = settings["do_lower_case"] if lowercase is None else lowercase
    else:
        tokens = vocabulary_files.read_vocabulary(file)
    for name in SPECIALS:
        if name not in tokens:
            raise UserError(
                f"{file}: no {name} in the vocabulary; BERT needs {', '.join(SPECIALS)}"
            )
    if lowercase is None:
        lowercase = not any(t != t.lower() for t in tokens if not t.startswith("["))
    limit = settings.get("max_chars_per_word", vocabulary_files.MAX_CHARS_PER_WORD)
    kind = WordTokenizer if file.name == WordTokenizer.file else WordPieceTokenizer
    return kind(tokens, lowercase, limit)
