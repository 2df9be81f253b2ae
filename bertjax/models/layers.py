"""The parts of a transformer encoder: attention, feed-forward and their residual order.

Between them the tokens of all rows stand in one long list, [B T, D]: products of two matrices are
faster on CPUs than products of a matrix with a batch of them, and no slower elsewhere.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from bertjax.models.config import BertConfig, EncoderConfig


def kernel_init(config: EncoderConfig) -> nn.initializers.Initializer:
    """Truncated normal at two deviations, not rescaled, as in the 2018 code."""
    return nn.initializers.truncated_normal(stddev=config.initializer_range)


def dense(features: int, config: EncoderConfig, name: str) -> nn.Dense:
    """A linear map with bias: float32 parameters, products in config.dtype."""
    return nn.Dense(
        features, dtype=jnp.dtype(config.dtype), kernel_init=kernel_init(config), name=name
    )


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, in float32 whatever the input's type."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(variance + self.config.norm_epsilon)
        return (centred * inverse * scale + bias).astype(x.dtype)


class Dropout(nn.Module):
    """Zeroes each value with probability `rate` and scales the others by 1 / (1 - rate)."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        if deterministic or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        # 16 random bits a value halve the generator's work; the rate is exact to 1 / 65536.
        # [..., (n + 1) / 2] words -> [..., (n + 1) / 2, 2] halves -> [..., n]
        words = (*x.shape[:-1], (x.shape[-1] + 1) // 2)
        halves = jax.lax.bitcast_convert_type(
            jax.random.bits(self.make_rng("dropout"), words, jnp.uint32), jnp.uint16
        )
        bits = halves.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
        kept = bits < jnp.uint16(round(keep * 65536))
        return jnp.where(kept, x / keep, jnp.zeros_like(x))


def attention_bias(input_mask: Array, packed: bool = False) -> Array:
    """0 where a key may be attended to and a large negative number where it may not.

    Args:
      input_mask: [B, T], 0 for padding; else 1 or, in packed rows, the number of the sequence,
        counted from 1.
      packed: a token attends to its own sequence only.

    Returns:
      [B, 1, 1, T], or [B, 1, T, T] if packed, float32, to be added to scores [B, H, T, T].
    """
    allowed = input_mask[:, None, None, :] > 0
    if packed:
        # [B, 1, T, 1] = [B, 1, 1, T] -> [B, 1, T, T]
        allowed = allowed & (input_mask[:, None, :, None] == input_mask[:, None, None, :])
    return jnp.where(allowed, 0.0, -1e9).astype(jnp.float32)


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2)."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, bias: Array, deterministic: bool) -> Array:
        config = self.config
        heads, head_width = config.num_heads, config.hidden_size // config.num_heads
        batch, length = bias.shape[0], bias.shape[-1]

        def split_heads(y: Array) -> Array:
            # [B T, D] -> [B, T, H, K]
            return y.reshape(batch, length, heads, head_width)

        query = split_heads(dense(config.hidden_size, config, "query")(x))
        key = split_heads(dense(config.hidden_size, config, "key")(x))
        value = split_heads(dense(config.hidden_size, config, "value")(x))
        # [B, T, H, K] x [B, S, H, K] -> [B, H, T, S]
        scores = jnp.einsum("bthk,bshk->bhts", query / jnp.sqrt(head_width).astype(x.dtype), key)
        weights = jax.nn.softmax(scores.astype(jnp.float32) + bias, axis=-1).astype(x.dtype)
        weights = Dropout(config.attention_dropout)(weights, deterministic)
        # [B, H, T, S] x [B, S, H, K] -> [B, T, H, K] -> [B T, D]
        mixed = jnp.einsum("bhts,bshk->bthk", weights, value).reshape(x.shape)
        return dense(config.hidden_size, config, "output")(mixed)


class FeedForward(nn.Module):
    """Position-wise expansion, exact GELU, contraction (paper, section 3, footnote on 4 D)."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # [B T, D] -> [B T, 4 D] -> [B T, D]
        inner = dense(self.config.intermediate_size, self.config, "intermediate")(x)
        inner = nn.gelu(inner, approximate=False)
        return dense(self.config.hidden_size, self.config, "output")(inner)


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each followed by dropout, residual sum and normalisation."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, bias: Array, deterministic: bool) -> Array:
        config = self.config
        drop = Dropout(config.hidden_dropout)
        attended = SelfAttention(config, name="attention")(x, bias, deterministic)
        x = LayerNorm(config, name="attention_norm")(x + drop(attended, deterministic))
        expanded = FeedForward(config, name="feed_forward")(x)
        return LayerNorm(config, name="feed_forward_norm")(x + drop(expanded, deterministic))
