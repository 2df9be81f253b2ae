"""Which lengths batches are padded to: few, for each is compiled, and near to the batches' own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Most lengths of a split, and batches for which one more of them pays.
MOST, _BATCHES_EACH = 12, 8
# A compromise: processors pay for every position, chips read several at once.
_MULTIPLE = 4


def fewest_padded(longest: Sequence[int], at_most: int, multiple: int = _MULTIPLE) -> list[int]:
    """The lengths with which the padded batches have the fewest positions, in rising order.

    Args:
      longest: the longest row of every batch.
      at_most: no row is longer.
      multiple: lengths are multiples of it, but for `at_most`.
    """
    rounded = np.minimum(-(-np.asarray(longest) // multiple) * multiple, at_most)
    values, counts = np.unique(rounded, return_counts=True)
    up_to = np.cumsum(counts)
    number = min(MOST, 1 + len(longest) // _BATCHES_EACH)
    # between[i, j]: positions of the batches above values[i] up to values[j], padded to values[j].
    between = np.where(values[:, None] > values, np.inf, (up_to - up_to[:, None]) * values)
    # positions[j]: of all batches up to values[j] with the lengths chosen so far, one at first.
    positions, cuts = values * up_to.astype(float), []
    for _ in range(number - 1):
        added = positions[:, None] + between
        cuts.append(added.argmin(axis=0))
        positions = added.min(axis=0)
    place, chosen = len(values) - 1, [int(values[-1])]
    for cut in reversed(cuts):
        place = int(cut[place])
        chosen.append(int(values[place]))
    return sorted(set(chosen))


def padded(longest: int, lengths: Sequence[int], at_most: int) -> int:
    """The next of the lengths; `at_most` where there is none."""
    return next((length for length in lengths if length >= longest), at_most)
