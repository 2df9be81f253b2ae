"""Masking does what section 3.1 of the paper says: 15 % predicted, of these 80/10/10."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.data import masking
from bertjax.data.masking import UNITS, Draws, MaskingSettings, Pieces
from bertjax.errors import UserError

# A made-up vocabulary: 0 is [PAD], 1 to 9 are unused, 10 to 13 special, the rest are pieces, two of
# three of which begin a word.
PAD, CLS, SEP, MASK = 0, 11, 12, 13
VOCAB_SIZE = 500
PIECES = np.arange(14, VOCAB_SIZE)
STARTS_WORD = np.arange(VOCAB_SIZE) % 3 > 0
ROWS, LENGTH = 2000, 64
SPAN_SHARES = 0.8 ** np.arange(10) * 0.2 / (1 - 0.8**10)


class Batch(NamedTuple):
    input_ids: np.ndarray
    lengths: np.ndarray


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return masking.pieces(VOCAB_SIZE, MASK, np.arange(14), STARTS_WORD)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Rows "[CLS] a [SEP] b [SEP]" of 5 to 64 tokens."""
    rng = np.random.default_rng(7)
    ids = rng.choice(PIECES, (ROWS, LENGTH)).astype(np.int32)
    lengths = rng.integers(5, LENGTH + 1, ROWS)
    middle = rng.integers(2, lengths - 2)
    place = np.arange(LENGTH)
    ids[:, 0] = CLS
    ids[np.arange(ROWS), middle] = SEP
    ids[np.arange(ROWS), lengths - 1] = SEP
    ids[place >= lengths[:, None]] = PAD
    return Batch(ids, lengths)


def draw(ids: np.ndarray, settings: MaskingSettings, seed: int = 0) -> Draws:
    rng = np.random.default_rng(seed)
    shapes = masking.shapes(len(ids), ids.shape[1], settings)
    return Draws(*(rng.integers(0, 1 << 32, shape, np.uint32) for shape in shapes))


def masked(
    batch: Batch, settings: MaskingSettings, pieces: Pieces, seed: int = 0
) -> dict[str, np.ndarray]:
    draws = draw(batch.input_ids, settings, seed)
    return masking.mask(batch.input_ids, batch.lengths, settings, pieces, draws)


@pytest.fixture(scope="module", params=UNITS)
def settings(request: pytest.FixtureRequest) -> MaskingSettings:
    return MaskingSettings(max_predictions=8, unit=request.param)


@pytest.fixture(scope="module")
def found(batch: Batch, pieces: Pieces, settings: MaskingSettings) -> dict[str, np.ndarray]:
    return masked(batch, settings, pieces)


@pytest.fixture(scope="module")
def by_token(batch: Batch, pieces: Pieces) -> dict[str, np.ndarray]:
    return masked(batch, MaskingSettings(), pieces)


def chosen(found: dict[str, np.ndarray]) -> np.ndarray:
    """[N, T] bool: what must be predicted."""
    places = np.zeros(found["input_ids"].shape, bool)
    rows, columns = np.nonzero(found["masked_lm_weights"])
    places[rows, found["masked_lm_positions"][rows, columns]] = True
    return places


def is_near(share: float, wanted: float, number: int) -> bool:
    """Within three deviations of a binomial share."""
    return abs(share - wanted) < 3 * np.sqrt(wanted * (1 - wanted) / number)


# --- How many -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 20, 76, 512])
@pytest.mark.parametrize("share", [0.15, 0.4])
def test_fifteen_percent_rounded_at_least_one_at_most_the_limit(share: float, limit: int) -> None:
    # The 2018 code counts the special tokens in the length: min(P, max(1, round(n * 0.15))).
    settings = MaskingSettings(limit, share)
    lengths = np.arange(513)
    wanted = [min(limit, max(1, round(n * share))) for n in range(513)]
    assert masking.num_to_predict(lengths, settings).tolist() == wanted
    assert masking.num_to_predict(jnp.asarray(lengths), settings).tolist() == wanted


@pytest.mark.parametrize("unit", ["token", "span"])
def test_every_row_predicts_as_many_as_its_length_asks_for(
    unit: str, batch: Batch, pieces: Pieces
) -> None:
    found = masked(batch, MaskingSettings(unit=unit), pieces)
    wanted = [max(1, round(int(n) * 0.15)) for n in batch.lengths]
    assert found["masked_lm_weights"].sum(axis=1).tolist() == wanted


def test_fifteen_percent_of_all_tokens_are_predicted(
    batch: Batch, by_token: dict[str, np.ndarray]
) -> None:
    total = batch.lengths.sum()
    assert is_near(by_token["masked_lm_weights"].sum() / total, 0.15, total)


def test_a_row_with_fewer_tokens_than_predictions_masks_them_all_and_no_more(
    settings: MaskingSettings, pieces: Pieces
) -> None:
    row = Batch(np.array([[CLS, 20, SEP, 23, SEP, PAD]]), np.array([5]))
    most = MaskingSettings(8, 0.9, settings.unit)
    found = masked(row, most, pieces)
    assert found["masked_lm_positions"].tolist() == [[1, 3, 0, 0, 0, 0, 0, 0]]
    assert found["masked_lm_weights"].tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]]
    assert found["masked_lm_ids"].tolist() == [[20, 23, 0, 0, 0, 0, 0, 0]]


def test_a_row_of_special_tokens_alone_predicts_nothing(
    settings: MaskingSettings, pieces: Pieces
) -> None:
    row = Batch(np.array([[CLS, SEP, 5, SEP, PAD, PAD]]), np.array([4]))
    found = masked(row, settings, pieces)
    assert found["input_ids"].tolist() == row.input_ids.tolist()
    assert not found["masked_lm_weights"].any()


# --- Of every unit --------------------------------------------------------------------------


def test_positions_are_ascending_distinct_and_never_of_a_special_or_unused_token(
    batch: Batch, found: dict[str, np.ndarray]
) -> None:
    assert found["masked_lm_positions"].shape == (ROWS, 8)
    for row, (positions, weights) in enumerate(
        zip(found["masked_lm_positions"], found["masked_lm_weights"], strict=True)
    ):
        count = int(weights.sum())
        assert count > 0
        assert weights.tolist() == [1.0] * count + [0.0] * (8 - count)
        drawn = positions[:count]
        assert (np.diff(drawn) > 0).all()
        assert np.isin(batch.input_ids[row, drawn], PIECES).all()
        assert not positions[count:].any()


def test_masked_lm_ids_are_the_originals_and_only_masked_places_change(
    batch: Batch, found: dict[str, np.ndarray]
) -> None:
    weights = found["masked_lm_weights"] > 0
    originals = np.take_along_axis(batch.input_ids, found["masked_lm_positions"], axis=1)
    assert (found["masked_lm_ids"] == np.where(weights, originals, 0)).all()
    assert (np.where(chosen(found), batch.input_ids, found["input_ids"]) == batch.input_ids).all()


@pytest.mark.parametrize("unit", ["token", "whole_word"])
def test_eighty_percent_mask_ten_percent_random_ten_percent_kept(
    unit: str, batch: Batch, pieces: Pieces
) -> None:
    found = masked(batch, MaskingSettings(unit=unit), pieces)
    hidden, originals = (ids[chosen(found)] for ids in (found["input_ids"], batch.input_ids))
    n = len(originals)
    assert n > 7000
    kept = hidden == originals
    assert is_near((hidden == MASK).mean(), 0.8, n)
    # One random piece in len(PIECES) is the original by chance.
    assert is_near(kept.mean(), 0.1 + 0.1 / len(PIECES), n)
    assert is_near((~kept & (hidden != MASK)).mean(), 0.1 - 0.1 / len(PIECES), n)


def test_numpy_and_jax_mask_alike_bit_for_bit(
    batch: Batch, pieces: Pieces, settings: MaskingSettings, found: dict[str, np.ndarray]
) -> None:
    tables = Pieces(MASK, *map(jnp.asarray, pieces[1:]))
    draws = draw(batch.input_ids, settings)
    jitted = jax.jit(
        lambda ids, lengths, draws: masking.mask(ids, lengths, settings, tables, draws)
    )
    for name, value in jitted(*batch, draws).items():
        assert value.dtype == found[name].dtype, name
        np.testing.assert_array_equal(value, found[name], err_msg=name)


def test_the_same_numbers_give_the_same_masks_and_others_give_others(
    batch: Batch, pieces: Pieces, settings: MaskingSettings, found: dict[str, np.ndarray]
) -> None:
    again, other = masked(batch, settings, pieces), masked(batch, settings, pieces, seed=1)
    assert all((again[name] == found[name]).all() for name in found)
    assert (other["masked_lm_positions"] != found["masked_lm_positions"]).any()


def test_the_input_is_left_as_it_was(
    batch: Batch, pieces: Pieces, settings: MaskingSettings
) -> None:
    before = batch.input_ids.copy()
    masked(batch, settings, pieces)
    assert (batch.input_ids == before).all()


# --- Replacements ---------------------------------------------------------------------------


def test_a_random_replacement_is_any_piece_but_never_special_or_unused(pieces: Pieces) -> None:
    number = 60_000
    bits = np.random.default_rng(0).integers(0, 1 << 32, (2, number), np.uint32)
    bits[1, :2] = 0, (1 << 32) - 1
    settings = MaskingSettings(mask_share=0.0, random_share=1.0)
    action = bits[0] / (1 << 32)
    hidden = masking.hide(np.full(number, 20), action, bits[1], settings, pieces)
    assert hidden[:2].tolist() == [14, VOCAB_SIZE - 1]
    counts = np.bincount(hidden, minlength=VOCAB_SIZE)
    assert not counts[:14].any()
    # Chi-square with 485 degrees of freedom: mean 485, deviation 31.
    wanted = number / len(PIECES)
    assert abs(((counts[14:] - wanted) ** 2 / wanted).sum() - 485) < 3 * 31


@pytest.mark.parametrize("share", ["mask_share", "random_share", "neither"])
def test_the_shares_are_settings(share: str, batch: Batch, pieces: Pieces) -> None:
    settings = MaskingSettings(
        mask_share=float(share == "mask_share"), random_share=float(share == "random_share")
    )
    found = masked(batch, settings, pieces)
    hidden, originals = (ids[chosen(found)] for ids in (found["input_ids"], batch.input_ids))
    assert (hidden == MASK).all() == (share == "mask_share")
    assert (hidden == originals).all() == (share == "neither")


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit": "sentence"},
        {"max_predictions": 0},
        {"masked_lm_prob": 0.0},
        {"masked_lm_prob": 1.0},
        {"mask_share": 0.95},
        {"random_share": -0.1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        MaskingSettings(**wrong)


# --- Tokens ---------------------------------------------------------------------------------


def test_every_position_is_as_likely_as_any_other(pieces: Pieces) -> None:
    rows = 20_000
    ids = np.full((rows, 12), 20, np.int32)
    ids[:, [0, 11]] = CLS, SEP
    settings = MaskingSettings(4, 0.25)
    found = masked(Batch(ids, np.full(rows, 12)), settings, pieces)
    counts = chosen(found).sum(axis=0)
    assert counts[[0, 11]].tolist() == [0, 0]
    assert counts.sum() == 3 * rows
    assert all(is_near(count / rows, 0.3, rows) for count in counts[1:11])
    # So are pairs of positions: neighbours are drawn together as often as any two.
    both = chosen(found)[:, 1:10] & chosen(found)[:, 2:11]
    assert is_near(both.mean(), 3 * 2 / (10 * 9), both.size)


# --- Words ----------------------------------------------------------------------------------


def words(ids: np.ndarray) -> Iterator[list[int]]:
    """The places of the words of a row, in this test's own words."""
    word: list[int] = []
    for place, piece in enumerate(ids.tolist()):
        if piece < 14 or STARTS_WORD[piece]:
            if word:
                yield word
            word = []
        if piece >= 14:
            word.append(place)
    if word:
        yield word


def test_words_are_masked_whole_or_not_at_all(batch: Batch, pieces: Pieces) -> None:
    found = masked(batch, MaskingSettings(unit="whole_word"), pieces)
    longest = 0
    for ids, picked in zip(batch.input_ids, chosen(found), strict=True):
        touched = [word for word in words(ids) if picked[word].any()]
        cut = [word for word in touched if not picked[word].all()]
        # Only one that is longer than what may be predicted, and then nothing else is.
        if cut:
            assert len(touched) == 1
            wanted = max(1, round(int((ids != PAD).sum()) * 0.15))
            assert picked.sum() == wanted < len(cut[0])
        longest = max(longest, *(len(word) for word in touched))
    assert longest >= 4


def test_whole_words_predict_almost_as_many_tokens(batch: Batch, pieces: Pieces) -> None:
    found = masked(batch, MaskingSettings(unit="whole_word"), pieces)
    counts = found["masked_lm_weights"].sum(axis=1)
    wanted = np.maximum(1, np.rint(batch.lengths * 0.15))
    assert (counts <= wanted).all()
    assert counts.sum() > 0.9 * wanted.sum()


def test_every_word_is_as_likely_as_any_other(pieces: Pieces) -> None:
    # One word is chosen; words have one to three pieces (15 does not begin one).
    row = [CLS, 20, 20, 15, 20, 15, 15, 20, SEP]
    rows = 20_000
    batch = Batch(np.tile(np.array(row, np.int32), (rows, 1)), np.full(rows, 9))
    settings = MaskingSettings(3, 0.34, "whole_word", 1.0, 0.0)
    first = UNITS["whole_word"](
        batch.input_ids,
        ~pieces.special[batch.input_ids],
        pieces,
        draw(batch.input_ids, settings),
    )[:, [1, 2, 4, 7]].argmin(axis=1)
    assert all(is_near(share, 0.25, rows) for share in np.bincount(first) / rows)


def test_a_word_that_a_segment_cuts_begins_with_it(pieces: Pieces) -> None:
    # 15 goes on with a word that is not there; [SEP] ends another.
    row = np.array([[CLS, 15, 15, SEP, 15, 20, SEP]], np.int32)
    draws = Draws(*(np.arange(n, dtype=np.uint32)[None] << 20 for n in (7, 0, 7, 7)))
    found = UNITS["whole_word"](row, ~pieces.special[row], pieces, draws) >> 20
    assert found.tolist() == [[0, 1, 1, 3, 4, 5, 6]]


# --- Spans ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_spans(pieces: Pieces) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, places) of the span that comes first in rows of 120 tokens, if not near their end."""
    rng = np.random.default_rng(1)
    ids = rng.choice(PIECES, (8000, 120))
    ids[:, 0] = CLS
    order = UNITS["span"](ids, ids >= 14, pieces, draw(ids, MaskingSettings(unit="span"), seed=2))
    spans = [np.flatnonzero(row == row[1:].min()) for row in order]
    return [(row, span) for row, span in zip(ids, spans, strict=True) if span[0] < 70]


def test_a_span_is_up_to_ten_whole_words_in_a_row(
    first_spans: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    longest = 0
    for ids, span in first_spans:
        assert span.tolist() == list(range(span[0], span[-1] + 1))
        inside = [word for word in words(ids) if set(word) & set(span.tolist())]
        assert [place for word in inside for place in word] == span.tolist()
        longest = max(longest, len(inside))
    assert longest == 10


def test_span_lengths_are_geometric_cut_at_ten(
    first_spans: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    lengths = [max(1, STARTS_WORD[ids[span[1:]]].sum() + 1) for ids, span in first_spans]
    number = len(lengths)
    assert number > 4000
    mean = (SPAN_SHARES * np.arange(1, 11)).sum()
    assert mean == pytest.approx(3.8, abs=0.01)  # as SpanBERT says, section 3.1
    deviation = np.sqrt((SPAN_SHARES * np.arange(1, 11) ** 2).sum() - mean**2)
    assert abs(np.mean(lengths) - mean) < 3 * deviation / np.sqrt(number)
    shares = np.bincount(lengths, minlength=11)[1:] / number
    assert all(is_near(*pair, number) for pair in zip(shares, SPAN_SHARES, strict=True))


def test_masked_runs_are_about_as_long_as_spans_where_these_are_sparse(pieces: Pieces) -> None:
    # Words of one piece; two of a hundred tokens are masked, so that spans seldom meet.
    ids = np.full((50, 4000), 20, np.int32)
    ids[:, 0] = CLS
    settings = MaskingSettings(80, 0.02, "span")
    picked = chosen(masked(Batch(ids, np.full(50, 4000)), settings, pieces))
    begins = picked[:, 1:] & ~picked[:, :-1]
    # Spans that meet make the runs longer, the one that is cut at the count makes them shorter.
    assert picked.sum() / begins.sum() == pytest.approx(3.8, rel=0.06)


def test_a_span_ends_before_a_special_token(batch: Batch, pieces: Pieces) -> None:
    settings = MaskingSettings(unit="span")
    draws = draw(batch.input_ids, settings)
    maskable = batch.input_ids >= 14
    order = UNITS["span"](batch.input_ids, maskable, pieces, draws)
    for ids, row in zip(batch.input_ids[:200], order[:200], strict=True):
        parts = np.cumsum(ids < 14)
        for value in np.unique(row[ids >= 14]):
            assert len(set(parts[(row == value) & (ids >= 14)].tolist())) == 1


@pytest.fixture(scope="module")
def actions(batch: Batch, pieces: Pieces) -> list[list[set[str]]]:
    """What became of the tokens of each span, span by span in their order, row by row."""
    settings = MaskingSettings(unit="span")
    draws = draw(batch.input_ids, settings)
    order = UNITS["span"](batch.input_ids, batch.input_ids >= 14, pieces, draws)
    found = masked(batch, settings, pieces)
    picked = chosen(found)
    rows = []
    for before, after, units, some in zip(
        batch.input_ids, found["input_ids"], order, picked, strict=True
    ):
        kinds = np.where(after == MASK, "mask", np.where(after == before, "keep", "random"))
        rows.append(
            [set(kinds[some & (units == unit)].tolist()) for unit in np.unique(units[some])]
        )
    return rows


def test_all_of_a_span_is_hidden_alike(actions: list[list[set[str]]]) -> None:
    mixed = [kinds for row in actions for kinds in row if len(kinds) > 1]
    # A random piece may be the original by chance.
    assert all(kinds == {"random", "keep"} for kinds in mixed)
    assert len(mixed) < 10


def test_eighty_ten_ten_holds_for_spans_and_one_span_tells_nothing_of_the_next(
    actions: list[list[set[str]]],
) -> None:
    flat = ["random" if "random" in kinds else kinds for row in actions for kinds in row]
    number = len(flat)
    assert number > 3000
    assert is_near(flat.count({"mask"}) / number, 0.8, number)
    assert is_near(flat.count({"keep"}) / number, 0.1, number)
    assert is_near(flat.count("random") / number, 0.1, number)
    following = [
        two for row in actions for one, two in zip(row, row[1:], strict=False) if one != {"mask"}
    ]
    assert is_near(following.count({"mask"}) / len(following), 0.8, len(following))
