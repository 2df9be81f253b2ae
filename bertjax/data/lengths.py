"""Which lengths batches are padded to: few, for each is compiled, and near to the batches' own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Most lengths of a split.
MOST = 12
# A compromise: processors pay for every position, chips read several at once.
_MULTIPLE = 4
# What can be computed while one more length is compiled, FLOP: 8 s at 150 GFLOP/s on two cores
# (seen with MiniLM's training step); 30 s at 50 TFLOP/s on an accelerator.
_MEANWHILE = {"cpu": 1.2e12}
_MEANWHILE_ON_CHIPS = 1.5e15


def price_of_one(parameters: int, platform: str) -> float:
    """How many positions a training step computes while one more length is compiled.

    Args:
      parameters: those that every position meets: 6 FLOP each (Kaplan et al. 2020, section 2.1).
      platform: of jax.Device.
    """
    return _MEANWHILE.get(platform, _MEANWHILE_ON_CHIPS) / (6 * max(parameters, 1))


def fewest_padded(
    longest: Sequence[int], at_most: int, price: float, multiple: int = _MULTIPLE
) -> list[int]:
    """The lengths with which padded batches and compilations take least, in rising order.

    Args:
      longest: the longest row of every batch.
      at_most: no row is longer.
      price: what one more length must save of the sum of all batches' lengths.
      multiple: lengths are multiples of it, but for `at_most`.
    """
    rounded = np.minimum(-(-np.asarray(longest) // multiple) * multiple, at_most)
    values, counts = np.unique(rounded, return_counts=True)
    up_to = np.cumsum(counts)
    # between[i, j]: positions of the batches above values[i] up to values[j], padded to values[j].
    between = np.where(values[:, None] > values, np.inf, (up_to - up_to[:, None]) * values)
    # positions[j]: of all batches up to values[j] with the lengths chosen so far, one at first.
    positions, cuts = values * up_to.astype(float), []
    costs = [positions[-1]]
    for number in range(1, MOST):
        added = positions[:, None] + between
        cuts.append(added.argmin(axis=0))
        positions = added.min(axis=0)
        costs.append(positions[-1] + number * price)
    place, chosen = len(values) - 1, [int(values[-1])]
    for cut in reversed(cuts[: int(np.argmin(costs))]):
        place = int(cut[place])
        chosen.append(int(values[place]))
    return sorted(set(chosen))


def padded(longest: int, lengths: Sequence[int], at_most: int) -> int:
    """The next of the lengths; `at_most` where there is none."""
    return next((length for length in lengths if length >= longest), at_most)
