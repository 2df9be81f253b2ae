"""A small random batch with padding, on which what is exported is compared with its run."""

from __future__ import annotations

import numpy as np

from bertjax.models.config import EncoderConfig

ROWS, LENGTH = 4, 32


def random_batch(config: EncoderConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """input_ids, input_mask and segment_ids for an encoder, int32 [ROWS, at most LENGTH]."""
    random, length = np.random.default_rng(0), min(LENGTH, config.max_positions)
    ids = random.integers(config.vocab_size, size=(ROWS, length), dtype=np.int32)
    mask = np.arange(length) < random.integers(1, length + 1, size=(ROWS, 1))
    segments = random.integers(
        getattr(config, "num_segments", 2), size=(ROWS, length), dtype=np.int32
    )
    return ids, mask.astype(np.int32), segments
