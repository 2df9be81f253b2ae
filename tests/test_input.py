"""Which records stand in a batch hangs on seed and step alone, whoever asks, whenever."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bertjax.data import input as data_input
from bertjax.data import records
from bertjax.data.records import FEATURES, Manifest
from bertjax.errors import UserError

SHARDS = (7, 1, 15)
NUM = sum(SHARDS)
LENGTH, PREDICTIONS = 8, 2
BATCH = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record i of three unequal shards has i as its first token."""
    path = tmp_path_factory.mktemp("records")
    first, shards = 0, []
    for index, count in enumerate(SHARDS):
        rows = {
            name: np.ones((count, {"T": LENGTH, "P": PREDICTIONS, "1": 1}[size]), np.int64)
            for name, (size, _) in FEATURES.items()
        }
        rows["input_ids"][:, 0] = np.arange(first, first + count)
        shards.append(records.write_shard(path / f"{index}.tfrecord", records.serialize(rows)))
        first += count
    Manifest(
        max_seq_length=LENGTH,
        max_predictions_per_seq=PREDICTIONS,
        vocab_size=NUM,
        tokenizer={},
        settings={},
        corpus={},
        source={},
        padding_share=0.0,
        shards=tuple(shards),
        bertjax_version="0",
    ).save(path)
    return path


@pytest.fixture(scope="module")
def opened(folder: Path) -> data_input.Records:
    return data_input.Records(folder)


def stream(
    opened: data_input.Records,
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
        host=host,
        num_hosts=num_hosts,
    )
    return [batch["input_ids"][:, 0].tolist() for batch in islice(batches, steps)]


def test_every_epoch_holds_every_record_once_in_another_order(opened: data_input.Records) -> None:
    flat = sum(stream(opened, 3 * NUM // BATCH + 1), [])
    epochs = [flat[i * NUM : (i + 1) * NUM] for i in range(3)]
    assert all(sorted(epoch) == list(range(NUM)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert list(range(NUM)) not in epochs


def test_another_seed_is_another_order_and_the_same_seed_the_same(
    opened: data_input.Records,
) -> None:
    assert stream(opened, 6) == stream(opened, 6)
    assert stream(opened, 6) != stream(opened, 6, seed=1)


@pytest.mark.parametrize("step", [1, 5, 6, 17])
def test_opening_at_a_step_gives_the_batches_from_there_on(
    step: int, opened: data_input.Records
) -> None:
    assert stream(opened, 3, start_step=step) == stream(opened, step + 3)[step:]


def test_opening_at_step_a_million_is_direct_computation(opened: data_input.Records) -> None:
    step = 1_000_000
    positions = tf.range(step * BATCH, (step + 2) * BATCH, dtype=tf.int64)
    wanted = data_input.permuted(positions, NUM, 0).numpy().reshape(2, BATCH).tolist()
    assert stream(opened, 2, start_step=step) == wanted
    # And the epoch in which it lies is a permutation like every other.
    epoch = step * BATCH // NUM
    whole = data_input.permuted(tf.range(epoch * NUM, (epoch + 1) * NUM, dtype=tf.int64), NUM, 0)
    assert sorted(whole.numpy().tolist()) == list(range(NUM))


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_the_hosts_shares_make_up_the_global_batch(
    num_hosts: int, opened: data_input.Records
) -> None:
    shares = [stream(opened, 8, host=host, num_hosts=num_hosts) for host in range(num_hosts)]
    joined: list[list[int]] = [sum(parts, []) for parts in zip(*shares, strict=True)]
    assert joined == stream(opened, 8)


@pytest.mark.parametrize("num_records", [1, 2, 3, 5, 64, 1000])
def test_any_number_of_records_is_permuted(num_records: int) -> None:
    positions = tf.range(num_records, 2 * num_records, dtype=tf.int64)
    found = data_input.permuted(positions, num_records, 3).numpy()
    assert sorted(found.tolist()) == list(range(num_records))


def test_permutations_of_successive_epochs_are_unrelated() -> None:
    n, epochs = 200, 50
    found = data_input.permuted(tf.range(n * epochs, dtype=tf.int64), n, 0).numpy()
    table = found.reshape(epochs, n)
    # A record keeps its place in the next epoch once in n times: Poisson, mean 1 an epoch.
    same = (table[1:] == table[:-1]).sum()
    assert abs(same - (epochs - 1)) < 5 * np.sqrt(epochs - 1)
    # Neighbours in the file are no neighbours in the epoch.
    neighbours = (np.diff(table, axis=1) == 1).sum()
    assert abs(neighbours - epochs) < 5 * np.sqrt(epochs)


def test_batches_have_the_features_as_int32_and_float32(opened: data_input.Records) -> None:
    batch = next(data_input.train_batches(opened, batch_size=BATCH, seed=0))
    assert set(batch) == set(FEATURES)
    for name, (size, kind) in FEATURES.items():
        assert batch[name].shape == (BATCH, {"T": LENGTH, "P": PREDICTIONS, "1": 1}[size])
        assert batch[name].dtype == (np.float32 if kind == "float32" else np.int32)


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 32])
def test_evaluation_counts_every_record_once(
    batch_size: int, num_hosts: int, opened: data_input.Records
) -> None:
    hosts = [
        list(data_input.eval_batches(opened, batch_size=batch_size, host=host, num_hosts=num_hosts))
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


def test_evaluation_keeps_the_order_of_the_shards(opened: data_input.Records) -> None:
    found = list(data_input.eval_batches(opened, batch_size=6))
    assert np.concatenate([b["input_ids"][:, 0] for b in found])[:NUM].tolist() == list(range(NUM))


def test_a_batch_that_the_hosts_do_not_divide_is_refused(opened: data_input.Records) -> None:
    with pytest.raises(UserError, match="batch_size 4 is not a multiple of the 3 hosts"):
        data_input.train_batches(opened, batch_size=4, seed=0, num_hosts=3)


def test_a_damaged_record_in_the_middle_of_a_shard_is_named_as_such(
    folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "2.tfrecord":
            # The content of the second record; the first is looked at when the folder is opened.
            second = len(content) // SHARDS[2]
            content[second + 12 : second + 40] = b"\xff" * 28
        (tmp_path / path.name).write_bytes(content)
    batches = data_input.train_batches(data_input.Records(tmp_path), batch_size=NUM, seed=0)
    with pytest.raises(UserError, match="a record is damaged"):
        next(batches)
