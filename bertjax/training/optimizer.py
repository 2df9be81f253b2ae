"""Optimizers by name: clip, a direction, decoupled decay, and the rate of a schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax import Array

from bertjax.errors import UserError
from bertjax.partition import path_name
from bertjax.settings import choose
from bertjax.training.moments import DTYPES, scale_by_adam
from bertjax.training.schedules import SCHEDULES, Schedule, scale_by_schedule

# Parameters that weight decay leaves alone: layer norms and biases (2018 code, optimization.py).
NO_DECAY = r"(norm/scale|bias)$"
# The matrices that Muon makes orthogonal: those of the layers.
MATRICES = r"encoder/layer_\d+/.*kernel$"
_LAYER = re.compile(r"encoder/layer_(\d+)/")
_EMBEDDINGS = re.compile(r"encoder/embeddings/")


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


def _muon(dtype: Any) -> optax.GradientTransformation:
    """Muon for the layers' matrices, Adam for everything else (Jordan et al. 2024).

    Updates are scaled to the size of Adam's, so that its rates and decay do for both (Liu et al.
    2025, "Muon is scalable for LLM training").
    """

    def kinds(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "muon" if re.search(MATRICES, path_name(path)) else "adam", params
        )

    def shapes(params: Any) -> Any:
        return jax.tree.map(lambda leaf: _matrix(leaf.ndim), params)

    def scaled(update: Array, _: Any) -> Array:
        side = max(update.shape[axis] for axis in _matrix(update.ndim))
        return 0.2 * math.sqrt(side) * update

    muon = optax.chain(
        optax.contrib.scale_by_muon(mu_dtype=dtype, weight_dimension_numbers=shapes),
        optax.stateless_with_tree_map(scaled),
    )
    adam = scale_by_adam(correct=True, dtype=dtype)
    return optax.partition({"muon": muon, "adam": adam}, kinds)


def _matrix(ndim: int) -> optax.contrib.MuonDimensionNumbers:
    """Which axes of a kernel are a matrix, in and out; of the others each place has one of its own.

    BERT's have two axes; LSTMs' are [2, in, out], or [2, in, gate, out]: see models.lstm.
    """
    return optax.contrib.MuonDimensionNumbers(min(1, ndim - 2), ndim - 1)


class Optimizer(NamedTuple):
    """What sets an optimizer apart.

    Attributes:
      direction: dtype of its moments -> gradients to directions.
      finish: what comes behind the decay.
    """

    direction: Callable[[Any], optax.GradientTransformation]
    finish: optax.GradientTransformation = optax.identity()


OPTIMIZERS: dict[str, Optimizer] = {
    # AdamWeightDecayOptimizer of google-research/bert, which corrects no bias.
    "adam2018": Optimizer(lambda dtype: scale_by_adam(correct=False, dtype=dtype)),
    # Loshchilov and Hutter 2019, as in PyTorch.
    "adamw": Optimizer(lambda dtype: scale_by_adam(correct=True, dtype=dtype)),
    # You et al. 2020, algorithm 2: every tensor's update has the norm of the tensor. Those without
    # decay are left out, as in TensorFlow's and NVIDIA's.
    "lamb": Optimizer(
        lambda dtype: scale_by_adam(correct=True, dtype=dtype),
        optax.masked(optax.scale_by_trust_ratio(), decay_mask),
    ),
    "muon": Optimizer(_muon),
}


def make_optimizer(
    name: str,
    schedule: Schedule,
    *,
    weight_decay: float = 0.01,
    clip_norm: float = 1.0,
    moment_dtype: str = "float32",
    layer_decay: float = 1.0,
    frozen: str = "",
) -> optax.GradientTransformation:
    """Clip by the global norm, direction, decoupled decay, schedule.

    With "adam2018" and the other defaults it is what BERT was trained with (google-research/bert's
    create_optimizer; paper, appendix A.2).

    Args:
      name: a key of OPTIMIZERS.
      moment_dtype: a key of moments.DTYPES; see moments.scale_by_adam.
      layer_decay: see scale_by_depth; 1 gives all layers the same rate.
      frozen: the part of the tree that stays as it is ("encoder"); it must have no gradients.

    Raises:
      UserError: an unknown name, of the optimizer, the schedule or the type; a norm or decay that
        is none.
    """
    chosen = choose(OPTIMIZERS, name, "train.optimizer")
    choose(SCHEDULES, schedule.name, "train.schedule")
    dtype = choose(DTYPES, moment_dtype, "train.moment_dtype")
    if not clip_norm > 0:
        raise UserError(f"train.clip_norm={clip_norm:g}: give a number above 0; inf clips nothing")
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"train.weight_decay={weight_decay:g}: give 0 or more")
    parts = [
        optax.clip_by_global_norm(clip_norm),
        chosen.direction(dtype),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        chosen.finish,
        *([] if layer_decay == 1.0 else [scale_by_depth(layer_decay)]),
        scale_by_schedule(schedule),
    ]
    chain = optax.chain(*parts)
    if not frozen:
        return chain
    return optax.masked(chain, lambda params: {part: part != frozen for part in params})
