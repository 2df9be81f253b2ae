"""The files of a vocabulary: finding and reading them, and what identifies them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files.json_file import read_json

SETTINGS_FILE = "tokenizer_config.json"
# As at the head of google-research/bert. Hugging Face's WordPiece has 100: there a word of 101 to
# 200 characters is one [UNK], here it is cut into pieces.
MAX_CHARS_PER_WORD = 200


def find(path: Path) -> Path:
    """The vocabulary file that a path means."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such vocabulary file or folder")
    for pattern in ("vocab.txt", "words.txt", "spiece.model", "*.model", "tokenizer.json"):
        found = sorted(path.glob(pattern))
        if found:
            return found[0]
    raise UserError(f"{path}: no vocab.txt, words.txt, *.model or tokenizer.json in this folder")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings beside a vocabulary; rules other than those of 2018 are refused."""
    settings = read_json(path) if path.is_file() else {}
    strip_accents = settings.get("strip_accents")
    if strip_accents is not None and strip_accents != settings.get("do_lower_case", strip_accents):
        raise UserError(
            f"{path}: strip_accents is {strip_accents} but do_lower_case is not; BERT's rules of "
            "2018 do both or neither; take another model, or delete strip_accents there: then "
            "words with accents are other pieces than those it was trained with"
        )
    if settings.get("tokenize_chinese_chars") is False:
        raise UserError(
            f"{path}: tokenize_chinese_chars must be true, as in the rules of 2018; delete it "
            "there if your texts have no Chinese, for which it changes nothing"
        )
    return settings


def read_tokenizer_json(path: Path) -> tuple[list[str], dict[str, Any]]:
    """The vocabulary and settings in a Hugging Face tokenizer.json."""
    content = read_json(path)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "WordPiece":
        kind = model.get("type") if isinstance(model, dict) else model
        raise UserError(f"{path}: its model is {kind}, not WordPiece")
    if not isinstance(model.get("vocab"), dict):
        raise UserError(f"{path}: its model has no vocab")
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    if [model["vocab"][token] for token in tokens] != list(range(len(tokens))):
        raise UserError(f"{path}: the ids of its vocabulary have gaps")
    limit = model.get("max_input_chars_per_word", MAX_CHARS_PER_WORD)
    normalizer = content.get("normalizer") or {}
    lowercase = normalizer.get("lowercase")
    return tokens, {"do_lower_case": lowercase, "max_chars_per_word": limit}


def read_vocabulary(path: Path) -> list[str]:
    """The tokens of a vocab.txt or words.txt, one a line."""
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


def fingerprint(vocabulary: bytes, settings: dict[str, Any]) -> str:
    return hashlib.sha256(vocabulary + to_json(settings)).hexdigest()


def to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
