"""Records carry the names and types of 2018 and are there in full or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bertjax.data import example_bytes, records, tfrecord
from bertjax.data import input as data_input
from bertjax.data.manifest import Manifest, Shard
from bertjax.data.records import Records
from bertjax.data.shards import write_records
from bertjax.errors import UserError
from bertjax.files.whole_file import write_whole

LENGTH, PREDICTIONS, VOCAB_SIZE = 16, 4, 100
INTEGERS = (
    "input_ids",
    "input_mask",
    "segment_ids",
    "masked_lm_positions",
    "masked_lm_ids",
    "next_sentence_labels",
)


def make_rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    widths = dict.fromkeys(INTEGERS[:3], LENGTH) | dict.fromkeys(INTEGERS[3:5], PREDICTIONS)
    rows = {
        name: rng.integers(0, 2 if "label" in name else LENGTH, (count, widths.get(name, 1)))
        for name in INTEGERS
    }
    weights = (rng.random((count, PREDICTIONS)) < 0.7).astype(np.float32)
    return {**rows, "masked_lm_weights": weights}


def put_manifest(folder: Path, *shards: Shard, **changes: Any) -> Manifest:
    manifest = Manifest(
        max_seq_length=LENGTH,
        max_predictions_per_seq=PREDICTIONS,
        vocab_size=VOCAB_SIZE,
        tokenizer={"kind": "wordpiece", "fingerprint": "none"},
        settings={},
        corpus={"unigram_entropy": 1.0},
        source={},
        padding_share=0.1,
        shards=shards,
        bertjax_version="0",
    )
    manifest = dataclasses.replace(manifest, **changes)
    manifest.save(folder)
    return manifest


def write(path: Path, rows: dict[str, np.ndarray]) -> Shard:
    return write_records(path, example_bytes.encode(rows))


def compact(folder: Path, lengths: list[int], labels: list[list[int]], **changes: Any) -> Records:
    """Dynamic records of some lengths; record i consists of the token i + 1."""
    ids = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.uint16)[:, None], LENGTH, axis=1)
    width = max(map(len, labels))
    padded = np.array([row + [0] * (width - len(row)) for row in labels])
    features = {
        "tokens": (ids.view(np.uint8), 2 * np.array(lengths)),
        "label": (padded, np.array([len(row) for row in labels])),
    }
    shard = write_records(folder / "a.tfrecord", example_bytes.encode(features))
    put_manifest(folder, shard, dynamic=True, max_sequences=width, **changes)
    return Records(folder)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def write_as_in_2018(path: Path, rows: dict[str, np.ndarray]) -> Shard:
    """One tf.train.Example a row: ordered features, lists of Python integers, float weights."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in range(len(rows["input_ids"])):
            features = OrderedDict()
            for name in INTEGERS[:5]:
                values = [int(value) for value in rows[name][row]]
                features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
            weights = [float(value) for value in rows["masked_lm_weights"][row]]
            features["masked_lm_weights"] = tf.train.Feature(
                float_list=tf.train.FloatList(value=weights)
            )
            features["next_sentence_labels"] = tf.train.Feature(
                int64_list=tf.train.Int64List(value=[int(rows["next_sentence_labels"][row, 0])])
            )
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return Shard(path.name, len(rows["input_ids"]), path.stat().st_size, "unknown")


def read_as_in_2018(path: Path) -> Iterator[dict[str, np.ndarray]]:
    """The input_fn of 2018: single examples parsed by a fixed table, int64 cast to int32."""
    spec = {
        "input_ids": tf.io.FixedLenFeature([LENGTH], tf.int64),
        "input_mask": tf.io.FixedLenFeature([LENGTH], tf.int64),
        "segment_ids": tf.io.FixedLenFeature([LENGTH], tf.int64),
        "masked_lm_positions": tf.io.FixedLenFeature([PREDICTIONS], tf.int64),
        "masked_lm_ids": tf.io.FixedLenFeature([PREDICTIONS], tf.int64),
        "masked_lm_weights": tf.io.FixedLenFeature([PREDICTIONS], tf.float32),
        "next_sentence_labels": tf.io.FixedLenFeature([1], tf.int64),
    }
    for message in tf.data.TFRecordDataset([str(path)]):
        example = tf.io.parse_single_example(message, spec)
        yield {
            name: tf.cast(value, tf.int32).numpy() if value.dtype == tf.int64 else value.numpy()
            for name, value in example.items()
        }


# --- The format of 2018 ---------------------------------------------------------------------


def test_the_reader_of_2018_reads_our_shards(tmp_path: Path) -> None:
    rows = make_rows(7)
    shard = write(tmp_path / "a.tfrecord", rows)
    found = list(read_as_in_2018(tmp_path / "a.tfrecord"))
    assert shard.examples == len(found) == 7
    for index, example in enumerate(found):
        assert set(example) == set(rows)
        for name, value in example.items():
            assert value.tolist() == rows[name][index].tolist(), name


def test_a_record_of_ours_holds_nothing_but_the_seven_features(tmp_path: Path) -> None:
    (message,) = example_bytes.encode(make_rows(1))
    features = tf.train.Example.FromString(message).features.feature
    assert set(features) == {*INTEGERS, "masked_lm_weights"} == set(records.FEATURES)
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    assert kinds.pop("masked_lm_weights") == "float_list"
    assert set(kinds.values()) == {"int64_list"}


def test_our_reader_reads_the_shards_of_2018(tmp_path: Path) -> None:
    first, second = make_rows(5), make_rows(3, seed=1)
    shards = [
        write_as_in_2018(tmp_path / "a.tfrecord", first),
        write_as_in_2018(tmp_path / "b.tfrecord", second),
    ]
    put_manifest(tmp_path, *shards)
    found = list(data_input.eval_batches(Records(tmp_path), batch_size=8))
    assert len(found) == 1
    for name in records.FEATURES:
        wanted = np.concatenate([first[name], second[name]])
        assert found[0][name].tolist() == wanted.tolist()
        kind = np.float32 if name == "masked_lm_weights" else np.int32
        assert found[0][name].dtype == kind


# --- Any record by its number ---------------------------------------------------------------


def test_records_are_counted_through_all_shards(tmp_path: Path) -> None:
    rows = [make_rows(number, seed=number) for number in (3, 1, 4)]
    put_manifest(tmp_path, *(write(tmp_path / f"{i}.tfrecord", r) for i, r in enumerate(rows)))
    wanted = [message for some in rows for message in example_bytes.encode(some)]
    opened = Records(tmp_path)
    assert len(opened) == 8
    assert [opened[number] for number in (7, 0, 3, 4, 2)] == [wanted[n] for n in (7, 0, 3, 4, 2)]
    assert opened.lengths().tolist() == [len(message) for message in wanted]
    (tmp_path / "1.index").unlink()
    assert Records(tmp_path).lengths().tolist() == [len(message) for message in wanted]


def test_opening_reads_no_shard_but_the_first(tmp_path: Path) -> None:
    names = ("a.tfrecord", "b.tfrecord")
    put_manifest(tmp_path, *(write(tmp_path / name, make_rows(3)) for name in names))
    (tmp_path / "b.index").unlink()
    flip(tmp_path / "b.tfrecord", 2)
    opened = Records(tmp_path)
    with pytest.raises(UserError, match=r"b\.tfrecord: truncated inside the record at byte 0"):
        opened[3]


def test_a_shard_of_another_build_is_named_though_its_size_fits(tmp_path: Path) -> None:
    """Masked records all have one length, so only their content tells them apart."""
    (tmp_path / "other").mkdir()
    shards = [write(tmp_path / f"{i}.tfrecord", make_rows(3, seed=i)) for i in range(2)]
    put_manifest(tmp_path, *shards)
    other = write(tmp_path / "other" / "1.tfrecord", make_rows(3, seed=5))
    assert (other.bytes, other.examples) == (shards[1].bytes, 3)
    for name in ("1.tfrecord", "1.index"):
        (tmp_path / "other" / name).replace(tmp_path / name)
    opened = Records(tmp_path)
    with pytest.raises(UserError, match=r"1\.tfrecord: of another build than manifest\.json"):
        opened[3]


def test_the_same_rows_give_the_same_bytes_and_the_entry_tells_the_truth(tmp_path: Path) -> None:
    entries = [write(tmp_path / name, make_rows(4)) for name in ("a.tfrecord", "b.tfrecord")]
    content = (tmp_path / "a.tfrecord").read_bytes()
    assert content == (tmp_path / "b.tfrecord").read_bytes()
    assert entries[0].sha256 == entries[1].sha256 == hashlib.sha256(content).hexdigest()
    assert entries[0].bytes == len(content)
    lengths = np.frombuffer((tmp_path / "a.index").read_bytes(), np.uint16)
    assert lengths.tolist() == tfrecord.scan(tmp_path / "a.tfrecord").tolist()


# --- Compact records ------------------------------------------------------------------------


def test_compact_records_are_padded_to_the_length_asked_for(tmp_path: Path) -> None:
    opened = compact(tmp_path, [3, LENGTH], [[1], [0]])
    whole = records.parse(tf.constant([opened[0], opened[1]]), opened.manifest)
    assert whole["input_ids"].shape == (2, LENGTH)
    short = records.parse(tf.constant([opened[0]]), opened.manifest, tf.constant(5))
    assert short["input_ids"].numpy().tolist() == [[1, 1, 1, 0, 0]]
    assert whole["lengths"].numpy().tolist() == [3, LENGTH]
    assert whole["next_sentence_labels"].numpy().tolist() == [[1], [0]]
    assert {value.dtype for value in whole.values()} == {tf.int32}


def test_a_packed_record_has_a_label_for_each_of_its_sequences(tmp_path: Path) -> None:
    opened = compact(tmp_path, [9, 9], [[1], [0, 1, 1]], packed=True)
    found = records.parse(tf.constant([opened[0], opened[1]]), opened.manifest)
    assert found["next_sentence_labels"].numpy().tolist() == [[1, 0, 0], [0, 1, 1]]


def test_compact_records_without_labels_have_none(tmp_path: Path) -> None:
    opened = compact(tmp_path, [9], [[1]], has_label=False)
    found = records.parse(tf.constant([opened[0]]), opened.manifest)
    assert set(found) == {"input_ids", "lengths"}


def test_ids_of_a_large_vocabulary_take_four_bytes(tmp_path: Path) -> None:
    ids = np.array([[70_000, 1, 2]], np.uint32)
    features = {"tokens": (ids.view(np.uint8), np.array([12]))}
    shard = write_records(tmp_path / "a.tfrecord", example_bytes.encode(features))
    put_manifest(tmp_path, shard, dynamic=True, has_label=False, vocab_size=80_000)
    opened = Records(tmp_path)
    found = records.parse(tf.constant([opened[0]]), opened.manifest, tf.constant(4))
    assert found["input_ids"].numpy().tolist() == [[70_000, 1, 2, 0]]
    assert found["lengths"].numpy().tolist() == [3]


# --- Damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 4, 300])
def test_a_truncated_shard_without_an_index_is_named_with_the_byte_of_its_last_record(
    cut: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.tfrecord"
    shard = write(path, make_rows(3))
    content = path.read_bytes()
    length = len(content) // 3  # all records of make_rows are equally long
    path.write_bytes(content[:-cut])
    put_manifest(tmp_path, dataclasses.replace(shard, bytes=path.stat().st_size))
    at = (len(content) - cut) // length * length
    for _ in range(2):  # an index that does not fit is as none
        with pytest.raises(UserError, match=rf"a\.tfrecord: truncated .* at byte {at:,}; copy"):
            Records(tmp_path)
        (tmp_path / "a.index").unlink(missing_ok=True)


def test_a_shard_cut_at_a_record_border_is_noticed_by_its_count(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    shard = write(path, make_rows(3))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3 * 2])
    put_manifest(tmp_path, dataclasses.replace(shard, bytes=path.stat().st_size))
    with pytest.raises(UserError, match=r"a\.tfrecord: 2 records, the manifest says 3"):
        Records(tmp_path)


def test_a_shard_of_another_build_of_the_same_size_is_noticed_when_it_is_read(
    tmp_path: Path,
) -> None:
    compact(tmp_path, [5, 3, 9], [[0], [0], [0]])
    content = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "other").mkdir()
    compact(tmp_path / "other", [5, 9, 3], [[0], [0], [0]])
    other = (tmp_path / "other" / "a.tfrecord").read_bytes()
    assert len(other) == len(content)
    (tmp_path / "a.tfrecord").write_bytes(other)
    opened = Records(tmp_path)
    with pytest.raises(UserError, match=r"a\.tfrecord: no record of the index's length at byte"):
        opened[1]


def test_a_damaged_record_is_named_with_shard_and_byte_and_the_way_out(tmp_path: Path) -> None:
    opened = compact(tmp_path, [5, 5, 5], [[0], [0], [0]])
    size = opened.manifest.shards[0].bytes // 3
    flip(tmp_path / "a.tfrecord", size + 30)
    opened = Records(tmp_path)
    assert opened[0] and opened[2]
    with pytest.raises(UserError) as caught:
        opened[1]
    assert f"a.tfrecord: a record whose checksum does not fit at byte {size}" in str(caught.value)
    assert "data.skip_damaged=True" in str(caught.value)


def test_damaged_records_are_skipped_on_demand_and_each_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = compact(tmp_path, [5, 5, 5], [[0], [0], [0]]).manifest.shards[0].bytes // 3
    for number in (0, 2):
        flip(tmp_path / "a.tfrecord", number * size + 30)
    opened = Records(tmp_path, skip_damaged=True)
    for _ in range(2):
        assert [opened.get(number) is None for number in range(3)] == [True, False, True]
    # The first record that can be read takes their place.
    assert opened[0] == opened[1] == opened[2] == opened.first
    assert opened.damaged == {("a.tfrecord", 0), ("a.tfrecord", 2 * size)}
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert (
        "a.tfrecord: a record whose checksum does not fit at byte 0; skipped (1 so far)" in told[0]
    )
    assert told[1].endswith("skipped (2 so far)")


def test_records_that_are_all_damaged_are_refused(tmp_path: Path) -> None:
    size = compact(tmp_path, [5, 5], [[0], [0]]).manifest.shards[0].bytes // 2
    for number in range(2):
        flip(tmp_path / "a.tfrecord", number * size + 30)
    with pytest.raises(UserError, match="every record is damaged"):
        Records(tmp_path, skip_damaged=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_length": LENGTH * 2}, "a.tfrecord.*max_seq_length 32"),
        ({"max_predictions_per_seq": 5}, "a.tfrecord.*predictions_per_seq 5"),
        ({"dynamic": True}, "a.tfrecord: its records have not the features"),
    ],
)
def test_records_other_than_the_manifest_says_are_refused_when_they_are_opened(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    put_manifest(tmp_path, write(tmp_path / "a.tfrecord", make_rows(3)), **changes)
    with pytest.raises(UserError, match=message):
        Records(tmp_path)


@pytest.mark.parametrize("name", ["input_ids", "masked_lm_ids"])
@pytest.mark.parametrize("wrong", [VOCAB_SIZE, -1])
def test_ids_beyond_the_vocabulary_are_refused(name: str, wrong: int, tmp_path: Path) -> None:
    rows = make_rows(3)
    rows[name][1, 2] = wrong
    put_manifest(tmp_path, write_as_in_2018(tmp_path / "a.tfrecord", rows))
    opened = Records(tmp_path)
    for batches in (
        data_input.train_batches(opened, batch_size=3, seed=0),
        data_input.eval_batches(opened, batch_size=3),
    ):
        with pytest.raises(UserError, match=rf"{name} .*{wrong}.* vocabulary .*{VOCAB_SIZE}"):
            next(batches)


# --- Whole or not at all --------------------------------------------------------------------


def test_write_whole_keeps_the_old_file_and_nothing_else_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_shard_whose_rows_fail_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[bytes]:
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path / "a.tfrecord", rows())
    assert os.listdir(tmp_path) == []


# RLIMIT_FSIZE makes every write behind the given byte fail, as a full disk does.
FULL_DISK = """
import resource, sys
from pathlib import Path
from bertjax import errors
from bertjax.data.shards import write_records
from bertjax.files.whole_file import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
target = Path(sys.argv[1])
def main():
    if target.suffix == ".json":
        write_whole(target, bytes(50_000))
    else:
        write_records(target, (bytes(1_000) for _ in range(50)))
sys.exit(errors.run(main))
"""


@pytest.mark.parametrize("name", ["a.json", "a.tfrecord"])
def test_a_full_disk_is_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / name)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert name in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []
