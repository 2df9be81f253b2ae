"""Batches are padded to few lengths, and no others would leave less padding."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from bertjax.data import lengths

LIMIT, MULTIPLE = 38, 4


def positions(longest: np.ndarray, chosen: list[int]) -> int:
    return sum(lengths.padded(length, chosen, LIMIT) for length in longest)


@pytest.mark.parametrize("batches", [1, 7, 8, 20, 40])
def test_no_other_lengths_leave_less_padding(batches: int) -> None:
    rng = np.random.default_rng(batches)
    for _ in range(20):
        longest = rng.integers(1, LIMIT + 1, batches)
        chosen = lengths.fewest_padded(longest, LIMIT, MULTIPLE)
        assert len(chosen) <= 1 + batches // 8
        possible = sorted({min(-(-n // MULTIPLE) * MULTIPLE, LIMIT) for n in longest})
        others = (
            [*lower, possible[-1]]
            for number in range(min(1 + batches // 8, len(possible)))
            for lower in combinations(possible[:-1], number)
        )
        assert positions(longest, chosen) == min(positions(longest, other) for other in others)


def test_there_are_never_many() -> None:
    longest = np.random.default_rng(0).integers(1, 512, 10_000)
    assert len(lengths.fewest_padded(longest, 512)) == lengths.MOST


def test_what_is_longer_than_all_gets_the_limit() -> None:
    assert lengths.padded(30, [8, 24], 40) == 40
