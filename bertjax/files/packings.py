"""Kinds of compressed files: how each is unpacked as a stream, and about how much text it holds."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

_BLOCK = 1 << 20


class Packing(NamedTuple):
    """How files of one ending are packed.

    Attributes:
      unpack: the bytes of an open file, about a megabyte at a time; raises one of DAMAGES.
      expansion: bytes of text that a byte of the file stands for, about; to estimate disk need.
    """

    unpack: Callable[[IO[bytes]], Iterator[bytes]]
    expansion: float


class DamagedFrame(Exception):
    """A .zst file that cannot be unpacked to its end."""


# What the unpackers raise where a file is cut short or damaged.
DAMAGES = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, DamagedFrame)


def _read(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _through(reader: Callable[..., Any]) -> Callable[[IO[bytes]], Iterator[bytes]]:
    """Unpacks by what the standard library has for it."""

    def unpack(file: IO[bytes]) -> Iterator[bytes]:
        with reader(file, "rb") as inner:
            yield from _read(inner)

    return unpack


def _unpack_zst(file: IO[bytes]) -> Iterator[bytes]:
    """Its reader takes a file that is cut short for a whole one, so the frames are fed by hand."""
    import zstandard

    # Of files made with zstd --long=31, too.
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    held: list[bytes] = []
    unpacker, packed = None, b""
    try:
        # Small pieces, for each can unpack to much.
        while packed or (packed := file.read(_BLOCK // 64)):
            unpacker = unpacker or reader.decompressobj()
            held.append(unpacker.decompress(packed))
            packed = unpacker.unused_data if unpacker.eof else b""
            unpacker = None if unpacker.eof else unpacker
            if sum(map(len, held)) >= _BLOCK:
                yield b"".join(held)
                held = []
    except zstandard.ZstdError as error:
        raise DamagedFrame from error
    yield b"".join(held)
    if unpacker is not None:
        raise DamagedFrame


PACKINGS = {
    "": Packing(_read, 1.0),
    ".gz": Packing(_through(gzip.open), 2.7),
    ".xz": Packing(_through(lzma.open), 3.6),
    ".zst": Packing(_unpack_zst, 3.2),
}
