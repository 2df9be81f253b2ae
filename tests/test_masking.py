"""Masking does what section 3.1 of the paper says: 15 % predicted, of these 80/10/10."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from bertjax.data import masking
from bertjax.data.masking import MaskingSettings

# A made-up vocabulary: 0 is [PAD], 1 to 9 are unused, 10 to 13 special, the rest are pieces.
PAD, CLS, SEP, MASK = 0, 11, 12, 13
VOCAB_SIZE = 500
PIECES = np.arange(14, VOCAB_SIZE)
ROWS, LENGTH = 2000, 64


class Batch(NamedTuple):
    input_ids: np.ndarray
    lengths: np.ndarray
    maskable: np.ndarray


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Rows "[CLS] a [SEP] b [SEP]" of 5 to 64 tokens."""
    rng = np.random.default_rng(7)
    ids = rng.choice(PIECES, (ROWS, LENGTH))
    lengths = rng.integers(5, LENGTH + 1, ROWS)
    middle = rng.integers(2, lengths - 2)
    place = np.arange(LENGTH)
    ids[:, 0] = CLS
    ids[np.arange(ROWS), middle] = SEP
    ids[np.arange(ROWS), lengths - 1] = SEP
    ids[place >= lengths[:, None]] = PAD
    return Batch(ids, lengths, np.isin(ids, PIECES))


def masked(batch: Batch, settings: MaskingSettings, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return masking.mask(*batch, MASK, PIECES, settings, rng)


@pytest.fixture(scope="module")
def found(batch: Batch) -> dict[str, np.ndarray]:
    return masked(batch, MaskingSettings(max_predictions=20))


@pytest.mark.parametrize(
    ("length", "limit", "wanted"),
    [(5, 20, 1), (3, 20, 1), (10, 20, 2), (30, 20, 4), (50, 20, 8), (128, 20, 19), (512, 20, 20)],
)
def test_fifteen_percent_rounded_at_least_one_at_most_the_limit(
    length: int, limit: int, wanted: int
) -> None:
    # The 2018 code counts the special tokens in the length: min(P, max(1, round(n * 0.15))).
    assert wanted == min(limit, max(1, round(length * 0.15)))
    settings = MaskingSettings(max_predictions=limit)
    assert masking.num_to_predict(np.array([length]), settings).tolist() == [wanted]


def test_every_row_predicts_as_many_as_its_length_asks_for(
    batch: Batch, found: dict[str, np.ndarray]
) -> None:
    wanted = [min(20, max(1, round(int(n) * 0.15))) for n in batch.lengths]
    assert found["masked_lm_weights"].sum(axis=1).tolist() == wanted


def test_a_row_with_fewer_tokens_than_predictions_masks_them_all_and_no_more() -> None:
    maskable = np.array([[False, True, False, True, False, False]])
    positions, weights = masking.choose_positions(
        maskable, np.array([5]), 8, np.random.default_rng(0)
    )
    assert positions.tolist() == [[1, 3, 0, 0, 0, 0, 0, 0]]
    assert weights.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]]


def test_positions_are_ascending_distinct_and_never_of_a_special_token(
    batch: Batch, found: dict[str, np.ndarray]
) -> None:
    for row, (positions, weights) in enumerate(
        zip(found["masked_lm_positions"], found["masked_lm_weights"], strict=True)
    ):
        count = int(weights.sum())
        assert weights.tolist() == [1.0] * count + [0.0] * (20 - count)
        drawn = positions[:count]
        assert (np.diff(drawn) > 0).all()
        assert batch.maskable[row, drawn].all()
        assert not positions[count:].any()


def test_every_position_is_as_likely_as_any_other() -> None:
    maskable = np.zeros((20_000, 12), bool)
    maskable[:, 1:11] = True
    positions, weights = masking.choose_positions(
        maskable, np.full(20_000, 3), 4, np.random.default_rng(0)
    )
    counts = np.bincount(positions[weights > 0], minlength=12)[1:11]
    # Binomial with p = 0.3: mean 6000, deviation 65.
    assert np.abs(counts - 6000).max() < 5 * 65


def test_masked_lm_ids_are_the_originals_and_only_masked_places_change(
    batch: Batch, found: dict[str, np.ndarray]
) -> None:
    weights = found["masked_lm_weights"] > 0
    originals = np.take_along_axis(batch.input_ids, found["masked_lm_positions"], axis=1)
    assert (found["masked_lm_ids"] == np.where(weights, originals, 0)).all()
    restored = found["input_ids"].copy()
    rows, columns = np.nonzero(weights)
    restored[rows, found["masked_lm_positions"][rows, columns]] = found["masked_lm_ids"][weights]
    assert (restored == batch.input_ids).all()


def test_eighty_percent_mask_ten_percent_random_ten_percent_kept(
    found: dict[str, np.ndarray],
) -> None:
    weights = found["masked_lm_weights"] > 0
    hidden = np.take_along_axis(found["input_ids"], found["masked_lm_positions"], axis=1)[weights]
    originals = found["masked_lm_ids"][weights]
    n = len(originals)
    assert n > 9000

    def near(share: float, wanted: float) -> bool:
        return abs(share - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / n)

    kept = hidden == originals
    assert near((hidden == MASK).mean(), 0.8)
    # One random piece in len(PIECES) is the original by chance.
    assert near(kept.mean(), 0.1 + 0.1 / len(PIECES))
    assert near((~kept & (hidden != MASK)).mean(), 0.1 - 0.1 / len(PIECES))


def test_a_random_replacement_is_any_piece_but_never_special_or_unused() -> None:
    originals = np.full(60_000, 20)
    settings = MaskingSettings(max_predictions=20, mask_share=0.0, random_share=1.0)
    hidden = masking.hide(originals, MASK, PIECES, settings, np.random.default_rng(0))
    assert set(hidden.tolist()) == set(PIECES.tolist())


def test_the_same_generator_gives_the_same_masks_and_another_gives_others(
    batch: Batch, found: dict[str, np.ndarray]
) -> None:
    settings = MaskingSettings(max_predictions=20)
    again, other = masked(batch, settings), masked(batch, settings, seed=1)
    assert all((again[name] == found[name]).all() for name in found)
    assert (other["masked_lm_positions"] != found["masked_lm_positions"]).any()


def test_the_input_is_left_as_it_was(batch: Batch) -> None:
    before = batch.input_ids.copy()
    masked(batch, MaskingSettings(max_predictions=20))
    assert (batch.input_ids == before).all()
