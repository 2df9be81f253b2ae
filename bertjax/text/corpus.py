"""Streams documents from the user's sources, cut into parts that fit into memory.

A source is a text file (a sentence or paragraph a line, a blank line between documents), a file of
JSON lines, or a data set of tensorflow-datasets. How a document is cut hangs on its own text alone,
so that the same documents give the same parts whatever files they lie in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import sentencex

from bertjax import data_sets
from bertjax.errors import UserError
from bertjax.files import storage, text_files

TFDS = "tfds:"
# A part ends with the line that reaches this many bytes; a longer line is cut, at a space where
# there is one, so that no buffer grows with the input.
PART_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 20
MAX_JSON_BYTES = 1 << 26
# Text that a worker takes at once, about.
JOB_BYTES = 1 << 20
_BLANK_LINES = re.compile(rb"\n(?:[ \t\r\x0b\x0c]*\n)+")


class Part(NamedTuple):
    """Whole lines of a document.

    Attributes:
      raw: UTF-8 text.
      document: the identity of its document's first part; b"" for a document of one part, whose
        own identity it is.
      number: 0 for the first part of its document.
      file, offset: where the part stands in its unpacked file, for messages; "" if in none.
    """

    raw: bytes
    document: bytes = b""
    number: int = 0
    file: str = ""
    offset: int = 0

    @property
    def is_whole(self) -> bool:
        return not self.document


def identity(raw: bytes) -> bytes:
    """16 bytes that tell a part from all others; equal text has equal identity."""
    return hashlib.blake2b(raw, digest_size=16).digest()


def parts(sources: Sequence[str | Path], field: str = "text") -> Iterator[Part]:
    """The parts of all documents, in order.

    Args:
      sources: files, folders, globs, and data sets as "tfds:NAME" or "tfds:NAME@SPLIT".
      field: the name of the text in JSON lines and data sets.

    Raises:
      UserError: as text_files.files and text_files.blocks do; a line that is not JSON or has no
        such field; a data set that is not there; no text in any of the sources.
    """
    empty = True
    for source in resolve(sources):
        for part in _read(source, field):
            empty = False
            yield part
    if empty:
        raise UserError(f"no text in {', '.join(map(str, sources))}: only empty lines")


def resolve(sources: Sequence[str | Path]) -> list[str | Path]:
    """Files for folders and globs; data sets as they are. Raises what text_files.files does."""
    if not sources:
        raise UserError("no input: give text files, folders, globs or tfds:NAME")
    found: list[str | Path] = []
    for source in sources:
        found += [source] if str(source).startswith(TFDS) else text_files.files([source])
    return found


def jobs(parts: Iterable[Part], size: int) -> Iterator[list[Part]]:
    """Groups of consecutive parts of about `size` bytes."""
    held: list[Part] = []
    filled = 0
    for part in parts:
        held.append(part)
        filled += len(part.raw)
        if filled >= size:
            yield held
            held, filled = [], 0
    if held:
        yield held


def lines(part: Part) -> list[str]:
    """The stripped lines of a part, without the empty ones.

    Raises:
      UserError: not UTF-8, or a binary file; the line is named.
    """
    try:
        text = part.raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{_place(part, error.start)}: not UTF-8; convert it (iconv -t UTF-8) or leave the "
            "file out"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{_place(part, part.raw.index(0))}: a NUL byte, not a text file; leave it out"
        )
    return [line for line in map(str.strip, text.split("\n")) if line]


def _place(part: Part, at: int) -> str:
    try:
        return f"{part.file}:{text_files.line_at(storage.path(part.file), part.offset + at)}"
    except OSError:  # It lies where Apache Beam reads it, not on this machine.
        return f"{part.file}: byte {part.offset + at:,} of the text"


def sentences(line: str, language: str = "en") -> list[str]:
    """The sentences of a line of running text; white space between them goes, nothing else."""
    return [s for s in map(str.strip, sentencex.segment(language, line)) if s]


# --- Cutting --------------------------------------------------------------------------------


class _Piece(NamedTuple):
    raw: bytes
    number: int
    ends: bool  # its document
    offset: int


def _read(source: str | Path, field: str) -> Iterator[Part]:
    if isinstance(source, str):
        return _identified(_data_set(source, field), "")
    return parts_of_file(str(source), text_files.blocks(source), field)


def parts_of_file(name: str, blocks: Iterable[bytes], field: str) -> Iterator[Part]:
    """The parts of the documents of one file, whose unpacked text comes in blocks."""
    jsonl = text_files.is_jsonl(name)
    return _identified(_json_lines(name, blocks, field) if jsonl else _text(blocks), name)


def _identified(pieces: Iterable[_Piece], file: str) -> Iterator[Part]:
    """Pieces that belong together get the identity of the first; empty ones go."""
    document = b""
    for piece in pieces:
        raw = piece.raw.rstrip()
        if piece.number == 0:
            document = b"" if piece.ends else identity(raw)
        if raw:
            yield Part(raw, document, piece.number, file, piece.offset)


def _text(blocks: Iterable[bytes]) -> Iterator[_Piece]:
    """Documents end with a blank line or with the file."""
    rest, offset, index = b"", 0, 0
    for block in blocks:
        rest += block
        at = 0
        for blank in _BLANK_LINES.finditer(rest):
            yield from _cut(rest[at : blank.start()], index, offset + at, whole=True)
            at, index = blank.end(), 0
        *whole, last = _cut(rest[at:], index, offset + at, whole=False)
        yield from whole
        rest, offset, index = last.raw, last.offset, last.number
    yield from _cut(rest, index, offset, whole=True)


def _cut(raw: bytes, index: int, offset: int, whole: bool) -> Iterator[_Piece]:
    """Cuts a document, or what is read of it so far, into parts, which begin with text.

    The last piece is what is left: of a whole document its last part, else where to go on. White
    space at the end may be the begin of a blank line, so nothing is cut there.
    """
    begin, left = _skip_space(raw, 0), len(raw.rstrip())
    while left - begin > PART_BYTES:
        full, limit = begin + PART_BYTES, begin + PART_BYTES + MAX_LINE_BYTES
        end = raw.find(b"\n", full, min(left, limit))
        if end < 0 and left >= limit:
            end = _cut_line(raw, full, limit)
        if end < 0:
            break
        yield _Piece(raw[begin:end], index, False, offset + begin)
        begin, index = _skip_space(raw, end), index + 1
    yield _Piece(raw[begin : left if whole else len(raw)], index, whole, offset + begin)


def _skip_space(raw: bytes, at: int) -> int:
    while raw[at : at + 1].isspace():
        at += 1
    return at


def _cut_line(raw: bytes, full: int, limit: int) -> int:
    """Behind the last space of an endless line, or at the border of a character."""
    end = raw.rfind(b" ", full, limit) + 1
    if not end:
        end = limit - 1
        # 10xxxxxx continues a character, which has at most three of these.
        while end > limit - 4 and raw[end] & 0xC0 == 0x80:
            end -= 1
    return end


# --- Other sources --------------------------------------------------------------------------


def _document(text: str) -> Iterator[_Piece]:
    # Half a surrogate pair, which JSON can hold, has no UTF-8. NUL, a sign of binary data only in
    # a text file, is deleted, as the rules of 2018 do.
    return _cut(text.replace("\0", "").encode("utf-8", "replace"), 0, 0, whole=True)


def _json_lines(name: str, blocks: Iterable[bytes], field: str) -> Iterator[_Piece]:
    """Every line is an object; its field's text is a document."""
    rest, number = b"", 0
    for block in blocks:
        *complete, rest = (rest + block).split(b"\n")
        for line in complete:
            number += 1
            yield from _json_line(name, number, line, field)
        if len(rest) > MAX_JSON_BYTES:
            raise UserError(
                f"{name}:{number + 1}: a line of more than {MAX_JSON_BYTES >> 20} MB; JSON lines "
                "hold one document each"
            )
    yield from _json_line(name, number + 1, rest, field)


def _json_line(name: str, number: int, line: bytes, field: str) -> Iterator[_Piece]:
    if not line.strip():
        return
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}:{number}: not valid JSON ({error})") from None
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = ", ".join(row) if isinstance(row, dict) else "no object"
        raise UserError(
            f"{name}:{number}: no text in a field {field!r} (found: {found}); name it with "
            "--text_field"
        )
    yield from _document(text)


def _data_set(source: str, field: str) -> Iterator[_Piece]:
    """Every example's text is a document; downloads the data set if it is not there."""
    name, _, split = source.removeprefix(TFDS).partition("@")
    try:
        builder = data_sets.find(name)
        if field not in (builder.info.features or {}):
            known = ", ".join(builder.info.features or ())
            raise UserError(f"{source}: no field {field!r}; name one of {known} with --text_field")
        examples = data_sets.examples(builder, split or "train")
    except data_sets.Unavailable as error:
        raise UserError(f"{source}: tensorflow-datasets cannot give it ({error})") from error
    for example in examples:
        if not isinstance(example[field], bytes):
            raise UserError(
                f"{source}: the field {field!r} holds no text; name another with --text_field"
            )
        yield from _document(example[field].decode("utf-8", "replace"))
