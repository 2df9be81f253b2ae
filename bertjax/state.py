"""The state of a training run, and how it is born sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from bertjax import partition


class TrainState(flax.struct.PyTreeNode):
    """step: int32 scalar, how many updates were made; parameters; the optimizer's state."""

    step: Array
    params: Any
    opt_state: Any


def _create(
    init_params: Callable[[Array], Any], optimizer: optax.GradientTransformation
) -> Callable[[Array], TrainState]:
    def create(key: Array) -> TrainState:
        params = init_params(key)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return create


def abstract_state(
    init_params: Callable[[Array], Any], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, types and shardings of the state, without one byte of it."""

    shapes = jax.eval_shape(_create(init_params, optimizer), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        partition.tree_shardings(shapes, mesh),
    )


def init_state(
    init_params: Callable[[Array], Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
) -> TrainState:
    """Creates the state from a seed; every device computes only its own part.

    Args:
      init_params: key -> parameter tree.
      seed: the same seed gives the same parameters on any mesh.
    """
    abstract = abstract_state(init_params, optimizer, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    create = jax.jit(_create(init_params, optimizer), out_shardings=shardings)
    return create(jax.random.key(seed))


def with_params(state: TrainState, params: Any) -> TrainState:
    """The state with given parameters (host or device arrays) in place of its own."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    placed = jax.tree.map(jax.device_put, params, shardings)
    return state.replace(params=placed)
