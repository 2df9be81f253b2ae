"""Reads documents from the user's text files, streaming: .txt, .txt.gz, .txt.xz, folders, globs.

One sentence or paragraph a line; a blank line ends a document, and so does the end of a file.
"""

from __future__ import annotations

import glob
import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import sentencex

from bertjax.errors import UserError

EXTENSIONS = (".txt", ".txt.gz", ".txt.xz")
# No buffer may grow with the input: a longer line is cut in two, at a space where there is one.
MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Block:
    """Consecutive lines of one document; a long document comes as several blocks."""

    document: int  # counts the documents from 0
    starts: bool  # the first block of its document
    lines: list[str]


def files(inputs: Sequence[str | Path]) -> list[Path]:
    """The text files that files, folders (searched recursively) and globs stand for, in order.

    The inputs keep their order; what a folder or a glob holds is sorted by name.

    Raises:
      UserError: nothing given, a missing input, an unknown extension, nothing to read in it.
    """
    if not inputs:
        raise UserError("no input: give text files, folders or globs")
    return [path for given in inputs for path in _expand(str(given))]


def _expand(given: str) -> list[Path]:
    path, legal = Path(given), ", ".join(EXTENSIONS)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and _is_text(p))
        if not found:
            raise UserError(f"{given}: no {legal} file in this folder")
        return found
    found = [path] if path.exists() else []
    if not found and glob.has_magic(given):
        found = sorted(p for p in map(Path, glob.glob(given, recursive=True)) if p.is_file())
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


def lines(path: Path) -> Iterator[str]:
    """The stripped lines of one file, blank ones as "".

    Raises:
      UserError: not UTF-8 (names the line), or a compressed file that is cut short or damaged.
    """
    number = 1
    try:
        with _open(path) as file:
            for raw in _raw_lines(file):
                line = raw.decode("utf-8")
                yield (line.removeprefix("\ufeff") if number == 1 else line).strip()
                number += raw.endswith(b"\n")
    except UnicodeDecodeError:
        raise UserError(
            f"{path}:{number}: not UTF-8; convert it (iconv -t UTF-8) or leave the file out"
        ) from None
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error):
        raise UserError(
            f"{path}: the compressed file is cut short or damaged, after line {number}; "
            "fetch or compress it again"
        ) from None


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb")


def _raw_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines with their line break, none longer than MAX_LINE_BYTES."""
    rest = b""
    while raw := rest + file.readline(MAX_LINE_BYTES - len(rest)):
        rest = b""
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            cut = raw.rfind(b" ", 1) + 1 or _character_border(raw)
            raw, rest = raw[:cut], raw[cut:]
        yield raw


def _character_border(raw: bytes) -> int:
    """Where the last character begins, which may lack its last bytes."""
    cut = len(raw) - 1
    while cut > 1 and raw[cut] & 0xC0 == 0x80:  # 10xxxxxx continues a character
        cut -= 1
    return cut


def blocks(
    inputs: Sequence[str | Path],
    *,
    split_sentences: bool = False,
    language: str = "en",
    block_chars: int = 1 << 20,
) -> Iterator[Block]:
    """The documents of all inputs in blocks of about `block_chars` characters, in bounded memory.

    With `split_sentences` each line is split into the sentences of `language` (an ISO 639 code).

    Raises:
      UserError: as `files` and `lines` do, or when there is no text in any of the inputs.
    """
    paths = files(inputs)
    document, starts, held, size = 0, True, list[str](), 0
    for path in paths:
        for line in _with_end(lines(path)):
            if line:
                held += sentences(line, language) if split_sentences else [line]
                size += len(line)
            if held and (not line or size >= block_chars):
                yield Block(document, starts, held)
                held, size, starts = [], 0, False
            if not line and not starts:
                document, starts = document + 1, True
    if document == 0:
        raise UserError(f"no text in {', '.join(map(str, inputs))}: only empty lines")


def _with_end(read: Iterable[str]) -> Iterator[str]:
    """The end of a file ends a document as a blank line does."""
    yield from read
    yield ""


def documents(
    inputs: Sequence[str | Path], *, split_sentences: bool = False, language: str = "en"
) -> Iterator[list[str]]:
    """Each document as the list of its lines; holds one document at a time. Raises as `blocks`."""
    held: list[str] = []
    for block in blocks(inputs, split_sentences=split_sentences, language=language):
        if block.starts and held:
            yield held
            held = []
        held += block.lines
    yield held


def sentences(line: str, language: str = "en") -> list[str]:
    """The sentences of a line of running text; white space between them goes, nothing else."""
    return [s for s in map(str.strip, sentencex.segment(language, line)) if s]
