"""What word2vec draws: which words of a batch are left, how far each sees, and words of noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bertjax.models.objectives import Batch
from bertjax.models.word2vec import Word2VecConfig


class Tables(NamedTuple):
    """What is drawn by, for every entry of the vocabulary, [V].

    Attributes:
      keep: the probability that an occurrence stays; 0 for special entries.
      breaks: no window reaches beyond such an entry.
      accept, alias: the noise, as Walker's alias method draws it.
    """

    keep: np.ndarray
    breaks: np.ndarray
    accept: np.ndarray
    alias: np.ndarray


class Stream(NamedTuple):
    """The words that are left of a batch, one behind the other, `window` empty places around them.

    Attributes:
      ids: [N + 2 W]; document: [N + 2 W] which words may see each other, -1 where there is none.
      reach: [N + 2 W] how many words to either side a word sees.
      size: how many words there are.
    """

    ids: Array
    document: Array
    reach: Array
    size: Array


def tables(config: Word2VecConfig, counts: np.ndarray, words: Any) -> Tables:
    """From [V] counts of the text.

    Args:
      words: the tokenizer.
    """
    counts = np.array(counts, np.float64)
    counts[words.never_random] = 0
    breaks = np.zeros(len(counts), bool)
    breaks[[words.pad_id, words.cls_id, words.sep_id, words.mask_id]] = True
    # What never occurs is no noise either, by whatever power: 0 ** 0 is 1.
    accept, alias = alias_table(np.where(counts > 0, counts**config.noise_power, 0))
    return Tables(keep_probability(counts, config.subsample), breaks, accept, alias)


def keep_probability(counts: np.ndarray, subsample: float) -> np.ndarray:
    """sqrt(t / f) + t / f, at most 1: the C code's; the paper's own formula has no second part."""
    share = counts / max(counts.sum(), 1)
    if not subsample:
        return (counts > 0).astype(np.float32)
    ratio = subsample / np.maximum(share, 1e-300)
    return np.where(counts > 0, np.minimum(np.sqrt(ratio) + ratio, 1), 0).astype(np.float32)


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's method: a column drawn uniformly is itself with `accept`, else its `alias`."""
    scaled = weights * (len(weights) / weights.sum())
    accept, alias = np.ones(len(weights)), np.arange(len(weights))
    small = [i for i, w in enumerate(scaled.tolist()) if w < 1]
    large = [i for i, w in enumerate(scaled.tolist()) if w >= 1]
    while small and large:
        low, high = small.pop(), large[-1]
        accept[low], alias[low] = scaled[low], high
        scaled[high] -= 1 - scaled[low]
        if scaled[high] < 1:
            small.append(large.pop())
    return accept.astype(np.float32), alias.astype(np.int32)


def draw_noise(key: Array, shape: tuple[int, ...], table: Tables) -> Array:
    """Ids, int32."""
    first, second = jax.random.split(key)
    column = jax.random.randint(first, shape, 0, len(table.alias))
    accept, alias = jnp.asarray(table.accept), jnp.asarray(table.alias)
    return jnp.where(jax.random.uniform(second, shape) < accept[column], column, alias[column])


def stream(batch: Batch, key: Array, config: Word2VecConfig, table: Tables) -> Stream:
    """Draws which words of a batch are left and how far each sees, and closes the gaps.

    Unknown words are left out, as in the C code. A special token ends a sequence.
    """
    ids = batch["input_ids"]
    if "example_weights" in batch:
        ids = jnp.where(batch["example_weights"][:, None] > 0, ids, 0)
    ids = ids.reshape(-1)
    number, window = len(ids), config.window
    # One half of the bits for each draw.
    bits = jax.random.bits(key, (number,), jnp.uint32)
    kept = (bits >> 16) < jnp.asarray(table.keep * 65536, jnp.float32)[ids]
    total = -(-number // config.update_tokens) * config.update_tokens + 2 * window
    place = jnp.where(kept, jnp.cumsum(kept) - 1 + window, total)
    document = jnp.cumsum(jnp.asarray(table.breaks)[ids])
    reach = ((bits & 0xFFFF) * jnp.uint32(window) >> 16).astype(jnp.int32) + 1

    def closed(values: Array, empty: int) -> Array:
        return jnp.full((total,), empty, jnp.int32).at[place].set(values, mode="drop")

    return Stream(closed(ids, 0), closed(document, -1), closed(reach, 0), kept.sum())


def num_pairs(words: Stream, window: int) -> Array:
    """How many pairs of a word and one that it sees there are."""
    total = jnp.zeros((), jnp.int32)
    for offset in range(1, window + 1):
        near, far = slice(None, -offset), slice(offset, None)
        same = (words.document[near] == words.document[far]) & (words.document[near] >= 0)
        total += (same & (words.reach[near] >= offset)).sum()
        total += (same & (words.reach[far] >= offset)).sum()
    return total


def num_seeing(words: Stream) -> Array:
    """How many words see another one: any window reaches the next word of the same document."""
    document = words.document
    same = (document[1:] == document[:-1]) & (document[1:] >= 0)
    return (same[1:] | same[:-1]).sum()
