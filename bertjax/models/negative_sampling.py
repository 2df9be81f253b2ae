"""What a group of words changes: skip-gram and CBOW with negative sampling (Mikolov et al. 2013).

The loss of a word i and a word o in its window is, with k words of noise,

    -log sigma(v'_o . v_i) - k E_n[log sigma(-v'_n . v_i)]

Words are worked on in blocks of 32 in a row: one product of a block's vectors with those of the
words around it, and one of up to four blocks' with vectors of noise that they share. A shared word
of noise counts k / (number of them) for every pair, so that the sum is the same on average. Only
rows that occur are changed, and the fewer they are the faster it goes.

Where words have n-grams, what is to be added to a word's vector is added to each of its parts, as
the fastText program does: then the vector, their mean, moves by as much as one without parts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bertjax.models import subwords
from bertjax.models.word2vec import Word2VecConfig
from bertjax.models.word_stream import Stream

BLOCK = 32
# Words of noise, which up to so many blocks share.
NOISE = 64
SHARE = 4


class Group(NamedTuple):
    """G blocks of words.

    Attributes:
      centre: [G, 32] ids; around: [G, 32 + 2 W] ids of the block and what is beside it.
      noise: [N, K] ids, each for as many blocks as the others.
      sees: [G, 32, 32 + 2 W] 1 where a word sees another.
    """

    centre: Array
    around: Array
    noise: Array
    sees: Array


def group(words: Stream, at: Array, noise: Array, config: Word2VecConfig) -> Group:
    """The blocks that begin at word `at` of a stream."""
    size, window = config.update_tokens, config.window
    # [G, 32 + 2 W] places in the words from `at` on
    places = np.arange(0, size, BLOCK)[:, None] + np.arange(BLOCK + 2 * window)
    offset = np.abs(np.arange(BLOCK + 2 * window) - window - np.arange(BLOCK)[:, None])
    cut = [jax.lax.dynamic_slice(x, (at,), (size + 2 * window,)) for x in words[:3]]
    ids, document, reach = cut

    def inner(values: Array) -> Array:
        return values[window : window + size].reshape(-1, BLOCK)

    own = inner(document)[:, :, None]
    sees = (own == document[places][:, None, :]) & (own >= 0)
    sees &= (offset > 0) & (offset <= inner(reach)[:, :, None])
    return Group(inner(ids), ids[places], noise, sees.astype(jnp.float32))


class Rows(NamedTuple):
    """What is to be added to the rows of a table.

    Attributes:
      ids: [R], a row may occur several times; change: [R, D] minus the gradient.
      curvature: [R] above the second derivative of the loss along any direction of the row.
    """

    ids: Array
    change: Array
    curvature: Array


class Change(NamedTuple):
    """What a group changes; loss is the sum over its pairs, of CBOW over its words that see one."""

    inputs: Rows
    outputs: Rows
    loss: Array


class Pull(NamedTuple):
    """Of scores [..., C]: minus the gradient of the loss by them, and more.

    Attributes:
      curvature: [..., C] of the parabola that touches the loss and is nowhere below it (Jaakkola
        and Jordan 2000): (sigma(x) - 1 / 2) / x.
      loss: [...]
    """

    change: Array
    curvature: Array
    loss: Array


def _pull(scores: Array, pairs: Array | float = 1.0) -> Pull:
    """Of the loss -log sigma(x) of scores [..., C]; `pairs` is 0 where there is none, else 1."""
    # One exponential serves sigma and its logarithm: -log sigma(x) = max(-x, 0) + log(1 + e).
    e = jnp.exp(-jnp.abs(scores))
    right = jnp.where(scores > 0, 1.0, e) / (1 + e)
    loss = (pairs * jnp.maximum(-scores, 0)).sum(axis=-1) + _sum_of_logs(1 + pairs * e)
    flat = jnp.abs(scores) < 1e-2
    bound = jnp.where(flat, 0.25, (right - 0.5) / jnp.where(flat, 1.0, scores))
    return Pull(pairs * (1 - right), pairs * bound, loss)


def _sum_of_logs(values: Array) -> Array:
    """Of values from 1 to 2, [..., C] -> [...]."""
    # Logarithms take the most time of all: one serves 64 values, whose product is 2 ** 64 at most.
    parts = [values[..., i : i + 64] for i in range(0, values.shape[-1], 64)]
    return jnp.log(jnp.stack([part.prod(axis=-1) for part in parts])).sum(axis=0)


def _square(vectors: Array) -> Array:
    return jnp.square(vectors).sum(axis=-1)


class Push(NamedTuple):
    """What noise changes; curvatures as in Rows.

    Attributes:
      change, curvature: [G, 32, D] and [G, 32] of the vectors that should not foretell it.
      noise: its rows of the output table.
      loss: the sum.
    """

    change: Array
    curvature: Array
    noise: tuple[Array, Array, Array]
    loss: Array


def _push(vectors: Array, outputs: Array, noise: Array, number: Array) -> Push:
    """Away from noise.

    Args:
      vectors: [G, 32, D]; noise: [N, K] ids; number: [G, 32] how many words of noise each is
        pushed away from, of which the K have equal shares.
    """
    # The blocks that share noise as one, [N, S, D] and [N, S, 1].
    flat = vectors.reshape(len(noise), -1, vectors.shape[-1])
    own = number.reshape(len(noise), -1, 1) / noise.shape[1]
    others = outputs[noise]
    # [N, S, D] x [N, K, D] -> [N, S, K]
    pull = _pull(-jnp.einsum("nsd,nkd->nsk", flat, others))
    change, steep = -own * pull.change, own * pull.curvature
    return Push(
        jnp.einsum("nsk,nkd->nsd", change, others).reshape(vectors.shape),
        jnp.einsum("nsk,nk->ns", steep, _square(others)).reshape(number.shape),
        (
            noise,
            jnp.einsum("nsk,nsd->nkd", change, flat),
            jnp.einsum("nsk,ns->nk", steep, _square(flat)),
        ),
        (own[..., 0] * pull.loss).sum(),
    )


def _rows(*parts: tuple[Array, Array, Array]) -> Rows:
    """Ids, changes and curvatures of any leading shape as one list."""
    width = parts[0][1].shape[-1]
    return Rows(
        jnp.concatenate([part[0].reshape(-1) for part in parts]),
        jnp.concatenate([part[1].reshape(-1, width) for part in parts]),
        jnp.concatenate([part[2].reshape(-1) for part in parts]),
    )


class Words(NamedTuple):
    """The vectors of words as they are now, and whose rows they are.

    Attributes:
      rows: [N, D] the table that is learnt.
      parts: [V, P] see subwords.table; None: a word is a row.
    """

    rows: Array
    parts: Array | None

    def vectors(self, ids: Array) -> Array:
        """[...] ids of words -> [..., D]; of words with n-grams the means of their parts."""
        return self.rows[ids] if self.parts is None else subwords.mean(self.rows, self.parts, ids)

    def spread(self, some: Rows) -> Rows:
        """What is to be added to words as what is to be added to their rows."""
        if self.parts is None:
            return some
        found = self.parts[some.ids]
        shape = (*found.shape, some.change.shape[1])
        return _rows(
            (
                found,
                jnp.broadcast_to(some.change[:, None], shape),
                jnp.broadcast_to(some.curvature[:, None], found.shape),
            )
        )


def skip_gram(inputs: Words, outputs: Array, some: Group, config: Word2VecConfig) -> Change:
    """Every word foretells each word that it sees."""
    vectors, others = inputs.vectors(some.centre), outputs[some.around]
    # [G, 32, D] x [G, C, D] -> [G, 32, C]
    pull = _pull(jnp.einsum("gbd,gcd->gbc", vectors, others), some.sees)
    push = _push(vectors, outputs, some.noise, config.negatives * some.sees.sum(axis=2))
    to_vectors = jnp.einsum("gbc,gcd->gbd", pull.change, others)
    to_others = jnp.einsum("gbc,gbd->gcd", pull.change, vectors)
    steep = jnp.einsum("gbc,gc->gb", pull.curvature, _square(others))
    steep_others = jnp.einsum("gbc,gb->gc", pull.curvature, _square(vectors))
    return Change(
        inputs.spread(_rows((some.centre, to_vectors + push.change, steep + push.curvature))),
        _rows((some.around, to_others, steep_others), push.noise),
        pull.loss.sum() + push.loss,
    )


def cbow(inputs: Words, outputs: Array, some: Group, config: Word2VecConfig) -> Change:
    """The mean of the words that a word sees foretells it.

    Each of them takes the whole step that the mean should take, as in the papers' program: so the
    mean itself takes it. (The gradient by one word would be the n-th part of it.)
    """
    number = some.sees.sum(axis=2, keepdims=True)
    share = some.sees / jnp.maximum(number, 1)
    vectors, own = inputs.vectors(some.around), outputs[some.centre]
    # [G, 32, 32 + 2 W] x [G, 32 + 2 W, D] -> [G, 32, D]
    mean = jnp.einsum("gbc,gcd->gbd", share, vectors)
    foretells = (number > 0).astype(mean.dtype)
    pull = _pull((mean * own).sum(axis=2, keepdims=True), foretells)
    push = _push(mean, outputs, some.noise, config.negatives * foretells[..., 0])
    to_mean = pull.change * own + push.change
    steep = pull.curvature[..., 0] * _square(own) + push.curvature
    steep_vectors = jnp.einsum("gbc,gb->gc", some.sees, steep)
    to_vectors = jnp.einsum("gbc,gbd->gcd", some.sees, to_mean)
    return Change(
        inputs.spread(_rows((some.around, to_vectors, steep_vectors))),
        _rows(
            (some.centre, pull.change * mean, pull.curvature[..., 0] * _square(mean)), push.noise
        ),
        pull.loss.sum() + push.loss,
    )


CHANGES = {"skip_gram": skip_gram, "cbow": cbow}
