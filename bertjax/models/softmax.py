"""The loss of naming one word among V: over all of them, or over some that are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bertjax.errors import UserError

# Scores that are worked out at once; more are in turn, and again for the gradient.
_AT_ONCE = 2**25


def _log_uniform(counts: np.ndarray) -> np.ndarray:
    """By rank, as Zipf's law has it; for vocabularies with frequent words first.

    Pieces of words are in another order: the sum is right on average there, too, but varies more
    than by _unigram.
    """
    places = np.arange(len(counts))
    return np.log(np.log1p(1 / (places + 1)) / math.log(len(counts) + 1))


def _unigram(counts: np.ndarray) -> np.ndarray:
    """As often as in the text; what never occurs there counts as once."""
    seen = np.maximum(counts, 1).astype(np.float64)
    return np.log(seen / seen.sum())


# [V] counts of words -> [V] log probabilities of being drawn.
SAMPLERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log_uniform": _log_uniform,
    "unigram": _unigram,
}


def sampler(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Raises UserError: the name is not in SAMPLERS."""
    if name not in SAMPLERS:
        raise UserError(f"sampler '{name}' is unknown; choose one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def _scores(x: Array, table: Array, bias: Array) -> Array:
    """[N, P] x [V, P] -> [N, V] float32."""
    product = jnp.einsum("np,vp->nv", x, table.astype(x.dtype), preferred_element_type=jnp.float32)
    return product + bias


def full(x: Array, table: Array, bias: Array, labels: Array) -> tuple[Array, Array]:
    """Every word of the vocabulary is a candidate.

    Args:
      x: [N, P]; table: [V, P]; bias: [V]; labels: [N].

    Returns:
      [N] losses in nats, and [N] bool: the word is the most probable one.
    """

    def losses(rows: Array, words: Array) -> tuple[Array, Array]:
        scores = _scores(rows, table, bias)
        right = jnp.take_along_axis(scores, words[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(scores, axis=1) - right, right >= scores.max(axis=1)

    parts = _parts(len(x), len(bias))
    if parts == 1:
        return losses(x, labels)

    def split(a: Array) -> Array:
        # [N, ...] -> [parts, N / parts, ...]; every device takes its own rows in turn.
        return a.reshape(len(a) // parts, parts, *a.shape[1:]).swapaxes(0, 1)

    found = jax.lax.map(jax.checkpoint(lambda part: losses(*part)), (split(x), split(labels)))
    return found[0].swapaxes(0, 1).reshape(-1), found[1].swapaxes(0, 1).reshape(-1)


def _parts(rows: int, words: int) -> int:
    """The least power of two that is enough and divides the rows, if there is one."""
    parts = 1
    while rows * words > parts * _AT_ONCE and rows % (2 * parts) == 0:
        parts *= 2
    return parts


def sampled(
    x: Array, table: Array, bias: Array, labels: Array, log_probs: Array, number: int, key: Array
) -> Array:
    """The right word against `number` words that are drawn once for all rows, without repetition.

    The sum over the vocabulary, which the softmax divides by, is estimated: a word that is drawn
    counts 1 / q times, q being its probability of being among those drawn. The estimate is right on
    average whatever log_probs are, and exact when all words are drawn (priority sampling: Duffield
    et al. 2007; by Gumbel numbers: Kool et al. 2019).

    Args:
      log_probs: [V] of drawing a word; they need not be normalised.

    Returns:
      [N] losses in nats.
    """
    drawn, log_q = _draw(log_probs, number, key)
    # [N, P] x [K, P] -> [N, K]
    others = _scores(x, table[drawn], bias[drawn] - log_q)
    others = jnp.where(drawn == labels[:, None], -jnp.inf, others)
    right = jnp.sum(x.astype(jnp.float32) * table[labels], axis=1) + bias[labels]
    return jnp.logaddexp(jax.nn.logsumexp(others, axis=1), right) - right


def _draw(log_probs: Array, number: int, key: Array) -> tuple[Array, Array]:
    """[K] words without repetition, and the log probabilities of their being drawn."""
    perturbed = log_probs + jax.random.gumbel(key, log_probs.shape)
    if number >= len(log_probs):
        return jnp.arange(len(log_probs)), jnp.zeros(len(log_probs))
    # The first that is not drawn is the threshold.
    values, places = jax.lax.top_k(perturbed, number + 1)
    drawn = places[:-1]
    # log(1 - exp(-exp(l - threshold))), which is about l - threshold for rare words.
    passed = -jnp.expm1(-jnp.exp(log_probs[drawn] - values[-1]))
    return drawn, jnp.log(passed)
