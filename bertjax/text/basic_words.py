"""The words of a text by the rules of the 2018 release (google-research/bert, tokenization.py).

Control characters deleted, CJK characters and punctuation standing alone, lower case and accents
removed for an uncased vocabulary. None of the rules looks across white space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable


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


# Stands between characters that are worked on together: white space that the rules leave alone.
_BETWEEN = "\N{EM SPACE}"


def alphabet(points: Iterable[int], lowercase: bool) -> dict[int, tuple[str, str]]:
    """What the rules make of characters wherever they stand.

    Returns:
      {code point: (one character, "letter" or "sign", which stands alone) or ("", "space")}. Those
      that become several characters or none, and those that hang on their neighbours, are left out.
    """
    chars = [chr(point) for point in points]
    found = {ord(char): ("", "space") for char in chars if _is_space(char)}
    chars = [char for char in chars if not char.isspace()]
    made = basic_words(_BETWEEN.join(chars), lowercase).split(_BETWEEN)
    for char, result in zip(chars, made, strict=True):
        inner = result.strip(" ")
        # The small form of a capital sigma is another one at the end of a word.
        if len(inner) == 1 and char != "\N{GREEK CAPITAL LETTER SIGMA}":
            found[ord(char)] = inner, "letter" if inner == result else "sign"
    return found


# Python's split() and \s break words at these, the 2018 code deletes them as control characters.
_DELETED_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")


def _is_space(char: str) -> bool:
    return char.isspace() and not _DELETED_SPACE.match(char)


def chunks(text: str) -> list[str]:
    """The white-space-delimited chunks of a text; no rule of 2018 looks across their borders."""
    if _DELETED_SPACE.search(text):
        text = _DELETED_SPACE.sub("", text)
    return text.split()
