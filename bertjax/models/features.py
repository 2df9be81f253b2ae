"""What a head reads of an encoder's layers: one of them, several together, or a learned mix."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from bertjax.errors import UserError

# [L + 1, B, T, D] -> [B, T, F]; the rows of the paper's table 7 that have nothing to learn.
FIXED: dict[str, Callable[[Array], Array]] = {
    "embeddings": lambda layers: layers[0],
    "second_to_last": lambda layers: layers[-2],
    "last": lambda layers: layers[-1],
    "sum_last4": lambda layers: jnp.sum(layers[-4:], axis=0),
    # [4, B, T, D] -> [B, T, 4 D]
    "concat_last4": lambda layers: jnp.concatenate(list(layers[-4:]), axis=-1),
}
# Layers above the embeddings that must be there.
_NEEDED = {"second_to_last": 1, "sum_last4": 4, "concat_last4": 4}
MIX = "mix"
CHOICES = (*FIXED, MIX)


class LayerMix(nn.Module):
    """gamma * sum_j softmax(s)_j h_j over the embeddings and all layers (Peters et al. 2018).

    s starts at 0, so that all layers count alike, and gamma at 1.
    """

    @nn.compact
    def __call__(self, layers: Array) -> Array:
        scores = self.param("scores", nn.initializers.zeros, (layers.shape[0],))
        gamma = self.param("gamma", nn.initializers.ones, ())
        # [L + 1] x [L + 1, B, T, D] -> [B, T, D]
        mixed = jnp.einsum("l,lbtd->btd", jax.nn.softmax(scores), layers.astype(jnp.float32))
        return (gamma * mixed).astype(layers.dtype)


def readable(num_layers: int) -> tuple[str, ...]:
    """Those of CHOICES for which an encoder has layers enough."""
    return tuple(name for name in CHOICES if _NEEDED.get(name, 0) <= num_layers)


def check(name: str, num_layers: int) -> None:
    """Raises UserError: the name is not in CHOICES, or there are fewer layers than it takes."""
    if name not in CHOICES:
        raise UserError(f"layers '{name}' is unknown; choose one of {', '.join(CHOICES)}")
    needed = _NEEDED.get(name, 0)
    if num_layers < needed:
        raise UserError(
            f"layers '{name}' takes {needed} layer(s), the encoder has {num_layers}; choose another"
        )
