"""Who attends to whom: the sequences of a row, and how far a token reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bertjax.models.config import BertConfig


class Span(NamedTuple):
    """What a token may attend to.

    Attributes:
      causal: itself and what is before it.
      window: tokens that are at most half as many places away; 0: any.
    """

    causal: bool = False
    window: int = 0


def _local_global(config: BertConfig, layer: int) -> Span:
    """Every third layer reaches everywhere (ModernBERT, Warner et al. 2024)."""
    return Span(window=config.attention_window if layer % 3 else 0)


# (config, number of the layer) -> its span.
SPANS: dict[str, Callable[[BertConfig, int], Span]] = {
    "full": lambda config, layer: Span(),
    "causal": lambda config, layer: Span(causal=True),
    "local_global": _local_global,
}


def attention_bias(input_mask: Array, packed: bool = False, span: Span | None = None) -> Array:
    """0 where a key may be attended to and a large negative number where it may not.

    Args:
      input_mask: [B, T], 0 for padding; else 1 or, in packed rows, the number of the sequence,
        counted from 1.
      packed: a token attends to its own sequence only.
      span: and only so far.

    Returns:
      [B, 1, 1, T], or [B, 1, T, T] if packed or within a span, float32, to be added to scores
      [B, H, T, T].
    """
    allowed = input_mask[:, None, None, :] > 0
    if packed:
        # [B, 1, T, 1] = [B, 1, 1, T] -> [B, 1, T, T]
        allowed = allowed & (input_mask[:, None, :, None] == input_mask[:, None, None, :])
    place = jnp.arange(input_mask.shape[1])
    # [T, T], from the query to the key
    steps = place[None, :] - place[:, None]
    if span is not None and span.causal:
        allowed = allowed & (steps <= 0)
    if span is not None and span.window:
        allowed = allowed & (jnp.abs(steps) <= span.window // 2)
    return jnp.where(allowed, 0.0, -1e9).astype(jnp.float32)


class How(NamedTuple):
    """What is known of attention when it is compiled.

    Attributes:
      heads: H, of width D / H.
      packed: rows hold several sequences, each of which attends to itself alone.
      span: how far.
      rate: probability of dropping a weight.
    """

    heads: int
    packed: bool = False
    span: Span = Span()
    rate: float = 0.0
