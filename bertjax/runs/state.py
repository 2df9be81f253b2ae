"""The state of a training run, and how it is born sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from bertjax import partition
from bertjax.errors import UserError


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes or hangs on, but for the batch.

    Attributes:
      step: int32 scalar, how many batches were taken.
      seed: int32 scalar, of dropout; in the state, so that all seeds share one compiled step.
      skipped: int32 scalar, how many of the steps made no update, because it was not finite.
      params, opt_state: the parameters and the optimizer's state.
    """

    step: Array
    seed: Array
    skipped: Array
    params: Any
    opt_state: Any


def abstract_state(
    init_params: Callable[[Array], Any], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, types and shardings of the state, without one byte of it."""

    def create(key: Array) -> TrainState:
        params, zero = init_params(key), jnp.zeros((), jnp.int32)
        return TrainState(zero, zero, zero, params, optimizer.init(params))

    shapes = jax.eval_shape(create, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        partition.tree_shardings(shapes, mesh),
    )


def check_seed(seed: int, name: str) -> None:
    """Raises UserError: not a number that a state holds; `name` is the flag or setting."""
    if not 0 <= seed < 2**31:
        raise UserError(f"{name}={seed}: give a number from 0 to {2**31 - 1}")


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
    # Two programs: the first is the same for all optimizers, and compiled once.
    params = jax.jit(init_params, out_shardings=shardings.params)(jax.random.key(seed))
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    # Three scalars of their own: the step's state is donated, so none may stand in it twice.
    step, made, skipped = (
        jax.device_put(np.int32(value), shardings.step) for value in (0, seed, 0)
    )
    return TrainState(step, made, skipped, params, opt_state)
