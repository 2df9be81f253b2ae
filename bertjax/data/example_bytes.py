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


class _Columns(NamedTuple):
    """Bytes [N, W] uint8 and which of them are there [N, W]; None: all."""

    values: np.ndarray
    present: np.ndarray | None = None

    def lengths(self) -> np.ndarray:
        if self.present is None:
            return np.full(len(self.values), self.values.shape[1])
        return np.count_nonzero(self.present, axis=1)


Feature = np.ndarray | tuple[np.ndarray, np.ndarray]


def encode(features: Mapping[str, Feature]) -> Iterator[bytes]:
    """The messages of N rows.

    Args:
      features: name -> [N, K] integers (0 to 2**28 - 1) or float32 numbers; or a tuple of [N, K]
        uint8 and [N] how many of them a row has, for a feature of bytes; or of [N, K] integers and
        [N], for one of integers whose number changes from row to row.
    """
    entries = [_entry(name, features[name]) for name in sorted(features)]
    message = _wrap(_FIRST, _beside(entries))
    lengths = message.lengths()
    flat = message.values if message.present is None else message.values[message.present]
    content, ends = flat.tobytes(), np.cumsum(lengths)
    for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
        yield content[start:end]


def _entry(name: str, value: Feature) -> _Columns:
    """A row of the map of features: key and value."""
    array, counts = value if isinstance(value, tuple) else (value, None)
    there = None if counts is None else np.arange(array.shape[1]) < counts[:, None]
    if array.dtype == np.uint8:
        kind, content = "bytes", _Columns(array, there)
    elif array.dtype == np.float32:
        kind, content = "float", _Columns(np.ascontiguousarray(array, "<f4").view(np.uint8))
    else:
        kind, content = "int", _varints(array, there)
    values = _wrap(_FIRST, content)
    if kind != "bytes" and (there is not None or not array.shape[1]):
        # A list without numbers has no field of values at all.
        some = np.broadcast_to(content.lengths()[:, None] > 0, values.values.shape)
        values = _Columns(values.values, some if values.present is None else some & values.present)
    feature = _wrap(_KIND[kind], values)
    key = _FIRST + bytes([len(name)]) + name.encode()
    return _wrap(_FIRST, _beside([_constant(key, len(array)), _wrap(_SECOND, feature)]))


def _constant(content: bytes, rows: int) -> _Columns:
    return _Columns(np.broadcast_to(np.frombuffer(content, np.uint8), (rows, len(content))))


def _wrap(tag: bytes, inner: _Columns) -> _Columns:
    """A length-delimited field."""
    lengths = inner.lengths()
    return _beside([_constant(tag, len(lengths)), _varints(lengths[:, None], None), inner])


def _varints(numbers: np.ndarray, there: np.ndarray | None) -> _Columns:
    """Seven bits a byte, the lowest first; the highest bit tells that more follow."""
    highest = int(numbers.max(initial=0))
    width = max(1, -(-highest.bit_length() // 7))
    rows = len(numbers)
    if width == 1:
        return _Columns(numbers.astype(np.uint8), there)
    shifted = numbers.astype(np.uint32)
    values = np.empty((*numbers.shape, width), np.uint8)
    present = np.empty((*numbers.shape, width), bool)
    present[..., 0] = True if there is None else there
    for place in range(width):
        more = shifted >= 128
        values[..., place] = (shifted & 127) | (more << 7)
        if place + 1 < width:
            present[..., place + 1] = more if there is None else more & there
        shifted >>= 7
    return _Columns(values.reshape(rows, -1), present.reshape(rows, -1))


def _beside(columns: list[_Columns]) -> _Columns:
    values = np.concatenate([c.values for c in columns], axis=1)
    if all(c.present is None for c in columns):
        return _Columns(values)
    filled = [np.ones(c.values.shape, bool) if c.present is None else c.present for c in columns]
    return _Columns(values, np.concatenate(filled, axis=1))
