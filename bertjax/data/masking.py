"""Chooses which tokens a masked language model must predict, and hides them.

Devlin et al. 2018, section 3.1 and appendix A.1: 15 % of the wordpieces are predicted; of these
80 % become [MASK], 10 % a random piece and 10 % stay as they are.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class MaskingSettings:
    """masked_lm_prob of the tokens are predicted, at most max_predictions in a sequence."""

    max_predictions: int
    masked_lm_prob: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1


def num_to_predict(lengths: np.ndarray, settings: MaskingSettings) -> np.ndarray:
    """[N] sequence lengths with specials -> [N] predictions; at least one, as the 2018 code."""
    wanted = np.rint(lengths * settings.masked_lm_prob).astype(np.int64)
    return np.clip(wanted, 1, settings.max_predictions)


def choose_positions(
    maskable: np.ndarray, counts: np.ndarray, max_predictions: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws positions uniformly without replacement.

    Args:
      maskable: [N, T] bool, False for special tokens and padding.
      counts: [N], how many positions to draw in each row; fewer if fewer are maskable.
      max_predictions: P.

    Returns:
      positions: [N, P] int64, ascending, filled with 0 behind the drawn ones.
      weights: [N, P] float32, 1 for drawn positions and 0 for the filling.
    """
    length = maskable.shape[1]
    keys = np.where(maskable, rng.random(maskable.shape, np.float32), np.float32(2.0))
    width = min(max_predictions, length)
    drawn = np.argsort(keys, axis=1, kind="stable")[:, :width]
    counts = np.minimum(counts, maskable.sum(axis=1))
    # Undrawn places sort behind every real position, then become 0.
    drawn = np.where(np.arange(width) < counts[:, None], drawn, length)
    drawn = np.sort(drawn, axis=1)
    positions = np.zeros((len(maskable), max_predictions), np.int64)
    weights = np.zeros((len(maskable), max_predictions), np.float32)
    positions[:, :width] = np.where(drawn < length, drawn, 0)
    weights[:, :width] = drawn < length
    return positions, weights


def hide(
    originals: np.ndarray,
    mask_id: int,
    replacements: np.ndarray,
    settings: MaskingSettings,
    rng: np.random.Generator,
) -> np.ndarray:
    """The 80/10/10 rule: what stands in the input where `originals` must be predicted.

    Args:
      originals: ids of any shape.
      mask_id: id of [MASK].
      replacements: ids a random piece is drawn from (no special, no unused piece).
    """
    draw = rng.random(originals.shape)
    random_ids = replacements[rng.integers(0, len(replacements), originals.shape)]
    keep_from = settings.mask_share + settings.random_share
    hidden = np.where(draw < keep_from, random_ids, originals)
    return np.where(draw < settings.mask_share, mask_id, hidden)


def mask(
    input_ids: np.ndarray,
    lengths: np.ndarray,
    maskable: np.ndarray,
    mask_id: int,
    replacements: np.ndarray,
    settings: MaskingSettings,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Masks a batch of sequences [N, T]; returns new input_ids and the three masked_lm arrays."""
    counts = num_to_predict(lengths, settings)
    positions, weights = choose_positions(maskable, counts, settings.max_predictions, rng)
    originals = np.take_along_axis(input_ids, positions, axis=1)
    hidden = hide(originals, mask_id, replacements, settings, rng)
    masked = input_ids.copy()
    rows, columns = np.nonzero(weights)
    masked[rows, positions[rows, columns]] = hidden[rows, columns]
    return {
        "input_ids": masked,
        "masked_lm_positions": positions,
        "masked_lm_ids": np.where(weights > 0, originals, 0),
        "masked_lm_weights": weights,
    }
