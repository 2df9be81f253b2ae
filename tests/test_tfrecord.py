"""Our frames are TensorFlow's, records are read by number, every damaged byte is found."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bertjax.data import tfrecord
from bertjax.data.tfrecord import Damaged, Reader

MESSAGES = [b"first", b"", b"\x00\xff" * 200, b"last one"]
SIZES = [len(message) + 16 for message in MESSAGES]


@pytest.fixture()
def path(tmp_path: Path) -> Path:
    """MESSAGES, with their index."""
    path = tmp_path / "a.tfrecord"
    with path.open("wb") as file:
        lengths = tfrecord.write(file, MESSAGES)
    tfrecord.index_path(path).write_bytes(tfrecord.index_bytes(lengths))
    return path


def crc32c(content: bytes) -> int:
    """Bit by bit, from the polynomial (RFC 3720, appendix B.4)."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


# --- The format -----------------------------------------------------------------------------


def test_tensorflow_reads_what_we_write(path: Path) -> None:
    found = [message.numpy() for message in tf.data.TFRecordDataset([str(path)])]
    assert found == MESSAGES


def test_we_write_the_bytes_that_tensorflow_writes(path: Path, tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for message in MESSAGES:
            writer.write(message)
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_blocks_of_many_records_keep_their_order(tmp_path: Path) -> None:
    messages = [str(number).encode() for number in range(10_000)]
    with (tmp_path / "many").open("wb") as file:
        assert tfrecord.write(file, iter(messages)) == [len(message) for message in messages]
    dataset = tf.data.TFRecordDataset([str(tmp_path / "many")]).batch(len(messages))
    assert dataset.get_single_element().numpy().tolist() == messages


def test_the_checksum_is_a_masked_crc_32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the catalogue of CRCs
    value = crc32c(b"some content")
    masked = ((value >> 15 | value << 17) + 0xA282EAD8) % 2**32
    assert tfrecord.masked_sum(b"some content") == struct.pack("<I", masked)


# --- Reading at any place -------------------------------------------------------------------


def test_any_record_is_read_with_and_without_an_index(path: Path) -> None:
    lengths = tfrecord.read_index(path, len(MESSAGES))
    assert lengths is not None
    assert lengths.tolist() == tfrecord.scan(path).tolist() == [len(m) for m in MESSAGES]
    reader = Reader(path, lengths)
    assert len(reader) == len(MESSAGES)
    assert [reader[number] for number in (2, 0, 3, 1)] == [MESSAGES[n] for n in (2, 0, 3, 1)]
    assert list(Reader(path, tfrecord.scan(path))) == MESSAGES


def test_a_file_without_records_is_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(Reader(tmp_path / "empty", tfrecord.scan(tmp_path / "empty"))) == []


def test_an_index_takes_two_bytes_a_record_or_four_where_one_is_long() -> None:
    assert len(tfrecord.index_bytes([0, 65_535])) == 4
    assert len(tfrecord.index_bytes([0, 65_536])) == 8
    assert tfrecord.index_bytes([]) == b""


@pytest.mark.parametrize(
    "lengths", [[5, 0, 400, 9], [5, 0, 400], [5, 0, 400, 8, 0], [5, 0, 400, 70_000]]
)
def test_an_index_that_does_not_fit_the_file_is_not_used(lengths: list[int], path: Path) -> None:
    tfrecord.index_path(path).write_bytes(tfrecord.index_bytes(lengths))
    assert tfrecord.read_index(path, len(MESSAGES)) is None


def test_there_need_not_be_an_index(path: Path) -> None:
    tfrecord.index_path(path).unlink()
    assert tfrecord.read_index(path, len(MESSAGES)) is None


# --- Damage ---------------------------------------------------------------------------------


def test_every_byte_that_is_flipped_is_found_in_its_record_alone(path: Path) -> None:
    content = path.read_bytes()
    owner = np.repeat(np.arange(len(MESSAGES)), SIZES)
    starts = np.cumsum(SIZES) - SIZES
    lengths = tfrecord.scan(path)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        reader = Reader(path, lengths)
        for number, message in enumerate(MESSAGES):
            if number == owner[place]:
                with pytest.raises(Damaged) as caught:
                    reader[number]
                assert caught.value.offset == starts[number]
            else:
                assert reader[number] == message


@pytest.mark.parametrize("cut", range(1, SIZES[-1]))
def test_a_file_that_ends_inside_a_record_is_found_by_hopping(cut: int, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    with pytest.raises(Damaged, match="truncated inside the record at byte 453") as caught:
        tfrecord.scan(path)
    assert caught.value.offset == sum(SIZES[:-1]) == 453


def test_a_length_beyond_the_end_is_found_by_hopping(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[7] = 0x7F  # the highest byte of the first length
    path.write_bytes(content)
    with pytest.raises(Damaged, match="at byte 0"):
        tfrecord.scan(path)
