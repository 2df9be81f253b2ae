"""Batches of rows: every example exactly once, padded little, resumable by step."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from bertjax.data import rows
from bertjax.data.rows import Batch, Row, Shape

LIMIT = 40
NUM = 101
SHAPE = Shape("classification", 8, LIMIT, pad_id=0, price=1500)


@pytest.fixture(scope="module")
def encoded() -> list[Row]:
    """Example i has i + 10 as its second token, and a length of 3 to 40."""
    rng = random.Random(0)
    return [Row([1, i + 10, *[5] * rng.randint(0, LIMIT - 3), 2], 2, i % 3) for i in range(NUM)]


def train(encoded: list[Row], steps: int, start_step: int = 0, seed: int = 0) -> list[Batch]:
    return list(islice(rows.train_batches(encoded, SHAPE, seed=seed, start_step=start_step), steps))


def numbers(batch: Batch) -> list[int]:
    """Which examples the real rows of a batch are."""
    return (batch["input_ids"][batch["example_weights"] > 0, 1] - 10).tolist()


STEPS = -(-NUM // 8)


# --- Batches --------------------------------------------------------------------------------


def test_every_epoch_holds_every_example_once_in_another_order(encoded: list[Row]) -> None:
    steps = train(encoded, 3 * STEPS)
    epochs = [sum(map(numbers, steps[i * STEPS : (i + 1) * STEPS]), []) for i in range(3)]
    assert all(sorted(epoch) == list(range(NUM)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, 2 * STEPS + 3])
def test_opening_at_a_step_gives_the_batches_from_there_on(step: int, encoded: list[Row]) -> None:
    whole, resumed = train(encoded, step + 3)[step:], train(encoded, 3, start_step=step)
    for wanted, found in zip(whole, resumed, strict=True):
        assert all((wanted[name] == found[name]).all() for name in wanted)


def test_the_order_hangs_on_the_seed(encoded: list[Row]) -> None:
    first, again, other = (
        [numbers(batch) for batch in train(encoded, STEPS, seed=seed)] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_evaluation_counts_every_example_once(encoded: list[Row]) -> None:
    found = list(rows.eval_batches(encoded, SHAPE))
    assert Counter(i for _, batch in found for i in numbers(batch)) == Counter(range(NUM))
    for chosen, batch in found:
        assert numbers(batch) == chosen.tolist()
        assert len(batch["labels"]) == 8
        assert batch["labels"][: len(chosen)].tolist() == [i % 3 for i in chosen]
    assert sum(batch["example_weights"].sum() for _, batch in found) == NUM


def test_an_evaluation_fills_up_where_it_costs_least_and_pads_little(encoded: list[Row]) -> None:
    found = [batch for _, batch in rows.eval_batches(encoded, SHAPE)]
    assert [batch["example_weights"].all() for batch in found] == [False] + [True] * (STEPS - 1)
    longest = [int(batch["input_mask"].sum(axis=1).max()) for batch in found]
    assert longest == sorted(longest)
    padded = sum(batch["input_mask"].size for batch in found)
    assert padded < sum(batch["input_mask"].size for batch in train(encoded, STEPS))
    assert len({batch["input_ids"].shape[1] for batch in found}) > 2


def test_batches_are_padded_to_the_next_of_a_few_lengths(encoded: list[Row]) -> None:
    shapes = set()
    for seed in range(3):
        for batch in train(encoded, 2 * STEPS, seed=seed):
            shapes.add(batch["input_ids"].shape[1])
    # So few batches are worth two lengths, of all seeds and epochs the same.
    assert len(shapes) == 2 and max(shapes) == LIMIT
    for batch in train(encoded, STEPS):
        longest = int(batch["input_mask"].sum(axis=1).max())
        assert batch["input_ids"].shape[1] == min(n for n in shapes if n >= longest)


def test_sorting_by_length_leaves_less_padding_than_chance(encoded: list[Row]) -> None:
    real = sum(int(batch["input_mask"].sum()) for batch in train(encoded, STEPS))
    grouped = sum(batch["input_mask"].size for batch in train(encoded, STEPS))
    assert real / grouped > 0.7 > real / (STEPS * 8 * LIMIT)


def test_a_batch_marks_text_segments_and_filling() -> None:
    two = [[Row([1, 7, 2, 8, 9, 2], 3, 1)], [Row([1, 7, 2], 3)]]
    batch = rows.collate(two, Shape("classification", 3, 8, pad_id=0))
    assert batch["input_ids"].tolist() == [
        [1, 7, 2, 8, 9, 2, 0, 0],
        [1, 7, 2, 0, 0, 0, 0, 0],
        [0] * 8,
    ]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 0, 0], [0] * 8, [0] * 8]
    assert batch["input_mask"][:2].sum(axis=1).tolist() == [6, 3]
    assert batch["example_weights"].tolist() == [1, 1, 0]
    assert batch["labels"].tolist() == [1, 0, 0]
    # An attention over no position at all would be undefined.
    assert batch["input_mask"][2].sum() == 1


# --- Targets --------------------------------------------------------------------------------


def _labels(head: str, *targets: object) -> np.ndarray:
    given = [[Row([1, 7, 8, 2], 4, target)] for target in targets]
    return rows.collate(given, Shape(head, len(targets) + 1, 8, pad_id=0))["labels"]


def test_every_kind_of_head_has_its_targets() -> None:
    assert _labels("regression", 2.5, None).tolist() == [2.5, 0, 0]
    assert _labels("regression", 2.5).dtype == np.float32
    assert _labels("span", (1, 2), None).tolist() == [[1, 2], [0, 0], [0, 0]]
    tags = _labels("tagging", [-1, 3, 0, -1], None)
    assert tags.tolist() == [[-1, 3, 0, -1, -1, -1, -1, -1], [-1] * 8, [-1] * 8]


def test_the_rows_of_an_example_stay_together_and_missing_choices_are_masked() -> None:
    given = [
        Row([1, 5, 2], 3, 2), Row([1, 6, 2], 3), Row([1, 7, 2], 3),
        Row([1, 8, 2], 3, 1), Row([1, 9, 2], 3), Row([], 0),
    ]  # fmt: skip
    shape = Shape("choice", 3, 8, pad_id=0, choices=3)
    batch = next(rows.train_batches(given, shape, seed=0))
    firsts = batch["input_ids"][:, 1].reshape(3, 3).tolist()
    assert sorted(firsts[:2]) == [[5, 6, 7], [8, 9, 0]]
    place = firsts.index([8, 9, 0])
    assert batch["choice_mask"].tolist()[place] == [1, 1, 0]
    assert batch["choice_mask"].tolist()[1 - place] == [1, 1, 1]
    assert batch["labels"][place] == 1
    assert batch["labels"][1 - place] == 2
    assert batch["example_weights"].tolist() == [1, 1, 0]


def test_the_order_of_an_epoch_groups_alike_lengths() -> None:
    lengths = np.arange(64)
    batches = rows.epoch_order(lengths, 8, seed=0, epoch=0)
    assert all(np.ptp(batch) == 7 for batch in batches)
    starts = [int(batch.min()) for batch in batches]
    assert starts != sorted(starts)
