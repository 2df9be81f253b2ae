"""Chooses which tokens a masked language model must predict, and hides them.

Devlin et al. 2018, section 3.1 and appendix A.1: 15 % of the wordpieces are predicted; of these
80 % become [MASK], 10 % a random piece and 10 % stay as they are. What is chosen together is a
unit: a piece; a whole word, as the 2018 authors did later; a span of words (Joshi et al. 2019).

The same lines mask NumPy arrays when records are built and JAX arrays within a training step: the
random bits come from outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bertjax.errors import UserError

# NumPy or JAX arrays.
Array = Any
# Bits of a key that hold a token's place in its row; the others are random.
_PLACE_BITS = 12
MAX_LENGTH = 1 << _PLACE_BITS
# Span lengths are geometric, cut off (SpanBERT, section 3.1), and count words: a span reaches d
# words behind its first one if its uint32 number is at least the d-th of these.
_SPAN_STOP, _SPAN_LIMIT = 0.2, 10
_REACHES = [
    np.uint32((1 << 32) * (1 - (1 - _SPAN_STOP) ** d) / (1 - (1 - _SPAN_STOP) ** _SPAN_LIMIT))
    for d in range(_SPAN_LIMIT)
]


@dataclasses.dataclass(frozen=True)
class MaskingSettings:
    """What is masked.

    Attributes:
      max_predictions: P, the most that is predicted in a row.
      masked_lm_prob: share of the tokens that is predicted.
      unit: one of UNITS.
      mask_share, random_share: how many of these become [MASK], or another piece; the rest stays.
    """

    max_predictions: int = 20
    masked_lm_prob: float = 0.15
    unit: str = "token"
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UserError(f"unit of masking {self.unit!r}: known are {', '.join(UNITS)}")
        if self.max_predictions < 1:
            raise UserError(f"max_predictions_per_seq {self.max_predictions} must be at least 1")
        if not 0 < self.masked_lm_prob < 1:
            raise UserError(f"masked_lm_prob {self.masked_lm_prob} must lie between 0 and 1")
        shares = (self.mask_share, self.random_share, 1 - self.mask_share - self.random_share)
        if min(shares) < -1e-9:
            raise UserError(
                f"mask_share {self.mask_share} and random_share {self.random_share} must not be "
                "negative, nor more than 1 together"
            )


class Pieces(NamedTuple):
    """What masking knows of the vocabulary.

    Attributes:
      mask_id: id of [MASK].
      special: [V] bool, never chosen and never a replacement: [CLS], [PAD], unused ones.
      starts_word: [V] bool, a piece that begins a word.
      replacements: ids that a random piece is drawn from.
    """

    mask_id: int
    special: Array
    starts_word: Array
    replacements: Array


def pieces(vocab_size: int, mask_id: int, never_random: Array, starts_word: Array) -> Pieces:
    """From what a tokenizer tells about itself."""
    special = np.zeros(vocab_size, bool)
    special[never_random] = True
    return Pieces(mask_id, special, np.asarray(starts_word, bool), np.flatnonzero(~special))


class Draws(NamedTuple):
    """Independent uniform uint32 numbers: order and span [N, T], action and piece [N, P]."""

    order: Array
    span: Array
    action: Array
    piece: Array


def shapes(rows: int, length: int, settings: MaskingSettings) -> Draws:
    """The shapes of the numbers that `mask` takes; what a unit does not ask for is empty."""
    spans = length if settings.unit == "span" else 0
    few = (rows, settings.max_predictions)
    return Draws((rows, length), (rows, spans), few, few)


def num_to_predict(lengths: Array, settings: MaskingSettings) -> Array:
    """[N] tokens with specials -> [N] predictions; at least one, as the 2018 code."""
    # Looked up, because float32 would round some of them to the other side.
    wanted = np.rint(np.arange(MAX_LENGTH + 1) * settings.masked_lm_prob).astype(np.int32)
    table = np.clip(wanted, 1, settings.max_predictions)
    return _namespace(lengths).asarray(table)[lengths]


def mask(
    input_ids: Array, lengths: Array, settings: MaskingSettings, pieces: Pieces, draws: Draws
) -> dict[str, Array]:
    """Masks rows.

    Args:
      input_ids: [N, T] int32, T at most MAX_LENGTH; padding is special.
      lengths: [N] tokens in the row, specials included.

    Returns:
      input_ids [N, T] with some hidden; masked_lm_positions, ascending, masked_lm_ids and
      masked_lm_weights [N, P], 0 behind the chosen ones.
    """
    xp = _namespace(input_ids)
    length = input_ids.shape[1]
    maskable = ~pieces.special[input_ids]
    counts = xp.minimum(num_to_predict(lengths, settings), maskable.sum(axis=1))
    keys = _keys(input_ids, maskable, settings, pieces, draws)
    chosen, weights = _choose(keys, counts, settings)
    # Behind the chosen ones the place is 0.
    places = xp.where(weights, chosen & (MAX_LENGTH - 1), length).astype(xp.int32)
    order = xp.argsort(places, axis=1)
    places, chosen = (xp.take_along_axis(x, order, axis=1) for x in (places, chosen))
    weights = places < length
    places = xp.where(weights, places, 0)
    originals = xp.take_along_axis(input_ids, places, axis=1)
    action = _mix(chosen >> _PLACE_BITS) if settings.unit == "span" else draws.action
    hidden = hide(originals, _uniform(action), draws.piece, settings, pieces)
    return {
        "input_ids": _put(input_ids, places, weights, hidden),
        "masked_lm_positions": places,
        "masked_lm_ids": xp.where(weights, originals, 0),
        "masked_lm_weights": weights.astype(xp.float32),
    }


def hide(
    originals: Array, action: Array, piece: Array, settings: MaskingSettings, pieces: Pieces
) -> Array:
    """The 80/10/10 rule: what stands in the input where `originals` must be predicted.

    Args:
      originals: ids of any shape.
      action: numbers in [0, 1) of that shape; piece: uniform uint32 numbers of that shape.
    """
    xp = _namespace(originals)
    drawn = (_uniform(piece) * len(pieces.replacements)).astype(xp.int32)
    random_ids = pieces.replacements[drawn].astype(originals.dtype)
    other = xp.where(action < settings.mask_share + settings.random_share, random_ids, originals)
    return xp.where(action < settings.mask_share, xp.asarray(pieces.mask_id, other.dtype), other)


# --- Which tokens ---------------------------------------------------------------------------


def _keys(
    ids: Array, maskable: Array, settings: MaskingSettings, pieces: Pieces, draws: Draws
) -> Array:
    """[N, T] uint32: tokens are taken in the order of these; those of a unit are neighbours.

    The upper bits belong to the unit, the lower ones are the token's place. No special token comes
    before a maskable one.
    """
    xp = _namespace(ids)
    place = xp.arange(ids.shape[1], dtype=xp.uint32)
    random = UNITS[settings.unit](ids, maskable, pieces, draws) >> _PLACE_BITS
    highest = (1 << (32 - _PLACE_BITS)) - 1
    random = xp.where(maskable, xp.minimum(random, highest - 1), highest).astype(xp.uint32)
    return (random << _PLACE_BITS) | place


def _tokens(ids: Array, maskable: Array, pieces: Pieces, draws: Draws) -> Array:
    return draws.order


def _word_starts(ids: Array, maskable: Array, pieces: Pieces) -> Array:
    """[N, T] the place where the word of each token starts; a special token is one of its own."""
    xp = _namespace(ids)
    place = xp.arange(ids.shape[1])
    # What follows a special token starts a word, whatever it is.
    behind = xp.concatenate([xp.ones_like(maskable[:, :1]), ~maskable[:, :-1]], axis=1)
    starts = pieces.starts_word[ids] | ~maskable | behind
    return xp.maximum.accumulate(xp.where(starts, place, 0), axis=1)


def _whole_words(ids: Array, maskable: Array, pieces: Pieces, draws: Draws) -> Array:
    xp = _namespace(ids)
    return xp.take_along_axis(draws.order, _word_starts(ids, maskable, pieces), axis=1)


def _spans(ids: Array, maskable: Array, pieces: Pieces, draws: Draws) -> Array:
    """A span may start at every word; a token belongs to the first in order that reaches it."""
    xp = _namespace(ids)
    starts = _word_starts(ids, maskable, pieces)
    first, found = starts, xp.take_along_axis(draws.order, starts, axis=1)
    reachable = maskable
    for reach in _REACHES[1:]:
        # One word further back; a special token is in no span.
        reachable = reachable & (first > 0)
        first = xp.take_along_axis(starts, xp.maximum(first - 1, 0), axis=1)
        reachable = reachable & xp.take_along_axis(maskable, first, axis=1)
        reaches = reachable & (xp.take_along_axis(draws.span, first, axis=1) >= reach)
        other = xp.take_along_axis(draws.order, first, axis=1)
        found = xp.where(reaches, xp.minimum(found, other), found)
    return found


UNITS: dict[str, Callable[[Array, Array, Pieces, Draws], Array]] = {
    "token": _tokens,
    "whole_word": _whole_words,
    "span": _spans,
}


def _choose(keys: Array, counts: Array, settings: MaskingSettings) -> tuple[Array, Array]:
    """The keys [N, P] of chosen tokens, and which of them [N, P] are meant.

    A word that would go beyond the count is left out, unless it is the only one; a span is cut.
    """
    xp = _namespace(keys)
    number = min(settings.max_predictions + 1, keys.shape[1])
    if xp is np and number < keys.shape[1]:
        keys = np.partition(keys, number, axis=1)[:, :number]
    keys = xp.sort(keys, axis=1)[:, :number]
    padding = ((0, 0), (0, settings.max_predictions + 1 - number))
    keys = xp.pad(keys, padding, constant_values=np.uint32(0xFFFFFFFF))
    chosen = keys[:, :-1]
    weights = xp.arange(chosen.shape[1]) < counts[:, None]
    if settings.unit == "whole_word":
        unit = keys >> _PLACE_BITS
        following = xp.take_along_axis(unit, counts[:, None].astype(xp.int32), axis=1)
        whole = (unit[:, :-1] != following) | (unit[:, :1] == following)
        weights = weights & whole
    return chosen, weights


# --- Numbers --------------------------------------------------------------------------------


def _uniform(bits: Array) -> Array:
    """uint32 -> float32 in [0, 1)."""
    xp = _namespace(bits)
    return (bits >> 8).astype(xp.float32) * xp.float32(2**-24)


def _mix(numbers: Array) -> Array:
    """uint32 numbers that hang on each other -> some that do not (Knuth's multiplicative hash)."""
    xp = _namespace(numbers)
    numbers = numbers * xp.uint32(2654435761)
    return (numbers ^ (numbers >> 15)) * xp.uint32(2246822519)


def _put(ids: Array, places: Array, weights: Array, values: Array) -> Array:
    """ids with values[n, p] at places[n, p] where weights[n, p]."""
    if isinstance(ids, np.ndarray):
        out = ids.copy()
        rows, columns = np.nonzero(weights)
        out[rows, places[rows, columns]] = values[rows, columns]
        return out
    outside = _namespace(ids).where(weights, places, ids.shape[1])
    rows = _namespace(ids).arange(ids.shape[0])[:, None]
    return ids.at[rows, outside].set(values, mode="drop")


def _namespace(array: Array) -> Any:
    """numpy or jax.numpy."""
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    import jax.numpy

    return jax.numpy
