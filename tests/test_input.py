"""Batches hold what the records hold, from any step on, on any number of hosts."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bertjax.data import example_bytes, order, tfrecord
from bertjax.data import input as data_input
from bertjax.data.input import Batch
from bertjax.data.manifest import Manifest, Shard
from bertjax.data.records import FEATURES, Records
from bertjax.data.shards import write_records
from bertjax.errors import UserError

SHARDS = (7, 1, 15)
NUM = sum(SHARDS)
VOCAB_SIZE = 100
LENGTH, PREDICTIONS = 8, 2
BATCH = 4


def put_manifest(folder: Path, shards: list[Shard], **changes: Any) -> None:
    manifest = Manifest(
        max_seq_length=LENGTH,
        max_predictions_per_seq=PREDICTIONS,
        vocab_size=VOCAB_SIZE,
        tokenizer={},
        settings={},
        corpus={},
        source={},
        padding_share=0.0,
        shards=tuple(shards),
        bertjax_version="0",
    )
    dataclasses.replace(manifest, **changes).save(folder)


def write_masked(folder: Path) -> None:
    """Record i of three unequal shards has i as its first token."""
    first, shards = 0, []
    for index, count in enumerate(SHARDS):
        rows = {
            name: np.ones((count, {"T": LENGTH, "P": PREDICTIONS, "1": 1}[size]), kind)
            for name, (size, kind) in FEATURES.items()
        }
        rows["input_ids"][:, 0] = np.arange(first, first + count)
        path = folder / f"{index}.tfrecord"
        shards.append(write_records(path, example_bytes.encode(rows)))
        first += count
    put_manifest(folder, shards)


def write_compact(folder: Path, lengths: Sequence[int], vocab_size: int = VOCAB_SIZE) -> Records:
    """Record i has the number i as every token and i % 2 as its label."""
    kind = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    ids: np.ndarray = np.tile(np.arange(len(lengths), dtype=kind)[:, None], max(lengths))
    features: dict[str, example_bytes.Feature] = {
        "tokens": (ids.view(np.uint8), ids.itemsize * np.array(lengths)),
        "label": (np.arange(len(lengths))[:, None] % 2, np.ones(len(lengths), int)),
    }
    folder.mkdir(exist_ok=True)
    shard = write_records(folder / "a.tfrecord", example_bytes.encode(features))
    put_manifest(folder, [shard], vocab_size=vocab_size, max_seq_length=max(lengths), dynamic=True)
    return Records(folder)


def spoil(folder: Path, number: int) -> Path:
    """Flips a bit in a record of the last shard; returns the shard."""
    path = sorted(folder.glob("*.tfrecord"))[-1]
    lengths = tfrecord.scan(path)
    content = bytearray(path.read_bytes())
    content[int(lengths[:number].sum()) + 16 * number + 20] ^= 1
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records")
    write_masked(path)
    return path


@pytest.fixture(scope="module")
def opened(folder: Path) -> Records:
    return Records(folder)


# Lengths of records that are grouped by them.
LENGTHS = np.random.default_rng(0).integers(1, 33, 50).tolist()


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return write_compact(tmp_path_factory.mktemp("compact"), [*LENGTHS, 32])


get = Records.get


def stream(
    opened: Records,
    steps: int,
    start_step: int = 0,
    seed: int = 0,
    host: int = 0,
    num_hosts: int = 1,
    batch_size: int = BATCH,
) -> list[list[int]]:
    """The record numbers of each batch."""
    batches = data_input.train_batches(
        opened,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        parts=(host,),
        num_parts=num_hosts,
    )
    return [batch["input_ids"][:, 0].tolist() for batch in islice(batches, steps)]


def test_every_epoch_holds_every_record_once_in_another_order(opened: Records) -> None:
    flat = sum(stream(opened, 3 * NUM // BATCH + 1), [])
    epochs = [flat[i * NUM : (i + 1) * NUM] for i in range(3)]
    assert all(sorted(epoch) == list(range(NUM)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert list(range(NUM)) not in epochs


def test_another_seed_is_another_order_and_the_same_seed_the_same(
    opened: Records,
) -> None:
    assert stream(opened, 6) == stream(opened, 6)
    assert stream(opened, 6) != stream(opened, 6, seed=1)


@pytest.mark.parametrize("step", [1, 5, 6, 17])
def test_opening_at_a_step_gives_the_batches_from_there_on(step: int, opened: Records) -> None:
    assert stream(opened, 3, start_step=step) == stream(opened, step + 3)[step:]


def test_opening_at_step_a_million_is_direct_computation(opened: Records) -> None:
    plan = order.Shuffled(NUM, BATCH, LENGTH, seed=0)
    steps = [tf.constant(1_000_000 + i, tf.int64) for i in range(2)]
    wanted = [plan.share(step, [0], 1).records.numpy().tolist() for step in steps]
    assert stream(opened, 2, start_step=1_000_000) == wanted


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_the_hosts_shares_make_up_the_global_batch(num_hosts: int, opened: Records) -> None:
    shares = [stream(opened, 8, host=host, num_hosts=num_hosts) for host in range(num_hosts)]
    joined: list[list[int]] = [sum(parts, []) for parts in zip(*shares, strict=True)]
    assert joined == stream(opened, 8)


def test_batches_have_the_features_as_int32_and_float32(opened: Records) -> None:
    batch = next(data_input.train_batches(opened, batch_size=BATCH, seed=0))
    assert set(batch) == set(FEATURES)
    for name, (size, kind) in FEATURES.items():
        assert batch[name].shape == (BATCH, {"T": LENGTH, "P": PREDICTIONS, "1": 1}[size])
        assert batch[name].dtype == (np.float32 if kind == "float32" else np.int32)


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 32])
def test_evaluation_counts_every_record_once(
    batch_size: int, num_hosts: int, opened: Records
) -> None:
    hosts = [
        list(
            data_input.eval_batches(
                opened, batch_size=batch_size, parts=(host,), num_parts=num_hosts
            )
        )
        for host in range(num_hosts)
    ]
    # Hosts that ran out of step would wait for each other for ever.
    assert {len(batches) for batches in hosts} == {-(-NUM // batch_size)}
    rows = [
        (number, weight, predicted)
        for batches in hosts
        for batch in batches
        for number, weight, predicted in zip(
            batch["input_ids"][:, 0].tolist(),
            batch["example_weights"].tolist(),
            batch["masked_lm_weights"].sum(axis=1).tolist(),
            strict=True,
        )
    ]
    assert sorted(number for number, weight, _ in rows if weight) == list(range(NUM))
    assert all(weight == 1 and predicted == PREDICTIONS for _, weight, predicted in rows if weight)
    # What only fills the last batch must not count as predictions either.
    assert not any(predicted for _, weight, predicted in rows if not weight)


def test_evaluation_keeps_the_order_of_the_shards(opened: Records) -> None:
    found = list(data_input.eval_batches(opened, batch_size=6))
    assert np.concatenate([b["input_ids"][:, 0] for b in found])[:NUM].tolist() == list(range(NUM))


@pytest.mark.parametrize("most", [1, 7, NUM - 1, NUM, 10 * NUM])
def test_an_evaluation_of_some_takes_them_from_all_over(opened: Records, most: int) -> None:
    found = list(data_input.eval_batches(opened, batch_size=6, most=most))
    numbers = np.concatenate([b["input_ids"][:, 0] for b in found])
    taken = numbers[np.concatenate([b["example_weights"] for b in found]) > 0].tolist()
    (stride,) = set(np.diff(taken).tolist()) or {NUM}
    assert taken == list(range(0, NUM, stride))
    assert most / 2 < len(taken) <= most or len(taken) == NUM <= most


def test_a_host_reads_its_share_alone(opened: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Records, "get", lambda self, i: asked.append(i) or get(self, i))
    found = list(data_input.eval_batches(opened, batch_size=8, parts=(0, 3), num_parts=4))
    wanted = [8 * batch + row for batch in range(len(found)) for row in (0, 1, 6, 7)]
    assert sorted(asked) == sorted(row if row < NUM else 0 for row in wanted)


def test_a_batch_that_the_parts_do_not_divide_is_refused(opened: Records) -> None:
    with pytest.raises(UserError, match="batch_size 4 is not a multiple of the 3 parts"):
        data_input.train_batches(opened, batch_size=4, seed=0, num_parts=3)


# --- Records of similar length --------------------------------------------------------------


def grouped(opened: Records, steps: int, **more: Any) -> list[Batch]:
    batches = data_input.train_batches(opened, batch_size=4, seed=0, shapes=(8, 16), **more)
    return list(islice(batches, steps))


def test_grouped_batches_have_few_shapes_and_every_record_once(compact: Records) -> None:
    lengths = np.array([*LENGTHS, 32])
    per_shape = [
        ((low < lengths) & (lengths <= high)).sum() for low, high in ((0, 8), (8, 16), (16, 32))
    ]
    steps = sum(-(-int(n) // size) for n, size in zip(per_shape, (16, 8, 4), strict=True))
    batches = grouped(compact, steps)
    assert {batch["input_ids"].shape for batch in batches} == {(16, 8), (8, 16), (4, 32)}
    found = []
    for batch in batches:
        real = batch["example_weights"] > 0
        found += batch["record"][real].tolist()
        assert (batch["lengths"] == lengths[batch["record"]]).all()
        assert (batch["lengths"] <= batch["input_ids"].shape[1]).all()
        there = np.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]
        assert (batch["input_ids"] == np.where(there, batch["record"][:, None], 0)).all()
        assert (batch["next_sentence_labels"][:, 0] == batch["record"] % 2).all()
    assert sorted(found) == list(range(len(lengths)))


def test_grouped_batches_are_those_from_a_step_on_and_of_all_hosts(compact: Records) -> None:
    whole = grouped(compact, 12)
    assert_same(grouped(compact, 5, start_step=7), whole[7:])
    shares = [grouped(compact, 12, parts=(host,), num_parts=2) for host in range(2)]
    joined = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*shares, strict=True)
    ]
    assert_same(joined, whole)


def assert_same(some: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(("length", "vocab_size"), [(300, VOCAB_SIZE), (90, 70_000)])
def test_the_tokens_of_every_record_are_told_from_its_size(
    length: int, vocab_size: int, tmp_path: Path
) -> None:
    """Of every length: varints of one, two and three bytes, ids of two and four."""
    opened = write_compact(tmp_path, range(1, length + 1), vocab_size=vocab_size)
    assert data_input.num_tokens(opened).tolist() == list(range(1, length + 1))


def test_the_tokens_of_records_without_labels_are_told_too(tmp_path: Path) -> None:
    ids = np.zeros((40, 40), np.uint16)
    lengths = np.arange(1, 41)
    messages = example_bytes.encode({"tokens": (ids.view(np.uint8), 2 * lengths)})
    shard = write_records(tmp_path / "a.tfrecord", messages)
    put_manifest(tmp_path, [shard], max_seq_length=40, dynamic=True, has_label=False)
    assert data_input.num_tokens(Records(tmp_path)).tolist() == lengths.tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_one_length_cannot_be_grouped(
    packed: bool, folder: Path, compact: Records, tmp_path: Path
) -> None:
    shutil.copytree(compact.folder if packed else folder, tmp_path, dirs_exist_ok=True)
    if packed:
        dataclasses.replace(compact.manifest, packed=True).save(tmp_path)
    state = "packed" if packed else "padded"
    with pytest.raises(UserError, match=f"these are {state}; prepare them with --masking=dynamic"):
        data_input.train_batches(Records(tmp_path), batch_size=4, seed=0, shapes=(8,))


# --- Compact records ------------------------------------------------------------------------


def test_compact_records_tell_number_and_epoch_for_their_masks(compact: Records) -> None:
    number = len(compact)
    batches = data_input.train_batches(compact, batch_size=number, seed=0)
    for epoch, batch in enumerate(islice(batches, 2)):
        assert sorted(batch["record"].tolist()) == list(range(number))
        assert (batch["epoch"] == epoch).all()
        assert (batch["input_ids"][:, 0] == batch["record"]).all()
        assert {value.dtype for value in batch.values()} == {np.dtype(np.int32)}
        assert "example_weights" not in batch


def test_compact_records_are_evaluated_with_one_epoch_for_all_times(compact: Records) -> None:
    batches = list(data_input.eval_batches(compact, batch_size=16))
    assert {int(epoch) for batch in batches for epoch in batch["epoch"]} == {-1}
    real = np.concatenate([batch["example_weights"] for batch in batches]) > 0
    assert np.concatenate([b["record"] for b in batches])[real].tolist() == list(
        range(len(compact))
    )


# --- Damaged records ------------------------------------------------------------------------


def test_a_damaged_record_is_named_with_shard_and_byte(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = spoil(tmp_path, 1)
    at = int(tfrecord.scan(path)[0]) + 16
    batches = data_input.train_batches(Records(tmp_path), batch_size=NUM, seed=0)
    with pytest.raises(UserError, match=rf"2\.tfrecord: a record whose .* at byte {at:,}; .*skip"):
        next(batches)
    with pytest.raises(UserError, match=rf"2\.tfrecord: a record whose .* at byte {at:,}; .*skip"):
        list(data_input.eval_batches(Records(tmp_path), batch_size=NUM))


def test_skipped_records_have_weight_0_and_the_others_stay_as_they_are(
    folder: Path, opened: Records, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    spoil(tmp_path, 1)
    spoil(tmp_path, 4)
    damaged = {sum(SHARDS[:2]) + 1, sum(SHARDS[:2]) + 4}
    skipping = Records(tmp_path, skip_damaged=True)
    for found, whole in (
        (
            data_input.train_batches(skipping, batch_size=BATCH, seed=0),
            data_input.train_batches(opened, batch_size=BATCH, seed=0),
        ),
        (
            data_input.eval_batches(skipping, batch_size=BATCH),
            data_input.eval_batches(opened, batch_size=BATCH),
        ),
    ):
        left = dict.fromkeys(damaged, 0)
        for one, other in islice(zip(found, whole, strict=True), 6):
            for row, number in enumerate(other["input_ids"][:, 0].tolist()):
                real = other.get("example_weights", np.ones(BATCH))[row] > 0
                if number in damaged and real:
                    left[number] += 1
                    assert one["example_weights"][row] == 0
                    assert not one["masked_lm_weights"][row].any()
                else:
                    for name in FEATURES:
                        np.testing.assert_array_equal(one[name][row], other[name][row])
                    assert one["example_weights"][row] == real
        assert set(left.values()) == {1}
    told = capfd.readouterr().err
    assert told.count("warning:") == 2
    assert "2.tfrecord" in told and "(2 so far)" in told


def test_skipped_compact_records_have_weight_0_too(tmp_path: Path) -> None:
    write_compact(tmp_path, [20] * 8)
    spoil(tmp_path, 3)
    opened = Records(tmp_path, skip_damaged=True)
    for shapes in ((), (8,)):
        batch = next(data_input.train_batches(opened, batch_size=8, seed=0, shapes=shapes))
        assert batch["record"][batch["example_weights"] == 0].tolist() == [3]
