"""Adam's direction, with or without bias correction, its moments in float32 or bfloat16."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# As in 2018.
_B1, _B2, _EPSILON = 0.9, 0.999, 1e-6


class Moments(NamedTuple):
    """Adam's state: updates so far, the running means of gradients and squares."""

    updates: Array
    mean: Any
    square: Any


def scale_by_adam(*, correct: bool, dtype: Any) -> optax.GradientTransformation:
    """m / (sqrt(v) + epsilon).

    Args:
      correct: divides m and v by 1 - b ** t (Kingma and Ba 2015). The 2018 code does not, which
        makes the first steps larger.
      dtype: of DTYPES, what m and v are kept in; an update is computed in float32 before they
        are rounded. v is rounded at random: its changes by a thousandth are smaller than half of
        bfloat16's steps, and rounding to the nearest would lose all of them.
    """

    def init(params: Any) -> Moments:
        def zeros() -> Any:
            return optax.tree.zeros_like(params, dtype=dtype)

        return Moments(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(gradients: Any, state: Moments, params: Any = None) -> tuple[Any, Moments]:
        del params
        count = state.updates + 1
        mean = optax.tree.update_moment(gradients, optax.tree.cast(state.mean, jnp.float32), _B1, 1)
        square = optax.tree.update_moment(
            gradients, optax.tree.cast(state.square, jnp.float32), _B2, 2
        )
        scales = (1 - _B1**count, 1 - _B2**count) if correct else (1.0, 1.0)

        def direction(m: Array, v: Array) -> Array:
            return m / scales[0] / (jnp.sqrt(v / scales[1]) + _EPSILON)

        kept = Moments(
            count,
            optax.tree.cast(mean, dtype),
            jax.tree.map(lambda v: rounded_at_random(v, count, dtype), square),
        )
        return jax.tree.map(direction, mean, square), kept

    return optax.GradientTransformation(init, update)


def rounded_at_random(x: Array, salt: Array, dtype: Any) -> Array:
    """float32 to bfloat16, up with the probability of the part that is cut off.

    So the mean over many roundings is exact. What is drawn hangs on `salt` and an element's place
    alone, not on devices or order.
    """
    if dtype == jnp.float32:
        return x
    # Adding 16 random bits to the 16 that are cut off carries over as often as it should.
    noise = _noise(x.shape, salt) & jnp.uint32(0xFFFF)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    cut = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return cut.astype(dtype)


def _noise(shape: tuple[int, ...], salt: Array) -> Array:
    """32 bits for every element: its number and the salt, mixed (murmur3's last steps)."""
    x = salt.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        x = x + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        x = (x ^ (x >> 16)) * jnp.uint32(factor)
    return x ^ (x >> 16)
