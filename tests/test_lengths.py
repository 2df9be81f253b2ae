"""Batches are padded to few lengths, and no others would leave less padding."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from bertjax.data import lengths

LIMIT, MULTIPLE = 38, 4


def cost(longest: np.ndarray, chosen: list[int], price: float) -> float:
    padded = sum(lengths.padded(length, chosen, LIMIT) for length in longest)
    return padded + price * len(chosen)


@pytest.mark.parametrize("price", [0.0, 5.0, 30.0, 1000.0])
def test_no_other_lengths_cost_less_in_padding_and_compilations(price: float) -> None:
    rng = np.random.default_rng(int(price))
    for _ in range(20):
        longest = rng.integers(1, LIMIT + 1, 20)
        chosen = lengths.fewest_padded(longest, LIMIT, price, MULTIPLE)
        possible = sorted({min(-(-n // MULTIPLE) * MULTIPLE, LIMIT) for n in longest})
        others = (
            [*lower, possible[-1]]
            for number in range(len(possible))
            for lower in combinations(possible[:-1], number)
        )
        assert cost(longest, chosen, price) == min(cost(longest, o, price) for o in others)


def test_there_are_never_many() -> None:
    longest = np.random.default_rng(0).integers(1, 512, 10_000)
    assert len(lengths.fewest_padded(longest, 512, price=0)) == lengths.MOST


def test_a_small_model_and_an_accelerator_have_fewer_lengths() -> None:
    """They compute more while one is compiled."""
    longest = np.random.default_rng(0).integers(1, 512, 1000)
    numbers = [
        len(lengths.fewest_padded(longest, 512, lengths.price_of_one(parameters, platform) / 32))
        for parameters, platform in [(85_000_000, "cpu"), (400_000, "cpu"), (85_000_000, "tpu")]
    ]
    assert numbers[0] > numbers[1] > 1
    assert numbers[0] > numbers[2]


def test_what_is_longer_than_all_gets_the_limit() -> None:
    assert lengths.padded(30, [8, 24], 40) == 40
