"""Products of stacks of matrices, summed up in float32, whose gradients CPUs take as fast.

A gradient is a product with one matrix turned. XLA's CPU compiler reads it across where it lies,
which for bfloat16 takes 2.5 times as long as turning it first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint

from bertjax import programs


def laid_out(x: Array) -> Array:
    """The same; on CPUs it lies in memory in the order of its axes."""
    if programs.platform() != "cpu":
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def turned(x: Array) -> Array:
    """[..., P, Q] -> [..., Q, P]"""
    return laid_out(x.swapaxes(-1, -2))


@jax.custom_vjp
def times(a: Array, b: Array) -> Array:
    """[..., P, Q] x [..., Q, R] -> [..., P, R] float32; a and b are of one type."""
    return jnp.einsum("...pq,...qr->...pr", a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def times_turned(a: Array, b: Array) -> Array:
    """[..., P, Q] x [..., R, Q] -> [..., P, R] float32; a and b are of one type."""
    return jnp.einsum("...pq,...rq->...pr", a, b, preferred_element_type=jnp.float32)


def _times(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return times(a, b), (a, b)


def _times_slopes(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    a, b = saved
    slope = slope.astype(a.dtype)
    return times_turned(slope, b).astype(a.dtype), times(turned(a), slope).astype(b.dtype)


def _turned(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return times_turned(a, b), (a, b)


def _turned_slopes(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    a, b = saved
    slope = slope.astype(a.dtype)
    return times(slope, b).astype(a.dtype), times(turned(slope), a).astype(b.dtype)


times.defvjp(_times, _times_slopes)
times_turned.defvjp(_turned, _turned_slopes)
