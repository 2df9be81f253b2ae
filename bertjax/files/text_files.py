"""Finds the user's text files and opens them as streams of bytes, compressed or not."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.packings import DAMAGES, PACKINGS

FORMATS = (".txt", ".jsonl")
EXTENSIONS = tuple(kind + packing for kind in FORMATS for packing in PACKINGS)


def files(inputs: Sequence[str | Path]) -> list[Path]:
    """The text files that files, folders (searched recursively) and globs stand for, in order.

    The inputs keep their order; what a folder or a glob holds is sorted by name.

    Raises:
      UserError: a missing input, an unknown extension, nothing to read in it.
    """
    return [path for given in inputs for path in _expand(str(given))]


def _expand(given: str) -> list[Path]:
    path, legal = storage.path(given), ", ".join(EXTENSIONS)
    if path.is_dir():
        found = sorted(filter(_is_text, storage.files_below(path)))
        if not found:
            raise UserError(f"{given}: no {legal} file in this folder")
        return found
    found = [path] if path.exists() else []
    if not found and glob.has_magic(given):
        found = storage.matching(given)
        if not found:
            raise UserError(f"{given}: no file matches")
    if not found:
        raise UserError(f"{given}: no such file or folder")
    for file in found:
        if not file.name.endswith(EXTENSIONS):
            raise UserError(f"{file}: unknown extension; a text file ends in {legal}")
    return found


def _is_text(path: Path) -> bool:
    return path.name.endswith(EXTENSIONS) and not path.name.startswith(".")


def record_files(inputs: Sequence[str]) -> list[Path]:
    """The TFRecord files among the inputs, globs and folders spread out; empty if it is text.

    Raises:
      UserError: both records and text.
    """
    found: list[Path] = []
    text = False
    for given in inputs:
        path = storage.path(given)
        meant = storage.matching(f"{given}/*.tfrecord*" if path.is_dir() else given)
        records = [p for p in meant if ".tfrecord" in p.name]
        text |= not records or records != meant
        found += records
    if found and text:
        raise UserError("--input holds both text and .tfrecord files; prepare them one by one")
    return found


def packing(name: str | Path) -> str:
    """The ending of a compressed file, a key of PACKINGS; "" of others."""
    suffix = Path(name).suffix
    return suffix if suffix in PACKINGS else ""


def is_jsonl(name: str | Path) -> bool:
    return str(name).removesuffix(packing(name)).endswith(".jsonl")


def blocks(path: Path) -> Iterator[bytes]:
    """A file's text; as `unpacked`."""
    with path.open("rb") as file:
        yield from unpacked(file, path)


def unpacked(file: IO[bytes], name: str | Path) -> Iterator[bytes]:
    """The bytes of an open file, a megabyte at a time, without a byte order mark.

    Args:
      name: tells how it is packed.

    Raises:
      UserError: a compressed file that is cut short or damaged; the byte reached is named.
    """
    done = 0
    try:
        for block in PACKINGS[packing(name)].unpack(file):
            yield block.removeprefix(b"\xef\xbb\xbf") if not done else block
            done += len(block)
    except DAMAGES:
        raise UserError(
            f"{name}: the compressed file is cut short or damaged, after {done:,} bytes of text; "
            "fetch or compress it again"
        ) from None


def line_at(path: Path, offset: int) -> int:
    """The number of the line in which a byte of the unpacked text lies, counted from 1."""
    lines, left = 1, offset
    for block in blocks(path):
        lines += block[: max(left, 0)].count(b"\n")
        left -= len(block)
        if left <= 0:
            break
    return lines
