"""Learns word vectors by negative sampling, group of words by group, along a stream of them.

Some blocks are changed together, by one sum for each row. Where a word is so frequent that its sum
would overshoot, it is made smaller: see `learn`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bertjax import programs
from bertjax.models import subwords
from bertjax.models.negative_sampling import BLOCK, CHANGES, NOISE, SHARE, Rows, Words, group
from bertjax.models.objectives import Batch, Objective, Sums
from bertjax.models.word2vec import Word2VecConfig
from bertjax.models.word_stream import Stream, draw_noise, num_pairs, num_seeing, stream, tables

PART = "negative_sampling"


class Table(NamedTuple):
    """A table that is learnt, and [N] zeros to add up what meets in a row."""

    rows: Array
    total: Array


def learn(table: Table, some: Rows, rate: Array) -> Table:
    """Adds rate times the sum of the changes to every row.

    Many small steps one after the other never overshoot, but one step of their sum may. So where
    the rate times the sum of the curvatures is above 1, the row's step is divided by it: that is
    the lowest point of a parabola that is nowhere below the loss.
    """
    total = table.total.at[some.ids].add(some.curvature)
    step = rate / jnp.maximum(1.0, rate * total[some.ids])
    rows = table.rows.at[some.ids].add(step[:, None] * some.change)
    return Table(rows, total.at[some.ids].set(0.0))


class WordUpdates(NamedTuple):
    """Learning and evaluating with negative sampling.

    Attributes:
      update: (params, batch, key, rate) -> (params, sums, counts).
      objective: the same loss of a batch that nothing is learnt from.
    """

    update: Callable[[Any, Batch, Array, Array], tuple[Any, Sums, dict[str, Array]]]
    objective: Objective


def word_updates(config: Word2VecConfig, counts: np.ndarray, words: Any) -> WordUpdates:
    """Args are those of `tables`."""
    table = tables(config, counts, words)
    parts = subwords.table(words, config) if config.buckets else None
    change = CHANGES[config.method]

    def count(found: Stream) -> dict[str, Array]:
        each = {"skip_gram": num_pairs(found, config.window), "cbow": num_seeing(found)}
        return {PART: each[config.method].astype(jnp.float32)}

    def walk(params: Any, found: Stream, key: Array, rate: Array | None) -> tuple[Any, Array]:
        size = config.update_tokens
        blocks = (len(found.ids) - 2 * config.window) // size
        sharing = math.gcd(size // BLOCK, SHARE)
        noise = draw_noise(key, (blocks, size // BLOCK // sharing, NOISE), table)
        own = None if parts is None else jnp.asarray(parts)

        def one(number: Array, carry: tuple[Table, Table, Array]) -> tuple[Table, Table, Array]:
            inputs, outputs, loss = carry
            some = group(found, number * size, noise[number], config)
            made = change(Words(inputs.rows, own), outputs.rows, some, config)
            if rate is not None:
                inputs = learn(inputs, made.inputs, rate)
                outputs = learn(outputs, made.outputs, rate)
            return inputs, outputs, loss + made.loss

        # Else every device would do the work of all columns, 100 on eight devices, say.
        shared = programs.shared_out(params)
        both = shared["encoder"]["embeddings"]["token"]["embedding"], shared["output"]["embedding"]
        first, second = (Table(rows, jnp.zeros(len(rows))) for rows in both)
        groups = -(-found.size // size)
        inputs, outputs, loss = jax.lax.fori_loop(0, groups, one, (first, second, jnp.zeros(())))
        encoder = {"embeddings": {"token": {"embedding": inputs.rows}}}
        return {"encoder": encoder, "output": {"embedding": outputs.rows}}, loss

    def update(
        params: Any, batch: Batch, key: Array, rate: Array
    ) -> tuple[Any, Sums, dict[str, Array]]:
        first, second = jax.random.split(key)
        found = stream(batch, first, config, table)
        params, loss = walk(params, found, second, rate)
        return params, {PART: {"loss": loss}}, count(found)

    # Evaluation draws the same for every batch.
    first, second = jax.random.split(jax.random.key(0))

    def sums(params: Any, batch: Batch, key: Array | None) -> Sums:
        del key
        _, loss = walk(params, stream(batch, first, config, table), second, None)
        return {PART: {"loss": loss}}

    return WordUpdates(
        update, Objective(lambda batch: count(stream(batch, first, config, table)), sums)
    )
