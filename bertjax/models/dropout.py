"""Dropout (Srivastava et al. 2014): values are dropped by random bits, few of them for each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def drop(x: Array, rate: float, rng: Array | None) -> Array:
    """Zeroes each value with probability `rate` and scales the others by 1 / (1 - rate).

    Args:
      rng: None: x stays as it is.
    """
    if rng is None or rate == 0.0:
        return x
    keep = 1.0 - rate
    # 16 random bits a value halve the generator's work; the rate is exact to 1 / 65536.
    kept = _halves(rng, x.shape) < jnp.uint16(round(keep * 65536))
    return jnp.where(kept, x / keep, jnp.zeros_like(x))


def _halves(rng: Array, shape: tuple[int, ...]) -> Array:
    """Random uint16 of a shape."""
    if "threefry" not in str(jax.random.key_impl(rng)):
        return jax.random.bits(rng, shape, jnp.uint16)
    # Threefry makes words of 32 bits; as JAX narrows them, half of each would be lost.
    # [..., (n + 1) / 2] words -> [..., (n + 1) / 2, 2] halves -> [..., n]
    words = jax.random.bits(rng, (*shape[:-1], (shape[-1] + 1) // 2), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
    return halves.reshape(*shape[:-1], -1)[..., : shape[-1]]
