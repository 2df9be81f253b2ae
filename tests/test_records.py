"""Records carry the names and types of 2018 and are there in full or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bertjax.data import input as data_input
from bertjax.data import records
from bertjax.data.records import Manifest, Shard, ShardReader
from bertjax.errors import UserError
from bertjax.whole_file import write_whole

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


def put_manifest(folder: Path, shards: list[Shard], **changes: Any) -> Manifest:
    manifest = Manifest(
        max_seq_length=LENGTH,
        max_predictions_per_seq=PREDICTIONS,
        vocab_size=VOCAB_SIZE,
        tokenizer={"kind": "wordpiece", "fingerprint": "none"},
        settings={},
        corpus={"unigram_entropy": 1.0},
        source={},
        padding_share=0.1,
        shards=tuple(shards),
        bertjax_version="0",
    )
    manifest = dataclasses.replace(manifest, **changes)
    manifest.save(folder)
    return manifest


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
    shard = records.write_shard(tmp_path / "a.tfrecord", records.serialize(rows))
    found = list(read_as_in_2018(tmp_path / "a.tfrecord"))
    assert shard.examples == len(found) == 7
    for index, example in enumerate(found):
        assert set(example) == set(rows)
        for name, value in example.items():
            assert value.tolist() == rows[name][index].tolist(), name


def test_a_record_of_ours_holds_nothing_but_the_seven_features(tmp_path: Path) -> None:
    (message,) = records.serialize(make_rows(1))
    features = tf.train.Example.FromString(message).features.feature
    assert set(features) == {*INTEGERS, "masked_lm_weights"}
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    assert kinds.pop("masked_lm_weights") == "float_list"
    assert set(kinds.values()) == {"int64_list"}


def test_our_reader_reads_the_shards_of_2018(tmp_path: Path) -> None:
    first, second = make_rows(5), make_rows(3, seed=1)
    shards = [
        write_as_in_2018(tmp_path / "a.tfrecord", first),
        write_as_in_2018(tmp_path / "b.tfrecord", second),
    ]
    put_manifest(tmp_path, shards)
    found = list(data_input.eval_batches(data_input.Records(tmp_path), batch_size=8))
    assert len(found) == 1
    for name in records.FEATURES:
        wanted = np.concatenate([first[name], second[name]])
        assert found[0][name].tolist() == wanted.tolist()
        kind = np.float32 if name == "masked_lm_weights" else np.int32
        assert found[0][name].dtype == kind


def test_the_shard_reader_hops_to_the_records_that_tensorflow_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    records.write_shard(path, records.serialize(make_rows(9)))
    theirs = [message.numpy() for message in tf.data.TFRecordDataset([str(path)])]
    reader = ShardReader(path)
    assert [reader[i] for i in range(len(reader))] == theirs


def test_the_same_rows_give_the_same_bytes_and_the_entry_tells_the_truth(tmp_path: Path) -> None:
    entries = [
        records.write_shard(tmp_path / name, records.serialize(make_rows(4))) for name in "ab"
    ]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert entries[0].sha256 == entries[1].sha256
    assert entries[0].bytes == (tmp_path / "a").stat().st_size


# --- Damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 4, 300])
def test_a_truncated_shard_is_named_with_the_byte_of_its_last_record(
    cut: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.tfrecord"
    records.write_shard(path, records.serialize(make_rows(3)))
    content = path.read_bytes()
    length = len(content) // 3  # all records of make_rows are equally long
    path.write_bytes(content[:-cut])
    at = (len(content) - cut) // length * length
    with pytest.raises(UserError, match=rf"a\.tfrecord: truncated .* at byte {at};"):
        ShardReader(path)


def test_a_shard_cut_at_a_record_border_is_noticed_by_size_and_by_count(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    shard = records.write_shard(path, records.serialize(make_rows(3)))
    put_manifest(tmp_path, [shard])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3 * 2])
    with pytest.raises(UserError, match=r"a\.tfrecord: \d+ bytes instead of \d+"):
        records.load_manifest(tmp_path)
    put_manifest(tmp_path, [dataclasses.replace(shard, bytes=path.stat().st_size)])
    with pytest.raises(UserError, match=r"a\.tfrecord: 2 records, the manifest says 3"):
        data_input.Records(tmp_path)


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw.pop(name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("vocab_size"), "not a manifest"),
        (_without("shards"), "not a manifest"),
        (lambda raw: raw.update(colour="red"), "not a manifest"),
        (lambda raw: raw["shards"].clear(), "no record"),
        (lambda raw: raw.update(format_version=99), "format version 99"),
        (lambda raw: raw["shards"][0].update(file="gone.tfrecord"), "gone.tfrecord: missing"),
        (lambda raw: raw["shards"][0].update(bytes=3), "bytes instead of 3"),
        (lambda raw: raw.update(max_seq_length=LENGTH * 2), "a.tfrecord.*max_seq_length 32"),
        (lambda raw: raw.update(max_predictions_per_seq=5), "a.tfrecord.*predictions_per_seq 5"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_when_the_records_are_opened(
    damage: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    shard = records.write_shard(tmp_path / "a.tfrecord", records.serialize(make_rows(3)))
    put_manifest(tmp_path, [shard])
    path = tmp_path / records.MANIFEST
    raw = json.loads(path.read_text())
    damage(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=message):
        data_input.Records(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"manifest"'])
def test_a_file_that_is_no_manifest_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / records.MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest"):
        records.load_manifest(tmp_path)


def test_a_folder_without_a_manifest_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="python -m bertjax.prepare"):
        records.load_manifest(tmp_path)


def test_the_manifest_reads_back_as_it_was(tmp_path: Path) -> None:
    shard = records.write_shard(tmp_path / "a.tfrecord", records.serialize(make_rows(3)))
    written = put_manifest(tmp_path, [shard])
    assert records.load_manifest(tmp_path) == written


@pytest.mark.parametrize("name", ["input_ids", "masked_lm_ids"])
@pytest.mark.parametrize("wrong", [VOCAB_SIZE, -1])
def test_ids_beyond_the_vocabulary_are_refused(name: str, wrong: int, tmp_path: Path) -> None:
    rows = make_rows(3)
    rows[name][1, 2] = wrong
    shard = records.write_shard(tmp_path / "a.tfrecord", records.serialize(rows))
    put_manifest(tmp_path, [shard])
    opened = data_input.Records(tmp_path)
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
        records.write_shard(tmp_path / "a.tfrecord", rows())
    assert os.listdir(tmp_path) == []


# RLIMIT_FSIZE makes every write behind the given byte fail, as a full disk does.
FULL_DISK = """
import resource, sys
from pathlib import Path
from bertjax import errors
from bertjax.data import records
from bertjax.whole_file import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
target = Path(sys.argv[1])
def main():
    if target.suffix == ".json":
        write_whole(target, bytes(50_000))
    else:
        records.write_shard(target, (bytes(1_000) for _ in range(50)))
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
