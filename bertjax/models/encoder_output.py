"""What every encoder returns, and what it is told of packed rows."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class EncoderOutput(NamedTuple):
    """What every encoder returns and every head eats.

    Attributes:
      sequence: [B, T, D], the last layer.
      layers: [L + 1, B, T, D], the embeddings and every layer after them.
      pooled: [B, D], one vector for the whole sequence; of packed rows [B, S, D].
    """

    sequence: Array
    layers: Array
    pooled: Array


def at_places(x: Array, places: Array) -> Array:
    """[B, T, D] -> [B, P, D], at `places` [B, P]."""
    return jnp.take_along_axis(x, places[..., None], axis=1)


def of_places(output: EncoderOutput, reads: Array | None) -> EncoderOutput:
    """What is left of an output when only the places `reads` [B, P] of the last layer are read.

    sequence is [B, P, D], and layers is without the last. None: all is read.
    """
    if reads is None:
        return output
    return output._replace(sequence=at_places(output.sequence, reads), layers=output.layers[:-1])


class Packing(NamedTuple):
    """Where the sequences of packed rows lie; each is encoded as if it were alone.

    Attributes:
      position_ids: [B, T] int32, counted from 0 in every sequence.
      starts: [B, S] int32 places of their first tokens; any place where there is no sequence.
    """

    position_ids: Array
    starts: Array


def last_places(input_mask: Array, starts: Array) -> Array:
    """[B, S]: the places of the last tokens of the sequences that begin at `starts` [B, S].

    Args:
      input_mask: [B, T], 0 for padding, equal numbers for the tokens of a sequence.
    """
    numbers = jnp.take_along_axis(input_mask, starts, axis=1)
    # [B, 1, T] = [B, S, 1] -> [B, S]
    lengths = jnp.sum(input_mask[:, None, :] == numbers[..., None], axis=-1)
    return starts + jnp.maximum(lengths, 1) - 1
