"""Optimizers and schedules: Adam as BERT was trained with, linear warm-up and decay."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.partition import path_name

# Parameters that weight decay leaves alone: layer norms and biases (2018 code, optimization.py).
NO_DECAY = r"(norm/scale|bias)$"


class _Moments(NamedTuple):
    mean: Any
    square: Any


def scale_by_adam_2018(
    b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-6
) -> optax.GradientTransformation:
    """Adam without bias correction, as in the 2018 code: m / (sqrt(v) + epsilon).

    optax's own Adam always corrects, which makes the first steps larger.
    """

    def init(params: Any) -> _Moments:
        return _Moments(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(gradients: Any, state: _Moments, params: Any = None) -> tuple[Any, _Moments]:
        del params
        mean = optax.tree.update_moment(gradients, state.mean, b1, 1)
        square = optax.tree.update_moment(gradients, state.square, b2, 2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mean, square)
        return updates, _Moments(mean, square)

    return optax.GradientTransformation(init, update)


def linear_schedule(peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Linear from 0 to `peak` over warmup_steps, then linear to 0 at total_steps (appendix A.2).

    Step i (from 0) uses the rate of i + 1 during warm-up, so the first step is not lost.
    """
    warmup = optax.linear_schedule(peak / max(warmup_steps, 1), peak, max(warmup_steps - 1, 1))
    decay = optax.linear_schedule(peak, 0.0, max(total_steps - warmup_steps, 1))
    return optax.join_schedules([warmup, decay], [warmup_steps])


def decay_mask(params: Any) -> Any:
    """True where weight decay applies."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not re.search(NO_DECAY, path_name(path)), params
    )


def adam_2018(
    schedule: optax.Schedule, *, weight_decay: float = 0.01, clip_norm: float = 1.0
) -> optax.GradientTransformation:
    """Clip by the global norm, Adam without correction, decoupled decay, schedule.

    Source: google-research/bert's AdamWeightDecayOptimizer and create_optimizer; paper,
    appendix A.2.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        scale_by_adam_2018(),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(schedule),
    )
