"""The optimizer of 2018, against its formulas written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

from bertjax.models.config import BertConfig
from bertjax.models.heads import PretrainingModel
from bertjax.optimizer import adam_2018, linear_schedule

Flat = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def params(tiny_config: BertConfig, random_params: Callable[..., Any]) -> Flat:
    return traverse_util.flatten_dict(random_params(PretrainingModel(tiny_config)), sep="/")


def _gradients(params: Flat, steps: int, scale: float) -> list[Flat]:
    rng = np.random.default_rng(1)
    return [
        {
            name: rng.normal(0, scale, value.shape).astype(np.float32)
            for name, value in params.items()
        }
        for _ in range(steps)
    ]


def _decays(name: str) -> bool:
    """2018: all but "LayerNorm", "layer_norm" and "bias"; both of a norm's parameters are out."""
    *modules, leaf = name.split("/")
    return leaf != "bias" and not modules[-1].endswith("norm")


def _transcription(params: Flat, gradients: list[Flat], rates: list[float]) -> Flat:
    """clip_by_global_norm(1.0), then AdamWeightDecayOptimizer.apply_gradients, in float64."""
    values = {name: value.astype(np.float64) for name, value in params.items()}
    m = {name: np.zeros_like(value) for name, value in values.items()}
    v = {name: np.zeros_like(value) for name, value in values.items()}
    for step, rate in zip(gradients, rates, strict=True):
        norm = np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in step.values()))
        for name, gradient in step.items():
            g = gradient * min(1.0, 1.0 / norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g * g
            update = m[name] / (np.sqrt(v[name]) + 1e-6)
            if _decays(name):
                update = update + 0.01 * values[name]
            values[name] = values[name] - rate * update
    return values


def _ours(params: Flat, gradients: list[Flat], optimizer: optax.GradientTransformation) -> Flat:
    tree = traverse_util.unflatten_dict(params, sep="/")
    opt_state = optimizer.init(tree)
    for step in gradients:
        given = traverse_util.unflatten_dict(step, sep="/")
        updates, opt_state = jax.jit(optimizer.update)(given, opt_state, tree)
        tree = optax.apply_updates(tree, updates)
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize("scale", [1e-4, 1.0], ids=["below the clip", "clipped"])
def test_five_steps_equal_the_formulas_of_2018(params: Flat, scale: float) -> None:
    gradients = _gradients(params, 5, scale)
    norm = np.sqrt(sum(np.square(g).sum() for g in gradients[0].values()))
    assert (norm > 1) == (scale == 1.0)
    rates = [0.005, 0.01, 0.01, 0.0075, 0.005]
    expected = _transcription(params, gradients, rates)
    found = _ours(params, gradients, adam_2018(linear_schedule(0.01, 2, 6)))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6, err_msg=name)


def test_the_first_update_is_not_corrected_for_bias(params: Flat) -> None:
    """m / sqrt(v) of the first step is 0.1 / sqrt(0.001) = 3.16 and not 1 (decay left out)."""
    gradients = _gradients(params, 1, 1e-3)
    found = _ours(params, gradients, adam_2018(optax.constant_schedule(1.0), weight_decay=0.0))
    name = "encoder/layer_0/attention/query/kernel"
    moved = np.median(np.abs(np.asarray(found[name]) - params[name]))
    assert moved == pytest.approx(0.1 / np.sqrt(0.001), rel=0.1)


def test_decay_is_decoupled_and_leaves_norms_and_biases_alone(params: Flat) -> None:
    """Without a gradient, what moves is rate * 0.01 * value, and only of kernels and tables."""
    nothing = [{name: np.zeros_like(value) for name, value in params.items()}]
    found = _ours(params, nothing, adam_2018(optax.constant_schedule(0.5)))
    for name, value in params.items():
        shrunk = value * (1 - 0.5 * 0.01) if name.endswith(("kernel", "embedding")) else value
        np.testing.assert_allclose(found[name], shrunk, rtol=1e-6, err_msg=name)


def test_schedule_rises_to_the_peak_and_falls_to_zero() -> None:
    schedule = linear_schedule(1e-4, warmup_steps=10, total_steps=110)
    rates = [float(schedule(step)) for step in range(111)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[4] == pytest.approx(5e-5)
    assert rates[9] == rates[10] == max(rates) == pytest.approx(1e-4)
    assert rates[60] == pytest.approx(5e-5)
    assert rates[109] == pytest.approx(1e-6, rel=1e-5)
    assert rates[110] == 0.0
    assert float(schedule(1000)) == 0.0


@pytest.mark.parametrize("warmup", [0, 1])
def test_schedule_without_warm_up_begins_at_the_peak(warmup: int) -> None:
    assert float(linear_schedule(1e-4, warmup, 100)(0)) == pytest.approx(1e-4)
