"""Which records stand in a batch hangs on seed and step alone, whoever asks, whenever."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from bertjax.data import order
from bertjax.data.order import Bucketed, Order, Shuffled

NUM, BATCH = 23, 4
SHAPES = [8, 16, 32]
# Tokens of 61 records; those of the middle bucket fill their batches exactly, 8 a batch.
LENGTHS = np.random.default_rng(0).permutation(
    np.concatenate([np.arange(30) % 8 + 1, np.arange(16) % 8 + 9, np.arange(15) + 17])
)


class Rows(NamedTuple):
    """A share's arrays."""

    records: list[int]
    epochs: list[int]
    weights: list[float]
    length: int


def rows(plan: Order, step: int, parts: tuple[int, ...] = (0,), num_parts: int = 1) -> Rows:
    share = plan.share(tf.constant(step, tf.int64), parts, num_parts)
    records, epochs, weights = (column.numpy().tolist() for column in share[:3])
    return Rows(records, epochs, weights, int(share.length))


def permutation(positions: range, number: int, seed: int = 0, stream: int = 0) -> np.ndarray:
    places = tf.range(positions.start, positions.stop, dtype=tf.int64)
    number = tf.constant(number, tf.int64)
    return order.permuted(places, number, seed, tf.constant(stream)).numpy()


@pytest.fixture(scope="module")
def shuffled() -> Shuffled:
    return Shuffled(NUM, BATCH, length=64, seed=0)


@pytest.fixture(scope="module")
def bucketed() -> Bucketed:
    # 30 short records in batches of 16, 16 in batches of 8, 15 long ones in batches of 4.
    return Bucketed(LENGTHS, SHAPES, BATCH, seed=0)


BUCKETED_STEPS = 2 + 2 + 4


# --- Permutations ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 5, 64, 1000])
def test_any_number_of_records_is_permuted(number: int) -> None:
    found = permutation(range(number, 2 * number), number, seed=3)
    assert sorted(found.tolist()) == list(range(number))


@pytest.mark.parametrize("number", [200, 256])
def test_permutations_of_successive_epochs_are_unrelated(number: int) -> None:
    epochs = 50
    table = permutation(range(number * epochs), number).reshape(epochs, number)
    # A record keeps its place in the next epoch once in n times: Poisson, mean 1 an epoch.
    same = (table[1:] == table[:-1]).sum()
    assert abs(same - (epochs - 1)) < 5 * np.sqrt(epochs - 1)
    # Neighbours in the file are no neighbours in the epoch.
    neighbours = (np.diff(table, axis=1) == 1).sum()
    assert abs(neighbours - epochs) < 5 * np.sqrt(epochs)


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": 1}])
def test_seeds_and_streams_are_unrelated(other: dict[str, int]) -> None:
    same = permutation(range(5000), 100) == permutation(range(5000), 100, **other)
    assert abs(same.sum() - 50) < 5 * np.sqrt(50)


# --- Batches of equal shape -----------------------------------------------------------------


def test_every_epoch_holds_every_record_once_in_another_order(shuffled: Shuffled) -> None:
    batches = [rows(shuffled, step) for step in range(3 * NUM // BATCH + 1)]
    flat = [record for batch in batches for record in batch.records]
    epochs = [flat[i * NUM : (i + 1) * NUM] for i in range(3)]
    assert all(sorted(epoch) == list(range(NUM)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(NUM)]}) == 4
    told = [epoch for batch in batches for epoch in batch.epochs]
    assert told[: 3 * NUM] == [0] * NUM + [1] * NUM + [2] * NUM
    assert all(batch.weights == [1] * BATCH and batch.length == 64 for batch in batches)


def test_step_a_million_is_direct_computation(shuffled: Shuffled) -> None:
    step = 1_000_000
    wanted = permutation(range(step * BATCH, (step + 1) * BATCH), NUM)
    assert rows(shuffled, step).records == wanted.tolist()
    # And the epoch in which it lies is a permutation like every other.
    epoch = step * BATCH // NUM
    whole = permutation(range(epoch * NUM, (epoch + 1) * NUM), NUM)
    assert sorted(whole.tolist()) == list(range(NUM))


def test_another_seed_is_another_order(shuffled: Shuffled) -> None:
    other = Shuffled(NUM, BATCH, length=64, seed=1)
    assert [rows(other, i).records for i in range(4)] != [
        rows(shuffled, i).records for i in range(4)
    ]


# --- Batches of similar length --------------------------------------------------------------


def epoch_of(plan: Bucketed, epoch: int) -> list[Rows]:
    return [rows(plan, epoch * BUCKETED_STEPS + i) for i in range(BUCKETED_STEPS)]


@pytest.mark.parametrize("epoch", [0, 1, 125_000])
def test_every_epoch_of_buckets_holds_every_record_once(epoch: int, bucketed: Bucketed) -> None:
    batches = epoch_of(bucketed, epoch)
    real = [
        record
        for batch in batches
        for record, weight in zip(batch.records, batch.weights, strict=True)
        if weight
    ]
    assert sorted(real) == list(range(len(LENGTHS)))
    assert {number for batch in batches for number in batch.epochs} == {epoch}


def test_every_epoch_of_buckets_has_another_order_of_batches_and_records(
    bucketed: Bucketed,
) -> None:
    epochs = [epoch_of(bucketed, epoch) for epoch in range(5)]
    assert len({tuple(batch.length for batch in epoch) for epoch in epochs}) == 5
    short = [
        frozenset(tuple(sorted(b.records)) for b in epoch if b.length == 8) for epoch in epochs
    ]
    assert len(set(short)) == 5


def test_a_record_is_padded_to_the_shortest_shape_that_holds_it(bucketed: Bucketed) -> None:
    for batch in epoch_of(bucketed, 0):
        shorter = max([shape for shape in SHAPES if shape < batch.length], default=0)
        lengths = LENGTHS[batch.records]
        assert (lengths <= batch.length).all()
        assert (lengths > shorter).all()


def test_batches_of_all_shapes_have_about_as_many_tokens(bucketed: Bucketed) -> None:
    found = {(batch.length, len(batch.records)) for batch in epoch_of(bucketed, 0)}
    assert found == {(8, 16), (16, 8), (32, 4)}


def test_only_the_last_batch_of_a_shape_is_filled_up(bucketed: Bucketed) -> None:
    filled = {8: 0.0, 16: 0.0, 32: 0.0}
    partly = []
    for batch in epoch_of(bucketed, 0):
        filled[batch.length] += sum(batch.weights)
        if 0 in batch.weights:
            partly.append(batch.length)
            assert sorted(batch.weights, reverse=True) == batch.weights
    assert filled == {8: 30, 16: 16, 32: 15}
    assert sorted(partly) == [8, 32]


def test_a_shape_that_no_record_has_is_never_used() -> None:
    plan = Bucketed(np.full(10, 12), [8, 16, 32], BATCH, seed=0)
    for step in range(4):
        batch = rows(plan, step)
        assert batch.length == 16
        assert sum(batch.weights) in (8, 2)


def test_shapes_may_be_given_in_any_order_and_twice(bucketed: Bucketed) -> None:
    other = Bucketed(LENGTHS, [32, 8, 16, 8], BATCH, seed=0)
    assert [rows(other, i) for i in range(9)] == [rows(bucketed, i) for i in range(9)]


# --- Several hosts --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shuffled", "bucketed"])
@pytest.mark.parametrize("hosts", [((0,),), ((0,), (1,)), ((0, 1), (2, 3)), ((0, 3), (1, 2))])
def test_the_hosts_shares_make_up_the_global_batch(
    hosts: tuple[tuple[int, ...], ...], kind: str, request: pytest.FixtureRequest
) -> None:
    plan: Order = request.getfixturevalue(kind)
    for step in (*range(9), 1_000_000):
        whole = rows(plan, step)
        num_parts = sum(map(len, hosts))
        shares = [rows(plan, step, parts, num_parts) for parts in hosts]
        size = len(whole.records) // num_parts
        for name in ("records", "epochs", "weights"):
            for share, parts in zip(shares, hosts, strict=True):
                wanted = [getattr(whole, name)[i * size : (i + 1) * size] for i in parts]
                assert getattr(share, name) == sum(wanted, [])
        # All hosts must run the same compiled step.
        assert {(share.length, len(share.records)) for share in shares} == {
            (whole.length, len(whole.records) // len(hosts))
        }
