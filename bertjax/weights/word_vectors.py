"""Vectors of words in the two formats of word2vec, which most tools read: text and binary.

Both begin with a line "NUMBER WIDTH". Then, for every word: in text a line of the word and its
numbers; in binary the word, a space, its numbers as little-endian float32, and a line break that
may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.whole_file import whole

_BLOCK = 1 << 20
_LONGEST_WORD = 4096
_FIRST_LINE = re.compile(rb"\s*(\d{1,12})\s+(\d{1,6})\s*")
# A word and the first of its numbers, which no vocabulary has.
_ROW = re.compile(rb"\S+( -?\d+(\.\d+)?(e-?\d+)?){2}")


class WordVectors(NamedTuple):
    """Words, all different, and their vectors [N, D] float32."""

    words: list[str]
    vectors: np.ndarray


def is_vectors(path: Path) -> bool:
    """Whether it is a file that begins as word vectors do, with or, as `read` refuses, without the
    right first line.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first, second = file.readline(_LONGEST_WORD), file.readline(_LONGEST_WORD)
        return bool(_FIRST_LINE.fullmatch(first) or _ROW.match(first) or _ROW.match(second))


def read(path: Path) -> WordVectors:
    """Reads either format. A word that stands there twice counts once; that is told.

    Raises:
      UserError: a wrong first line, a file that is cut short or goes on behind its end, a row with
        too few numbers or with something that is no finite number; the line or word is named.
    """
    with storage.local(path) as here, here.open("rb") as file:
        number, width = _header(path, file.readline(_LONGEST_WORD))
        at = file.tell()
        is_text = _is_text(file.readline(_LONGEST_WORD + 64 * width))
        file.seek(at)
        _check_size(path, number, (2 if is_text else 4) * width)
        rows = _text_rows(path, file, width) if is_text else _binary_rows(path, file, number, width)
        words, vectors = _collect(path, rows, number, width)
    if not words:
        raise UserError(f"{path}: no words in it")
    return WordVectors(words, vectors)


def _collect(
    path: Path, rows: Iterator[tuple[str, np.ndarray]], number: int, width: int
) -> tuple[list[str], np.ndarray]:
    vectors = np.empty((number, width), np.float32)
    known: dict[str, int] = {}
    read = 0
    for word, vector in rows:
        if read == number:
            raise UserError(f"{path}:1: says {number} words, but more follow; mend its first line")
        read += 1
        if word not in known:
            vectors[len(known)] = vector
            known[word] = len(known)
    if read < number:
        raise UserError(
            f"{path}:1: says {number} words, but there are {read}; the file is cut short, or its "
            "first line is wrong"
        )
    if read > len(known):
        print(f"{path}: {read - len(known)} words stand there twice; the first of each counts")
    vectors = vectors[: len(known)]
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        word = list(known)[bad[0]]
        raise UserError(f"{path}: the vector of {word!r} holds a number that is not finite")
    return list(known), vectors


def _header(path: Path, line: bytes) -> tuple[int, int]:
    found = _FIRST_LINE.fullmatch(line)
    number, width = map(int, found.groups()) if found else (0, 0)
    if not number or not width:
        shown = line[:40].decode("utf-8", "replace").strip()
        raise UserError(
            f"{path}:1: {shown!r} is not the first line of word vectors, which tells how many "
            "there are and how wide: '400000 100'. GloVe's files have none; add it"
        )
    return number, width


def _check_size(path: Path, number: int, least: int) -> None:
    """A wrong header must not ask for more memory than the file could fill."""
    if storage.size(path) < number * (least + 2):
        raise UserError(
            f"{path}:1: says {number} words, for which the file is too short; it is cut short, or "
            "its first line is wrong"
        )


def _is_text(line: bytes) -> bool:
    """Whether a line is a word and numbers in decimal."""
    try:
        parts = line.decode("utf-8").split()
        return len(parts) > 1 and (np.array(parts[1:3], float) is not None)
    except ValueError:
        return False


def _text_rows(path: Path, file: IO[bytes], width: int) -> Iterator[tuple[str, np.ndarray]]:
    for line_number, raw in enumerate(file, start=2):
        where = f"{path}:{line_number}"
        try:
            word, *numbers = raw.decode("utf-8").rstrip(" \r\n").split(" ")
        except UnicodeDecodeError:
            raise UserError(f"{where}: not UTF-8; convert the file: iconv -t UTF-8") from None
        if not word and not numbers:
            continue
        if len(numbers) != width:
            raise UserError(f"{where}: {word!r} has {len(numbers)} numbers, line 1 says {width}")
        try:
            yield word, np.array(numbers, np.float32)
        except ValueError:
            wrong = next(number for number in numbers if not _is_number(number))
            raise UserError(f"{where}: {wrong!r} in the vector of {word!r} is no number") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _binary_rows(
    path: Path, file: IO[bytes], number: int, width: int
) -> Iterator[tuple[str, np.ndarray]]:
    size, held, begin, last = 4 * width, b"", 0, "none"
    for count in range(number):
        while True:
            end = held.find(b" ", begin)
            if end >= 0 and len(held) >= end + 1 + size:
                break
            if (end if end >= 0 else len(held)) - begin > _LONGEST_WORD:
                raise UserError(
                    f"{path}: no word behind word {count} ({last}); line 1 says {width} numbers a "
                    "word, which may be wrong"
                )
            more = file.read(max(_BLOCK, size))
            if not more:
                raise UserError(
                    f"{path}: cut short in word {count + 1} of {number}, behind {last}; copy it "
                    "again"
                )
            held, begin = held[begin:] + more, 0
        raw = held[begin:end].lstrip(b"\n")
        try:
            last = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"{path}: word {count + 1}, behind {last!r}, is not UTF-8; line 1 may tell a wrong "
                "width"
            ) from None
        yield last, np.frombuffer(held[end + 1 : end + 1 + size], "<f4")
        begin = end + 1 + size
    if (held[begin:] + file.read(64)).strip():
        raise UserError(f"{path}:1: says {number} words, but more follow; mend its first line")


def write_text(path: Path, found: WordVectors) -> None:
    """Nine digits a number, which give the same float32 back."""

    def row(word: str, vector: np.ndarray) -> bytes:
        return f"{word} {' '.join([f'{x:.9g}' for x in vector.tolist()])}\n".encode()

    _write(path, found, row)


def write_binary(path: Path, found: WordVectors) -> None:
    def row(word: str, vector: np.ndarray) -> bytes:
        return word.encode() + b" " + vector.astype("<f4").tobytes() + b"\n"

    _write(path, found, row)


def _write(path: Path, found: WordVectors, row: Callable[[str, np.ndarray], bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial, partial.open("wb") as file:
        file.write(f"{len(found.words)} {found.vectors.shape[1]}\n".encode())
        for word, vector in zip(found.words, found.vectors, strict=True):
            file.write(row(word, vector))
