"""Optimizers and schedules: Adam as BERT was trained with, linear warm-up and decay."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bertjax.partition import path_name

# Parameters that weight decay leaves alone: layer norms and biases (2018 code, optimization.py).
NO_DECAY = r"(norm/scale|bias)$"
_LAYER = re.compile(r"encoder/layer_(\d+)/")
_EMBEDDINGS = re.compile(r"encoder/embeddings/")


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


class LinearSchedule(NamedTuple):
    """Linear from 0 to `peak` over warmup_steps, then linear to 0 at total_steps (appendix A.2).

    Step i (from 0) uses the rate of i + 1 during warm-up, so the first step is not lost.
    """

    peak: float | Array
    warmup_steps: int | Array
    total_steps: int | Array

    def rate(self, step: Array) -> Array:
        rising = self.peak * (step + 1) / jnp.maximum(self.warmup_steps, 1)
        left = self.total_steps - step
        falling = self.peak * left / jnp.maximum(self.total_steps - self.warmup_steps, 1)
        return jnp.where(step < self.warmup_steps, rising, jnp.maximum(falling, 0.0))


class _Scheduled(NamedTuple):
    step: Array
    schedule: LinearSchedule


def scale_by_schedule(schedule: LinearSchedule) -> optax.GradientTransformation:
    """Multiplies updates by minus the rate.

    Unlike in optax, the schedule's numbers are part of the state and not of the program, so that
    runs which differ only in them share one compiled step.
    """

    def init(params: Any) -> _Scheduled:
        del params
        numbers = LinearSchedule(*(jnp.asarray(value, jnp.float32) for value in schedule))
        return _Scheduled(jnp.zeros((), jnp.int32), numbers)

    def update(updates: Any, state: _Scheduled, params: Any = None) -> tuple[Any, _Scheduled]:
        del params
        rate = state.schedule.rate(state.step)
        scaled = jax.tree.map(lambda u: -rate * u, updates)
        return scaled, _Scheduled(state.step + 1, state.schedule)

    return optax.GradientTransformation(init, update)


def decay_mask(params: Any) -> Any:
    """True where weight decay applies."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not re.search(NO_DECAY, path_name(path)), params
    )


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Layer-wise rates: 1 for heads and pooler, `decay` times less for every layer below.

    The top layer has decay ** 1 and the embeddings decay ** (L + 1) (Howard and Ruder 2018; as
    for ELECTRA, Clark et al. 2020, appendix B).
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, Any]:
        del params
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)]
        layers = 1 + max(int(found[1]) for name in names if (found := _LAYER.search(name)))

        def scaled(path: tuple[Any, ...], leaf: Array) -> Array:
            name = path_name(path)
            found = _LAYER.search(name)
            if found:
                return leaf * decay ** (layers - int(found[1]))
            return leaf * decay ** (layers + 1) if _EMBEDDINGS.search(name) else leaf

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def adamw(
    schedule: LinearSchedule,
    *,
    weight_decay: float = 0.01,
    clip_norm: float = 1.0,
    bias_correction: bool = False,
    layer_decay: float = 1.0,
    frozen: str = "",
) -> optax.GradientTransformation:
    """Clip by the global norm, Adam, decoupled decay, schedule; the defaults are those of 2018.

    Source: google-research/bert's AdamWeightDecayOptimizer and create_optimizer; paper,
    appendix A.2.

    Args:
      bias_correction: as Kingma and Ba 2015 (and PyTorch's AdamW), not as the 2018 code.
      layer_decay: see scale_by_depth; 1 gives all layers the same rate.
      frozen: the part of the tree that stays as it is ("encoder"); it must have no gradients.
    """
    adam = optax.scale_by_adam(eps=1e-6) if bias_correction else scale_by_adam_2018()
    parts = [
        optax.clip_by_global_norm(clip_norm),
        adam,
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        *([] if layer_decay == 1.0 else [scale_by_depth(layer_decay)]),
        scale_by_schedule(schedule),
    ]
    chain = optax.chain(*parts)
    if not frozen:
        return chain
    return optax.masked(chain, lambda params: {part: part != frozen for part in params})
