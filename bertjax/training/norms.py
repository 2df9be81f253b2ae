"""Norms of gradients and updates by group: which part of a model learns, and which explodes."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bertjax.partition import path_name
from bertjax.runs.state import TrainState

# The first row that matches a parameter's path tells its group.
GROUPS = (
    ("embeddings", re.compile(r"^encoder/embeddings/")),
    ("layers", re.compile(r"^encoder/(?!pooler/)")),
    ("heads", re.compile("")),
)


def by_group(tree: Any) -> dict[str, Array]:
    """{group: Euclidean norm of its leaves, float32}, of the groups that are there."""
    groups: dict[str, list[Array]] = defaultdict(list)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path)
        group = next(group for group, pattern in GROUPS if pattern.search(name))
        groups[group].append(leaf.astype(jnp.float32))
    return {group: optax.tree.norm(leaves) for group, leaves in groups.items()}


def measured(
    optimizer: optax.GradientTransformation, gradients: Any, state: TrainState, every: int
) -> dict[str, Array]:
    """ "gradient_norm/GROUP" and "update_norm/GROUP" of every `every`th step, NaN in the others.

    A step that does not measure pays nothing: the update is computed a second time for its norms,
    as it would otherwise have to be written to memory, and that is done only where it is asked for.
    """

    def measure(gradients: Any, opt_state: Any, params: Any) -> dict[str, Array]:
        updates, _ = optimizer.update(gradients, opt_state, params)
        return {
            f"{what}_norm/{group}": norm
            for what, tree in (("gradient", gradients), ("update", updates))
            for group, norm in by_group(tree).items()
        }

    operands = (gradients, state.opt_state, state.params)
    nothing = jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), jax.eval_shape(measure, *operands)
    )
    return jax.lax.cond((state.step + 1) % every == 0, measure, lambda *_: nothing, *operands)
