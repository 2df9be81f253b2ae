"""Ways to compute attention, in one table; they agree, and fit different chips."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bertjax import partition
from bertjax.errors import UserError
from bertjax.models import flash
from bertjax.models.dropout import drop
from bertjax.models.spans import How, attention_bias
from bertjax.settings import choose


def einsum(
    query: Array, key: Array, value: Array, sequences: Array, rng: Array | None, how: How
) -> Array:
    """Scores and weights as arrays; the softmax is float32."""
    # [B, T, H, K] x [B, S, H, K] -> [B, H, T, S]
    scores = jnp.einsum("bthk,bshk->bhts", query, key).astype(jnp.float32)
    bias = attention_bias(sequences, how.packed, how.span)
    weights = jax.nn.softmax(scores + bias, axis=-1).astype(query.dtype)
    # [B, H, T, S] x [B, S, H, K] -> [B, T, H, K]
    return jnp.einsum("bhts,bshk->bthk", drop(weights, how.rate, rng), value)


def dot_product(
    query: Array, key: Array, value: Array, sequences: Array, rng: Array | None, how: How
) -> Array:
    """jax.nn's, which is cuDNN's kernel on GPUs in bfloat16; einsum where weights are dropped."""
    if how.rate:
        return einsum(query, key, value, sequences, rng, how)
    fused = partition.traced_platform() == "gpu" and query.dtype == jnp.bfloat16
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=attention_bias(sequences, how.packed, how.span) == 0.0,
        scale=1.0,
        implementation="cudnn" if fused else "xla",
    )


class Implementation(NamedTuple):
    """A way to compute attention.

    Attributes:
      attend: queries that are already divided by the root of the heads' width, keys and values
        [B, T, H, K]; numbers [B, T] of tokens' sequences, 0 for padding; the random key of dropout
        or None; How -> [B, T, H, K].
      platform: where "auto" takes it; "": where it takes no other.
      fits: (T, H, K) -> whether it is made for such shapes.
    """

    attend: Callable[[Array, Array, Array, Array, Array | None, How], Array]
    platform: str = ""
    fits: Callable[[int, int, int], bool] = lambda length, heads, width: True


ATTENTIONS = {
    "einsum": Implementation(einsum),
    "dot_product": Implementation(dot_product, "gpu"),
    "flash": Implementation(flash.attend, "tpu", flash.fits),
}
AUTO = "auto"


def attend(
    name: str, query: Array, key: Array, value: Array, sequences: Array, rng: Array | None, how: How
) -> Array:
    """Attention as the entry of that name computes it; "auto" is what suits platform and shapes.

    Raises:
      UserError: the entry is not made for such shapes.
    """
    shape = query.shape[1:]
    if name == AUTO:
        here = partition.traced_platform()
        suited = (
            found.attend
            for found in ATTENTIONS.values()
            if found.platform == here and found.fits(*shape)
        )
        return next(suited, ATTENTIONS["einsum"].attend)(query, key, value, sequences, rng, how)
    chosen = choose(ATTENTIONS, name, "model.attention_kernel")
    if not chosen.fits(*shape):
        length, heads, width = shape
        raise UserError(
            f"model.attention_kernel={name} is not made for rows of {length} tokens and {heads} "
            f"heads of width {width}; set model.attention_kernel={AUTO}"
        )
    return chosen.attend(query, key, value, sequences, rng, how)
