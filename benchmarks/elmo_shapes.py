"""The made-up batch and the size that every side of elmo.py is timed on: no padding."""

from __future__ import annotations

import numpy as np

ROWS, LENGTH, VOCABULARY = 32, 64, 10_000
# Of ElmoConfig's "mini".
UNITS, WIDTH, LAYERS = 512, 128, 2


def ids() -> np.ndarray:
    """[ROWS, LENGTH] random words; none is a special one."""
    rng = np.random.default_rng(0)
    return rng.integers(10, VOCABULARY, (ROWS, LENGTH), dtype=np.int32)


def products(words: int) -> int:
    """Floating-point operations of the LSTMs' and the softmax' products in one update.

    Args:
      words: candidates of the softmax. Backward takes twice as many operations as forward.
    """
    lstm = LAYERS * 2 * (2 * WIDTH * 4 * UNITS + UNITS * WIDTH)
    return 3 * 2 * ROWS * LENGTH * (lstm + 2 * WIDTH * words)
