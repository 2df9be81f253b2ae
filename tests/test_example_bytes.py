"""Our bytes of an Example are those of the protocol-buffer library, whatever the features hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from bertjax.data import example_bytes
from bertjax.data.example_bytes import Feature

ROWS = 40


def theirs(features: dict[str, Feature], row: int) -> bytes:
    """The message of a row by the library, keys in order."""
    example = tf.train.Example()
    for name, value in features.items():
        array, counts = value if isinstance(value, tuple) else (value, None)
        content = array[row] if counts is None else array[row, : counts[row]]
        feature = example.features.feature[name]
        if content.dtype == np.uint8:
            feature.bytes_list.value.append(content.tobytes())
        elif content.dtype == np.float32:
            feature.float_list.SetInParent()
            feature.float_list.value.extend(content.tolist())
        else:
            feature.int64_list.SetInParent()
            feature.int64_list.value.extend(content.tolist())
    return example.SerializeToString(deterministic=True)


def check(features: dict[str, Feature], rows: int = ROWS) -> None:
    found = list(example_bytes.encode(features))
    assert found == [theirs(features, row) for row in range(rows)]


# --- One feature ----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 7, 8, 14, 15, 21, 22, 28])
@pytest.mark.parametrize("length", [0, 1, 3, 130])
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_integers_of_every_width(kind: type, length: int, bits: int) -> None:
    rng = np.random.default_rng(bits)
    numbers = rng.integers(0, 1 << bits, (ROWS, length)) >> rng.integers(0, bits, (ROWS, length))
    if length:
        numbers[0] = (1 << bits) - 1
        numbers[1] = 0
        numbers[2] = 1 << bits - 1
    check({"numbers": numbers.astype(kind)})


@pytest.mark.parametrize("length", [0, 1, 31, 32, 5000])
def test_float32_numbers(length: int) -> None:
    numbers = np.random.default_rng(0).normal(0, 1e3, (ROWS, length)).astype(np.float32)
    if length:
        numbers[0] = 0.0
        numbers[1, 0] = np.inf
        numbers[2, -1] = -0.0
    check({"numbers": numbers})


@pytest.mark.parametrize("longest", [0, 1, 127, 128, 20_000])
def test_bytes_of_different_lengths(longest: int) -> None:
    rng = np.random.default_rng(longest)
    content = rng.integers(0, 256, (ROWS, longest), np.uint8)
    lengths = rng.integers(0, longest + 1, ROWS)
    lengths[:2] = 0, longest
    check({"content": (content, lengths)})


@pytest.mark.parametrize("bits", [1, 7, 8, 28])
@pytest.mark.parametrize("most", [0, 1, 5, 200])
def test_integers_whose_number_changes(most: int, bits: int) -> None:
    rng = np.random.default_rng(most)
    numbers = rng.integers(0, 1 << bits, (ROWS, most))
    counts = rng.integers(0, most + 1, ROWS)
    counts[:2] = 0, most
    check({"numbers": (numbers, counts)})


# --- Several --------------------------------------------------------------------------------


def test_features_of_all_kinds_beside_each_other_in_the_order_of_their_names() -> None:
    rng = np.random.default_rng(0)
    makers: list[Callable[[], Feature]] = [
        lambda: rng.integers(0, 1 << int(rng.integers(1, 29)), (ROWS, int(rng.integers(0, 40)))),
        lambda: rng.normal(size=(ROWS, int(rng.integers(0, 40)))).astype(np.float32),
        lambda: (rng.integers(0, 256, (ROWS, 300), np.uint8), rng.integers(0, 301, ROWS)),
        lambda: (rng.integers(0, 70_000, (ROWS, 9)), rng.integers(0, 10, ROWS)),
    ]
    for _ in range(20):
        names = ["".join(rng.choice(list("abZ_09"), 6)) for _ in range(5)] + ["y" * 127, "z"]
        check({name: makers[rng.integers(len(makers))]() for name in names})


def test_one_row_and_none() -> None:
    check({"a": np.arange(5)[None]}, rows=1)
    assert list(example_bytes.encode({"a": np.zeros((0, 5), np.int64)})) == []


def test_tensorflow_parses_what_we_write() -> None:
    content = np.frombuffer(b"abcdef", np.uint8).reshape(2, 3)
    features: dict[str, Feature] = {
        "numbers": np.array([[1, 300], [70_000, 0]]),
        "weights": np.array([[0.5], [1.5]], np.float32),
        "tokens": (content, np.array([3, 1])),
        "label": (np.array([[1, 0], [1, 1]]), np.array([2, 0])),
    }
    spec = {
        "numbers": tf.io.FixedLenFeature([2], tf.int64),
        "weights": tf.io.FixedLenFeature([1], tf.float32),
        "tokens": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.RaggedFeature(tf.int64),
    }
    parsed = tf.io.parse_example(tf.constant(list(example_bytes.encode(features))), spec)
    assert parsed["numbers"].numpy().tolist() == [[1, 300], [70_000, 0]]
    assert parsed["weights"].numpy().tolist() == [[0.5], [1.5]]
    assert parsed["tokens"].numpy().tolist() == [b"abc", b"d"]
    assert parsed["label"].to_list() == [[1, 0], []]
