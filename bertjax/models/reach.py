"""Who attends to whom: the sequences of a row, and how far a token reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bertjax.models.config import BertConfig


class Reach(NamedTuple):
    """What a token may attend to.

    Attributes:
      causal: itself and what is before it.
      window: tokens that are at most half as many places away; 0: any.
    """

    causal: bool = False
    window: int = 0


def _local_global(config: BertConfig, layer: int) -> Reach:
    """Every third layer reaches everywhere (ModernBERT, Warner et al. 2024)."""
    return Reach(window=config.attention_window if layer % 3 else 0)


# (config, number of the layer) -> its reach.
REACHES: dict[str, Callable[[BertConfig, int], Reach]] = {
    "full": lambda config, layer: Reach(),
    "causal": lambda config, layer: Reach(causal=True),
    "local_global": _local_global,
}


def attention_bias(
    input_mask: Array,
    packed: bool = False,
    reach: Reach | None = None,
    places: Array | None = None,
) -> Array:
    """0 where a key may be attended to and a large negative number where it may not.

    Args:
      input_mask: [B, T], 0 for padding; else 1 or, in packed rows, the number of the sequence,
        counted from 1.
      packed: a token attends to its own sequence only.
      reach: and only so far.
      places: [B, P], where the queries are; None: everywhere, P = T.

    Returns:
      [B, 1, 1, T], or [B or 1, 1, P, T] if packed or within a reach, float32, to be added to scores
      [B, H, P, T].
    """
    place = jnp.arange(input_mask.shape[1])
    queries = place[None] if places is None else places
    allowed = input_mask[:, None, None, :] > 0
    if packed:
        own = input_mask if places is None else jnp.take_along_axis(input_mask, places, axis=1)
        # [B, 1, P, 1] = [B, 1, 1, T] -> [B, 1, P, T]
        allowed = allowed & (own[:, None, :, None] == input_mask[:, None, None, :])
    # [B or 1, 1, P, T], from the query to the key
    steps = place - queries[:, None, :, None]
    if reach is not None and reach.causal:
        allowed = allowed & (steps <= 0)
    if reach is not None and reach.window:
        allowed = allowed & (jnp.abs(steps) <= reach.window // 2)
    return jnp.where(allowed, 0.0, -1e9).astype(jnp.float32)


class How(NamedTuple):
    """What is known of attention when it is compiled.

    Attributes:
      heads: H, of width D / H.
      packed: rows hold several sequences, each of which attends to itself alone.
      reach: how far.
      rate: probability of dropping a weight.
    """

    heads: int
    packed: bool = False
    reach: Reach = Reach()
    rate: float = 0.0
