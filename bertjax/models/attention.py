"""Ways to compute attention, in one table; they agree, and fit different chips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bertjax import programs
from bertjax.errors import UserError
from bertjax.models import flash, products
from bertjax.models.dropout import drop
from bertjax.models.reach import How, attention_bias
from bertjax.settings import choose

QKV = Sequence[Array]


def heads(qkv: QKV, how: How) -> list[Array]:
    """[B, T, H, K] of queries, keys and values, of [B, T, D] of each or [B, T, 3 D] of all."""
    each = qkv if len(qkv) > 1 else jnp.split(qkv[0], 3, axis=-1)
    return [x.reshape(*x.shape[:2], how.heads, -1) for x in each]


def einsum(
    qkv: QKV, sequences: Array, rng: Array | None, how: How, places: Array | None = None
) -> Array:
    """Scores and weights as arrays; the softmax is float32."""
    query, key, value = heads(qkv, how)
    if places is not None:
        # [B, T, H, K] -> [B, P, H, K]
        query = jnp.take_along_axis(query, places[..., None, None], axis=1)
    # [B, P, H, K] -> [B, H, P, K], keys and values [B, H, T, K]
    query, key, value = (products.laid_out(x.swapaxes(1, 2)) for x in (query, key, value))
    # [B, H, P, T]
    scores = products.times_turned(query, key)
    bias = attention_bias(sequences, how.packed, how.reach, places)
    weights = jax.nn.softmax(scores + bias, axis=-1).astype(query.dtype)
    # [B, H, P, T] x [B, H, T, K] -> [B, P, H, K] -> [B, P, D]
    mixed = products.times(drop(weights, how.rate, rng), value).astype(query.dtype).swapaxes(1, 2)
    return mixed.reshape(*mixed.shape[:2], -1)


def dot_product(qkv: QKV, sequences: Array, rng: Array | None, how: How) -> Array:
    """jax.nn's, which is cuDNN's kernel on GPUs in bfloat16; einsum where weights are dropped."""
    if how.rate:
        return einsum(qkv, sequences, rng, how)
    query, key, value = heads(qkv, how)
    fused = programs.platform() == "gpu" and query.dtype == jnp.bfloat16
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=attention_bias(sequences, how.packed, how.reach) == 0.0,
        scale=1.0,
        implementation="cudnn" if fused else "xla",
    )
    return mixed.reshape(*sequences.shape, -1)


class Implementation(NamedTuple):
    """A way to compute attention.

    Attributes:
      attend: queries that are already divided by the root of the heads' width, keys and values,
        see heads; numbers [B, T] of tokens' sequences, 0 for padding; the random key of dropout or
        None; How -> [B, T, D].
      platform: where "auto" takes it; "": where it takes no other.
      fits: (T, H, K) -> whether it is made for such shapes.
    """

    attend: Callable[[QKV, Array, Array | None, How], Array]
    platform: str = ""
    fits: Callable[[int, int, int], bool] = lambda length, heads, width: True


ATTENTIONS = {
    "einsum": Implementation(einsum),
    "dot_product": Implementation(dot_product, "gpu"),
    "flash": Implementation(flash.attend, "tpu", flash.fits),
}
AUTO = "auto"


def attend(
    name: str,
    qkv: QKV,
    sequences: Array,
    rng: Array | None,
    how: How,
    places: Array | None = None,
) -> Array:
    """Attention as the entry of that name computes it; "auto" is what suits platform and shapes.

    Args:
      places: [B, P], the only ones whose vectors are wanted; the result is [B, P, D]. The kernels
        are made for all of them; of a few, scores and weights are small arrays anywhere.

    Raises:
      UserError: the entry is not made for such shapes.
    """
    if places is not None:
        return einsum(qkv, sequences, rng, how, places)
    width = sum(x.shape[2] for x in qkv) // 3
    shape = qkv[0].shape[1], how.heads, width // how.heads
    if name == AUTO:
        here = programs.platform()
        suited = (
            found.attend
            for found in ATTENTIONS.values()
            if found.platform == here and found.fits(*shape)
        )
        return next(suited, ATTENTIONS["einsum"].attend)(qkv, sequences, rng, how)
    chosen = choose(ATTENTIONS, name, "model.attention_kernel")
    if not chosen.fits(*shape):
        length, _, width = shape
        raise UserError(
            f"model.attention_kernel={name} is not made for rows of {length} tokens and "
            f"{how.heads} heads of width {width}; set model.attention_kernel={AUTO}"
        )
    return chosen.attend(qkv, sequences, rng, how)
