"""The made-up pretraining batch that every side of train_step.py is timed on: no padding."""

from __future__ import annotations

import numpy as np

LENGTH, PREDICTIONS, VOCABULARY = 128, 20, 30_522
# name -> (layers, width, heads, inner width, sequences in a batch)
SIZES = {
    "mini": (4, 256, 4, 1024, 32),
    "minilm": (6, 384, 12, 1536, 16),
    "base": (12, 768, 12, 3072, 8),
}


def batch(sequences: int) -> dict[str, np.ndarray]:
    """Random ids; every position is a real token, so tokens a second are positions a second."""
    rng = np.random.default_rng(0)

    def words(*shape: int) -> np.ndarray:
        return rng.integers(1000, VOCABULARY, shape, dtype=np.int32)

    places = rng.permuted(np.tile(np.arange(LENGTH, dtype=np.int32), (sequences, 1)), axis=1)
    second_half = (np.arange(LENGTH) >= LENGTH // 2).astype(np.int32)
    return {
        "input_ids": words(sequences, LENGTH),
        "input_mask": np.ones((sequences, LENGTH), np.int32),
        "segment_ids": np.tile(second_half, (sequences, 1)),
        "masked_lm_positions": np.sort(places[:, :PREDICTIONS], axis=1),
        "masked_lm_ids": words(sequences, PREDICTIONS),
        "masked_lm_weights": np.ones((sequences, PREDICTIONS), np.float32),
        "next_sentence_labels": rng.integers(0, 2, (sequences, 1), dtype=np.int32),
    }
