"""Linear maps: float32 parameters, products in the model's type that are summed up in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from bertjax import programs
from bertjax.models import products
from bertjax.models.config import EncoderConfig


def kernel_init(config: EncoderConfig) -> nn.initializers.Initializer:
    """Truncated normal at two deviations, not rescaled, as in the 2018 code."""
    return nn.initializers.truncated_normal(stddev=config.initializer_range)


def _dot(x: Array, y: Array, contracted: tuple[int, int]) -> Array:
    """A product of two matrices over one axis of each, in float32."""
    if contracted[0] == 0 and x.dtype == jnp.bfloat16 and programs.platform() == "cpu":
        x, contracted = products.turned(x), (1, contracted[1])
    axes = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)


@jax.custom_vjp
def affine(x: Array, kernel: Array, bias: Array) -> Array:
    """[N, D] x [D, F] + [F] -> [N, F] in the type of x; kernel and bias are float32.

    Processors multiply bfloat16 fast where they may add up in float32. Both directions do so here,
    and the gradients of the parameters are never rounded to bfloat16.
    """
    return (_dot(x, kernel.astype(x.dtype), (1, 0)) + bias).astype(x.dtype)


def _forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return affine(x, kernel, bias), (x, kernel)


def _backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array, Array]:
    x, kernel = saved
    return (
        # [N, F] x [D, F] -> [N, D]
        _dot(slope, kernel.astype(x.dtype), (1, 1)).astype(x.dtype),
        # [N, D] x [N, F] -> [D, F]
        _dot(x, slope, (0, 0)),
        _sum(slope),
    )


def _sum(slope: Array) -> Array:
    """[N, F] -> [F] float32. TPUs add up rows far faster by their matrix units."""
    if slope.dtype == jnp.float32 or programs.platform() != "tpu":
        return slope.astype(jnp.float32).sum(axis=0)
    return _dot(jnp.ones((len(slope), 8), slope.dtype), slope, (0, 0))[0]


affine.defvjp(_forward, _backward)


@jax.custom_vjp
def scores(x: Array, table: Array, bias: Array) -> Array:
    """[N, D] x [V, D] + [V] -> [N, V] float32; table and bias are float32.

    The gradient is as of affine: products in the type of x, sums in float32.
    """
    return _dot(x, table.astype(x.dtype), (1, 1)) + bias


def _scores_forward(x: Array, table: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return scores(x, table, bias), (x, table)


def _scores_backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array, Array]:
    x, table = saved
    own = slope.astype(x.dtype)
    return (
        # [N, V] x [V, D] -> [N, D]
        _dot(own, table.astype(x.dtype), (1, 0)).astype(x.dtype),
        # [N, V] x [N, D] -> [V, D]
        _dot(own, x, (0, 0)),
        _sum(own),
    )


scores.defvjp(_scores_forward, _scores_backward)


def linear(x: Array, kernel: Array, bias: Array) -> Array:
    """[..., D] -> [..., F]"""
    mapped = affine(x.reshape(math.prod(x.shape[:-1]), -1), kernel, bias)
    return mapped.reshape(*x.shape[:-1], -1)


def side_by_side(x: Array, weights: Sequence[tuple[Array, Array]]) -> Array:
    """Several maps of the same x in one product: [..., D] -> [..., F + F + ...]."""
    kernels, biases = zip(*weights, strict=True)
    return linear(x, jnp.concatenate(kernels, axis=1), jnp.concatenate(biases))


class Weights(nn.Module):
    """The parameters of a linear map from a width D: kernel [D, F] and bias [F]."""

    config: EncoderConfig
    features: int

    @nn.compact
    def __call__(self, width: int) -> tuple[Array, Array]:
        kernel = self.param("kernel", kernel_init(self.config), (width, self.features))
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


class Dense(nn.Module):
    """A linear map in config.dtype: [..., D] -> [..., F]."""

    config: EncoderConfig
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", kernel_init(self.config), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return linear(x.astype(self.config.dtype), kernel, bias)
