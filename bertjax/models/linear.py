"""Linear maps: float32 parameters, products in the model's type that are summed up in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from bertjax.models.config import EncoderConfig


def kernel_init(config: EncoderConfig) -> nn.initializers.Initializer:
    """Truncated normal at two deviations, not rescaled, as in the 2018 code."""
    return nn.initializers.truncated_normal(stddev=config.initializer_range)


def _dot(x: Array, y: Array, contracted: tuple[int, int]) -> Array:
    """A product of two matrices over one axis of each, in float32."""
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
        slope.astype(jnp.float32).sum(axis=0),
    )


affine.defvjp(_forward, _backward)


def linear(x: Array, kernel: Array, bias: Array) -> Array:
    """[..., D] -> [..., F]"""
    mapped = affine(x.reshape(math.prod(x.shape[:-1]), -1), kernel, bias)
    return mapped.reshape(*x.shape[:-1], -1)


def side_by_side(x: Array, weights: Sequence[tuple[Array, Array]]) -> list[Array]:
    """Several maps of the same x in one product: [..., D] -> [..., F] of each."""
    kernels, biases = zip(*weights, strict=True)
    mapped = linear(x, jnp.concatenate(kernels, axis=1), jnp.concatenate(biases))
    ends = list(accumulate(bias.size for bias in biases))
    return jnp.split(mapped, ends[:-1], axis=-1)


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
