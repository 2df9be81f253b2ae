"""The parts of a transformer encoder: attention, feed-forward and their residual order.

Between them the tokens of all rows stand in one long list, [B T, D]: products of two matrices are
faster on CPUs than products of a matrix with a batch of them, and no slower elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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


# --- Who attends to whom --------------------------------------------------------------------


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


def rotate(x: Array) -> Array:
    """Turns each pair of numbers by an angle that grows with the place (RoPE, Su et al. 2021).

    The product of a query and a key then hangs on how far they are apart, not on where they are; so
    the sequences of packed rows need no places of their own.

    Args:
      x: [B, T, H, K]; number i makes a pair with number i + K / 2.
    """
    half = x.shape[-1] // 2
    # [T, 1] x [K / 2] -> [T, 1, K / 2]
    speed = 10_000.0 ** (-jnp.arange(half) / half)
    angle = (jnp.arange(x.shape[1])[:, None] * speed)[:, None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


# What places do to queries and keys; learned ones are added to the embeddings instead.
POSITIONS: dict[str, Callable[[Array], Array]] = {"learned": lambda x: x, "rope": rotate}


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2)."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, bias: Array, deterministic: bool) -> Array:
        config = self.config
        heads, head_width = config.num_heads, config.hidden_size // config.num_heads
        batch, length = bias.shape[0], bias.shape[-1]
        place = POSITIONS[config.positions]

        def split_heads(y: Array) -> Array:
            # [B T, D] -> [B, T, H, K]
            return y.reshape(batch, length, heads, head_width)

        query = place(split_heads(dense(config.hidden_size, config, "query")(x)))
        key = place(split_heads(dense(config.hidden_size, config, "key")(x)))
        value = split_heads(dense(config.hidden_size, config, "value")(x))
        # [B, T, H, K] x [B, S, H, K] -> [B, H, T, S]
        scores = jnp.einsum("bthk,bshk->bhts", query / jnp.sqrt(head_width).astype(x.dtype), key)
        weights = jax.nn.softmax(scores.astype(jnp.float32) + bias, axis=-1).astype(x.dtype)
        weights = Dropout(config.attention_dropout)(weights, deterministic)
        # [B, H, T, S] x [B, S, H, K] -> [B, T, H, K] -> [B T, D]
        mixed = jnp.einsum("bhts,bshk->bthk", weights, value).reshape(x.shape)
        return dense(config.hidden_size, config, "output")(mixed)


# --- Feed-forward ---------------------------------------------------------------------------


class Plain(nn.Module):
    """Expansion, exact GELU, contraction (paper, section 3, footnote on 4 D)."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # [B T, D] -> [B T, 4 D] -> [B T, D]
        inner = dense(self.config.intermediate_size, self.config, "intermediate")(x)
        inner = nn.gelu(inner, approximate=False)
        return dense(self.config.hidden_size, self.config, "output")(inner)


class Gated(nn.Module):
    """One expansion times a function of another (Shazeer 2020).

    Both are two thirds as wide as a plain one, rounded up to eight, which makes as many parameters.
    """

    config: BertConfig
    function: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = -(-self.config.intermediate_size * 2 // 24) * 8
        gate = self.function(dense(width, self.config, "gate")(x))
        inner = gate * dense(width, self.config, "intermediate")(x)
        return dense(self.config.hidden_size, self.config, "output")(inner)


FEED_FORWARDS: dict[str, Callable[[BertConfig], nn.Module]] = {
    "gelu": lambda config: Plain(config, name="feed_forward"),
    "geglu": lambda config: Gated(config, partial(nn.gelu, approximate=False), name="feed_forward"),
    "swiglu": lambda config: Gated(config, nn.silu, name="feed_forward"),
}

# --- The layer ------------------------------------------------------------------------------

Part = Callable[[Array], Array]

# (x, part, norm, drop) -> what the part adds to x; where the norm stands.
RESIDUALS: dict[str, Callable[[Array, Part, Part, Part], Array]] = {
    "post_norm": lambda x, part, norm, drop: norm(x + drop(part(x))),
    # Xiong et al. 2020; the encoder has one more norm at its end.
    "pre_norm": lambda x, part, norm, drop: x + drop(part(norm(x))),
}


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with dropout, a residual sum and normalisation."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, bias: Array, deterministic: bool) -> Array:
        config = self.config
        residual, drop = RESIDUALS[config.residual], Dropout(config.hidden_dropout)
        attention = SelfAttention(config, name="attention")
        expansion = FEED_FORWARDS[config.feed_forward](config)
        parts: dict[str, Part] = {
            "attention": lambda x: attention(x, bias, deterministic),
            "feed_forward": expansion,
        }
        for name, part in parts.items():
            norm = LayerNorm(config, name=f"{name}_norm")
            x = residual(x, part, norm, lambda added: drop(added, deterministic))
        return x
