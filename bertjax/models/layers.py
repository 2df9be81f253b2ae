"""The parts of a transformer encoder: attention, feed-forward and their residual order.

Between them the tokens of all rows stand in one long list, [B T, D]: products of two matrices are
faster on CPUs than products of a matrix with a batch of them, and no slower elsewhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from bertjax import programs
from bertjax.models import drop_add_norm
from bertjax.models.attention import QKV, attend, heads
from bertjax.models.config import BertConfig, EncoderConfig
from bertjax.models.dropout import drop
from bertjax.models.encoder_output import at_places
from bertjax.models.linear import Dense, Weights, linear, side_by_side
from bertjax.models.reach import How


def dense(features: int, config: EncoderConfig, name: str) -> Dense:
    """A linear map with bias: float32 parameters, products in config.dtype."""
    return Dense(config, features, name=name)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, in float32 whatever the input's type."""

    config: BertConfig

    def setup(self) -> None:
        self.scale = self.param("scale", nn.initializers.ones, (self.config.hidden_size,))
        self.bias = self.param("bias", nn.initializers.zeros, (self.config.hidden_size,))

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(variance + self.config.norm_epsilon)
        return (centred * inverse * self.scale + self.bias).astype(x.dtype)

    def of_sum(self, x: Array, added: Array, rng: Array | None, length: int) -> Array:
        """Of x + dropped(added), [B T, D] of rows of T = length."""
        rate = self.config.hidden_dropout
        if programs.platform() != "tpu" or not drop_add_norm.fits(length, x.shape[1]):
            return self(x + drop(added, rate, rng))
        # [B T, D] -> [B, T, D], and back
        x_rows, added_rows = (y.reshape(-1, length, y.shape[1]) for y in (x, added))
        found = drop_add_norm.drop_add_norm(
            x_rows, added_rows, self.scale, self.bias, rng, rate, self.config.norm_epsilon
        )
        return found.reshape(x.shape)


class Dropout(nn.Module):
    """Dropout with the module's own random stream; see dropout.drop."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        if deterministic or self.rate == 0.0:
            return x
        return drop(x, self.rate, self.make_rng("dropout"))


def gelu(x: Array) -> Array:
    """x Phi(x), exactly (Hendrycks and Gimpel 2016), in float32 whatever the input's type.

    Of bfloat16 on TPUs it is exact to the type: with its slope the error function takes their
    vector units half as long as the products around it take the matrix units.
    """
    if x.dtype == jnp.bfloat16 and programs.platform() == "tpu":
        return short_gelu(x)
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


# erf(x / sqrt(2)) = tanh(x (a + b x^2 + c x^4)), fitted to x Phi(x) and its slope up to |x| = 6,
# where both sides are 1: within 4e-5 and 1e-4, where bfloat16 rounds by 2e-3 of a number.
_ERF = (0.7974248, 0.03700345, -0.00034765941)


def _tanh(x: Array) -> tuple[Array, Array]:
    """The hyperbolic tangent above, and the slope of its argument; float32."""
    a, b, c = _ERF
    square = jnp.minimum(jnp.square(x), 36.0)
    return jnp.tanh(x * (a + square * (b + square * c))), a + square * (3 * b + 5 * c * square)


@jax.custom_vjp
def short_gelu(x: Array) -> Array:
    """x Phi(x) by a short formula, see _ERF."""
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + _tanh(wide)[0])).astype(x.dtype)


def _short_gelu_backward(x: Array, slope: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    tanh, pull = _tanh(wide)
    own = 0.5 + 0.5 * tanh + 0.5 * wide * (1.0 - tanh * tanh) * pull
    return ((slope.astype(jnp.float32) * own).astype(x.dtype),)


short_gelu.defvjp(lambda x: (short_gelu(x), x), _short_gelu_backward)


def tanh_gelu(x: Array) -> Array:
    """GELU with Phi(x) = (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 (Hendrycks and Gimpel
    2016, section 2), in float32 whatever the input's type."""
    return nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


# What plain feed-forward parts apply, and the masked LM's head above them.
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": tanh_gelu,
    "relu": nn.relu,
}


# --- Attention ------------------------------------------------------------------------------


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


def _rotated(qkv: QKV, how: How) -> QKV:
    query, key, value = heads(qkv, how)
    return [x.reshape(*x.shape[:2], -1) for x in (rotate(query), rotate(key), value)]


# What places do to queries and keys; learned ones are added to the embeddings instead.
POSITIONS: dict[str, Callable[[QKV, How], QKV]] = {
    "learned": lambda qkv, how: qkv,
    "rope": _rotated,
}


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2)."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, x: Array, sequences: Array, how: How, rng: Array | None, places: Array | None
    ) -> Array:
        config = self.config
        width, root = config.hidden_size, math.sqrt(config.hidden_size // config.num_heads)
        maps = [Weights(config, width, name=name)(width) for name in ("query", "key", "value")]
        # The division by the root of a head's width costs least on the weights.
        maps[0] = (maps[0][0] / root, maps[0][1] / root)
        # One product of three, unless devices share out the heads of each.
        apart = programs.splits_width()
        mapped = [linear(x, *each) for each in maps] if apart else [side_by_side(x, maps)]
        # [B T, D] -> [B, T, D] of each, or [B, T, 3 D]
        qkv = [y.reshape(*sequences.shape, -1) for y in mapped]
        placed = POSITIONS[config.positions](qkv, how)
        mixed = attend(config.attention_kernel, placed, sequences, rng, how, places)
        # [B, T or P, D] -> [B T or B P, D]
        return dense(width, config, "output")(mixed.reshape(-1, width))


# --- Feed-forward ---------------------------------------------------------------------------


class Plain(nn.Module):
    """Expansion, a function, contraction (paper, section 3, footnote on 4 D)."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        function = FUNCTIONS[self.config.feed_forward]
        # [B T, D] -> [B T, 4 D] -> [B T, D]
        inner = dense(self.config.intermediate_size, self.config, "intermediate")(x)
        return dense(self.config.hidden_size, self.config, "output")(function(inner))


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
    **dict.fromkeys(FUNCTIONS, lambda config: Plain(config, name="feed_forward")),
    "geglu": lambda config: Gated(config, gelu, name="feed_forward"),
    "swiglu": lambda config: Gated(config, nn.silu, name="feed_forward"),
}

# --- The layer ------------------------------------------------------------------------------


Part = Callable[[Array], Array]


class Around(NamedTuple):
    """What stands around a part: a norm, dropout, and the norm of x + dropped(added).

    Attributes:
      kept: of x, the rows that the part returns.
    """

    norm: Part
    drop: Part
    drop_add_norm: Callable[[Array, Array], Array]
    kept: Part


# (x, part, what stands around it) -> what comes next.
RESIDUALS: dict[str, Callable[[Array, Part, Around], Array]] = {
    "post_norm": lambda x, part, around: around.drop_add_norm(around.kept(x), part(x)),
    # Xiong et al. 2020; the encoder has one more norm at its end.
    "pre_norm": lambda x, part, around: around.kept(x) + around.drop(part(around.norm(x))),
}


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with dropout, a residual sum and normalisation."""

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        x: Array,
        sequences: Array,
        how: How,
        rngs: Array | None,
        places: Array | None = None,
    ) -> Array:
        """[B T, D] -> [B T, D].

        Args:
          sequences: [B, T] int32, which sequence of its row a token is of; 0 for padding.
          rngs: three random keys; None: nothing is dropped.
          places: [B, P], of the tokens that are wanted; only keys and values are computed for the
            others. The result is [B P, D].
        """
        config = self.config
        of_weights, *of_parts = (None, None, None) if rngs is None else rngs
        attention = SelfAttention(config, name="attention")
        wanted = sequences if places is None else places

        def kept(x: Array) -> Array:
            # [B T, D] -> [B P, D]
            if places is None:
                return x
            return at_places(x.reshape(*sequences.shape, -1), places).reshape(-1, x.shape[-1])

        parts: dict[str, tuple[Part, Part]] = {
            "attention": (
                lambda x: attention(x, sequences, how, of_weights, places),
                kept,
            ),
            "feed_forward": (FEED_FORWARDS[config.feed_forward](config), lambda x: x),
        }
        for (name, (part, own)), rng in zip(parts.items(), of_parts, strict=True):
            norm = LayerNorm(config, name=f"{name}_norm")
            around = Around(
                norm,
                functools.partial(drop, rate=config.hidden_dropout, rng=rng),
                functools.partial(norm.of_sum, rng=rng, length=wanted.shape[1]),
                own,
            )
            x = RESIDUALS[config.residual](x, part, around)
        return x
