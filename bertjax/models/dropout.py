"""Dropout (Srivastava et al. 2014): values are dropped by random bits, few of them for each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from bertjax import partition, programs


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
        return _own_halves(rng, shape)
    # Threefry makes words of 32 bits; as JAX narrows them, half of each would be lost.
    # [..., (n + 1) / 2] words -> [..., (n + 1) / 2, 2] halves -> [..., n]
    words = jax.random.bits(rng, (*shape[:-1], (shape[-1] + 1) // 2), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
    return halves.reshape(*shape[:-1], -1)[..., : shape[-1]]


def _own_halves(rng: Array, shape: tuple[int, ...]) -> Array:
    """Every device draws those of its own rows: a generator in hardware would draw all on each."""
    kind = jax.random.key_impl(rng)

    def part(data: Array, rows: Array) -> tuple[Array]:
        key = jax.random.fold_in(jax.random.wrap_key_data(data, impl=kind), rows[0])
        return (jax.random.bits(key, (len(rows), *shape[1:]), jnp.uint16),)

    kinds = [partition.WHOLE, partition.ROWS_OF_BATCH]
    run = programs.in_parts(part, kinds, [partition.ROWS_OF_BATCH], shape[0], 1)
    return run(jax.random.key_data(rng), jnp.arange(shape[0], dtype=jnp.int32))[0]
