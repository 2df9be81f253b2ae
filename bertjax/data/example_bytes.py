"""Many tf.train.Example messages at once: rows of arrays to protocol-buffer bytes.

TensorFlow's writer takes one number after the other; here the bytes of a block of rows stand in one
array, a column for every byte that may occur, and a mask tells which do. What comes out is byte for
byte what the protocol-buffer library writes with sorted keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

# Field numbers and wire type 2 (length-delimited) of example.proto and feature.proto.
_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"
_KIND = {"bytes": _FIRST, "float": _SECOND, "int": _THIRD}


class _Block(NamedTuple):
    """Bytes [N, W] uint8 and which of them are there [N, W]; None: all."""

    values: np.ndarray
    present: np.ndarray | None = None


class _Bytes(NamedTuple):
    """Bytes of N rows: blocks that stand side by side, and [N] how many a row has."""

    blocks: list[_Block]
    lengths: np.ndarray


Feature = np.ndarray | tuple[np.ndarray, np.ndarray]


def encode(features: Mapping[str, Feature]) -> Iterator[bytes]:
    """The messages of N rows.

    Args:
      features: name -> [N, K] integers (0 to 2**28 - 1) or float32 numbers; or a tuple of [N, K]
        uint8 and [N] how many of them a row has, for a feature of bytes; or of [N, K] integers and
        [N], for one of integers whose number changes from row to row.
    """
    message = _wrap(_FIRST, _beside([_entry(name, features[name]) for name in sorted(features)]))
    values = np.concatenate([block.values for block in message.blocks], axis=1)
    filled = [
        np.ones(values.shape, bool) if present is None else present
        for values, present in message.blocks
    ]
    # Five times as fast as indexing by the mask.
    content = values.ravel().compress(np.concatenate(filled, axis=1).ravel()).tobytes()
    ends = np.cumsum(message.lengths)
    for start, end in zip((ends - message.lengths).tolist(), ends.tolist(), strict=True):
        yield content[start:end]


def _entry(name: str, value: Feature) -> _Bytes:
    """A row of the map of features: key and value."""
    array, counts = value if isinstance(value, tuple) else (value, None)
    there = None if counts is None else np.arange(array.shape[1]) < counts[:, None]
    if array.dtype == np.uint8:
        kind, content = "bytes", _plain(array, there)
    elif array.dtype == np.float32:
        kind, content = "float", _plain(np.ascontiguousarray(array, "<f4").view(np.uint8), None)
    else:
        kind, content = "int", _varints(array, there)
    values = _wrap(_FIRST, content)
    if kind != "bytes" and (there is not None or not array.shape[1]):
        # A list without numbers has no field of values at all.
        values = _only(values, content.lengths > 0)
    key = _FIRST + bytes([len(name)]) + name.encode()
    inner = _beside([_constant(key, len(array)), _wrap(_SECOND, _wrap(_KIND[kind], values))])
    return _wrap(_FIRST, inner)


def _plain(array: np.ndarray, there: np.ndarray | None) -> _Bytes:
    some = np.full(len(array), array.shape[1]) if there is None else there.sum(axis=1)
    return _Bytes([_Block(array, there)], some)


def _constant(content: bytes, rows: int) -> _Bytes:
    return _plain(np.broadcast_to(np.frombuffer(content, np.uint8), (rows, len(content))), None)


def _wrap(tag: bytes, inner: _Bytes) -> _Bytes:
    """A length-delimited field."""
    rows = len(inner.lengths)
    return _beside([_constant(tag, rows), _varints(inner.lengths[:, None], None), inner])


def _only(inner: _Bytes, rows: np.ndarray) -> _Bytes:
    """Nothing in the other rows [N]."""
    blocks = []
    for values, present in inner.blocks:
        some = np.broadcast_to(rows[:, None], values.shape)
        blocks.append(_Block(values, some if present is None else some & present))
    return _Bytes(blocks, inner.lengths * rows)


def _varints(numbers: np.ndarray, there: np.ndarray | None) -> _Bytes:
    """Seven bits a byte, the lowest first; the highest bit tells that more follow."""
    highest = int(numbers.max(initial=0))
    width = max(1, -(-highest.bit_length() // 7))
    if width == 1:
        return _plain(numbers.astype(np.uint8), there)
    numbers = numbers.astype("<u4")
    # The four bytes of a number in one; where each begins, 7 bits further than there.
    content, present = np.zeros(numbers.shape, "<u4"), np.ones(numbers.shape, "<u4")
    for place in range(width):
        content |= (numbers << place) & np.uint32(0x7F << 8 * place)
    for place in range(1, width):
        more = numbers >= 1 << 7 * place
        content |= more * np.uint32(0x80 << 8 * (place - 1))
        present |= more * np.uint32(1 << 8 * place)
    if there is not None:
        present *= there
    # [N, K] numbers -> [N, 4 K] bytes
    return _plain(content.view(np.uint8), present.view(bool))


def _beside(some: list[_Bytes]) -> _Bytes:
    blocks = [block for each in some for block in each.blocks]
    return _Bytes(blocks, np.sum([each.lengths for each in some], axis=0))
