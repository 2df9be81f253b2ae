"""Checksums of arrays: the same on every mesh, and another as soon as one bit has changed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from bertjax.partition import path_name

# Knuth's multiplicative hash; odd factors are invertible, so no change of one number is lost.
_FACTOR = 2654435761


def _checksum(leaf: Array) -> Array:
    """The sum of all numbers' bits, each times an odd factor that its place tells, modulo 2^32.

    Whole numbers add up to the same in any order, so every device sums up what it holds.
    """
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * size + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    return jnp.sum(bits * (place * jnp.uint32(_FACTOR) | 1), dtype=jnp.uint32)


@jax.jit
def _checksums(leaves: list[Array]) -> Array:
    """One program for all: several at once would get in each other's way between devices."""
    return jnp.stack([_checksum(leaf) for leaf in leaves])


def of_tree(tree: Any) -> dict[str, int]:
    """{path: checksum} of all arrays of a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    return {path_name(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}
