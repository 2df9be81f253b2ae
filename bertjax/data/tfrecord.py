"""The frames of TFRecord files: written in blocks, read at any place, checked by their sums.

A record is its length (8 bytes), a checksum of that (4), the content, and a checksum of it (4);
both sums are masked CRC-32C, as TensorFlow writes them. Beside each file lies an index, the lengths
of its records, so that opening takes as long for a thousand records as for a billion.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO

import google_crc32c
import numpy as np

HEADER, FOOTER = 12, 4
_FRAME = HEADER + FOOTER
_LENGTH = struct.Struct("<Q")
_SUM = struct.Struct("<I")


class Damaged(Exception):
    """A record that is cut short or has another checksum; the byte where it begins."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"{reason} at byte {offset:,}")
        self.offset = offset


def masked_sum(content: bytes) -> bytes:
    """The checksum of the format: CRC-32C, rotated and shifted, as 4 bytes."""
    value = google_crc32c.value(content)
    return _SUM.pack((((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _head(length: int) -> bytes:
    packed = _LENGTH.pack(length)
    return packed + masked_sum(packed)


def write(file: IO[bytes], messages: Iterable[bytes]) -> list[int]:
    """Writes records and returns their lengths."""
    lengths: list[int] = []
    pieces: list[bytes] = []
    for message in messages:
        length = len(message)
        pieces += (_head(length), message, masked_sum(message))
        lengths.append(length)
        if len(pieces) >= 1 << 13:
            file.write(b"".join(pieces))
            pieces = []
    file.write(b"".join(pieces))
    return lengths


def index_path(path: Path) -> Path:
    return path.with_suffix(".index")


def index_bytes(lengths: list[int]) -> bytes:
    """The index file's content: every record's length in as few bytes as the longest needs."""
    kind = np.uint16 if max(lengths, default=0) < 1 << 16 else np.uint32
    return np.array(lengths, kind).tobytes()


def read_index(path: Path, count: int) -> np.ndarray | None:
    """[count] lengths of the records, or None where there is no index (nor need there be)."""
    index = index_path(path)
    if not index.is_file() or not count:
        return None
    content = index.read_bytes()
    kind = {2: np.uint16, 4: np.uint32}.get(len(content) // count)
    if kind is None or len(content) % count:
        return None
    lengths = np.frombuffer(content, kind).astype(np.int64)
    return lengths if lengths.sum() + _FRAME * count == path.stat().st_size else None


def first_sum(path: Path, lengths: Sequence[int]) -> str:
    """The first record's checksum as it stands in the file, in hex; "" of a file without one."""
    if not len(lengths):
        return ""
    with path.open("rb") as file:
        file.seek(HEADER + int(lengths[0]))
        return file.read(FOOTER).hex()


def scan(path: Path) -> np.ndarray:
    """The lengths of the records of a file without an index, by hopping over their frames.

    Raises:
      Damaged: the file ends inside a record.
    """
    size = path.stat().st_size
    lengths, offset = [], 0
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            head = file.read(HEADER)
            length = _LENGTH.unpack_from(head)[0] if len(head) == HEADER else size
            if offset + _FRAME + length > size:
                raise Damaged(offset, "truncated inside the record")
            lengths.append(length)
            offset += _FRAME + length
    return np.array(lengths, np.int64)


class Reader:
    """Random access to the records of one file."""

    def __init__(self, path: Path, lengths: np.ndarray) -> None:
        self.path, self.lengths = path, lengths
        self._starts = np.cumsum(lengths + _FRAME) - lengths - _FRAME
        self._bytes = np.memmap(path, np.uint8, mode="r").data if len(lengths) else memoryview(b"")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> bytes:
        """A record's content.

        Raises:
          Damaged: its length is not that of the index, or a checksum does not fit.
        """
        start, length = int(self._starts[index]), int(self.lengths[index])
        frame = bytes(self._bytes[start : start + length + _FRAME])
        if frame[:HEADER] != _head(length):
            raise Damaged(start, "no record of the index's length")
        content = frame[HEADER:-FOOTER]
        if frame[-FOOTER:] != masked_sum(content):
            raise Damaged(start, "a record whose checksum does not fit")
        return content

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self)))
