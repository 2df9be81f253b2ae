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
from bertjax.models.masked_lm import PretrainingModel
from bertjax.optimizer import LinearSchedule, adamw, scale_by_depth

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
    found = _ours(params, gradients, adamw(LinearSchedule(0.01, 2, 6)))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6, err_msg=name)


def test_the_first_update_is_not_corrected_for_bias(params: Flat) -> None:
    """m / sqrt(v) of the first step is 0.1 / sqrt(0.001) = 3.16 and not 1 (decay left out)."""
    gradients = _gradients(params, 1, 1e-3)
    found = _ours(params, gradients, adamw(LinearSchedule(1.0, 0, 100), weight_decay=0.0))
    name = "encoder/layer_0/attention/query/kernel"
    moved = np.median(np.abs(np.asarray(found[name]) - params[name]))
    assert moved == pytest.approx(0.1 / np.sqrt(0.001), rel=0.1)


def test_decay_is_decoupled_and_leaves_norms_and_biases_alone(params: Flat) -> None:
    """Without a gradient, what moves is rate * 0.01 * value, and only of kernels and tables."""
    nothing = [{name: np.zeros_like(value) for name, value in params.items()}]
    found = _ours(params, nothing, adamw(LinearSchedule(0.5, 0, 100)))
    for name, value in params.items():
        shrunk = value * (1 - 0.5 * 0.01) if name.endswith(("kernel", "embedding")) else value
        np.testing.assert_allclose(found[name], shrunk, rtol=1e-6, err_msg=name)


def test_with_correction_it_is_adamw(params: Flat) -> None:
    """Against optax's own AdamW, which corrects as Kingma and Ba do."""
    gradients = _gradients(params, 3, 1e-4)
    schedule = LinearSchedule(0.01, 0, 100)
    theirs = optax.adamw(schedule.rate, eps=1e-6, weight_decay=0.0)
    expected = _ours(params, gradients, theirs)
    found = _ours(params, gradients, adamw(schedule, weight_decay=0.0, bias_correction=True))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_every_layer_below_learns_by_the_factor_slower(params: Flat) -> None:
    ones = {name: np.ones_like(value) for name, value in params.items()}
    updates, _ = scale_by_depth(0.5).update(
        traverse_util.unflatten_dict(ones, sep="/"), optax.EmptyState()
    )
    factors = {
        name: float(np.ravel(value)[0])
        for name, value in traverse_util.flatten_dict(updates, sep="/").items()
    }
    for name, factor in factors.items():
        expected = {"encoder/layer_1": 0.5, "encoder/layer_0": 0.25, "encoder/embeddings": 0.125}
        part = "/".join(name.split("/")[:2])
        assert factor == expected.get(part, 1.0), name


def test_a_frozen_encoder_does_not_even_decay(params: Flat) -> None:
    step = {
        name: np.full_like(value, 0.0 if name.startswith("encoder") else 0.1)
        for name, value in params.items()
    }
    found = _ours(params, [step], adamw(LinearSchedule(0.1, 0, 10), frozen="encoder"))
    for name, value in params.items():
        assert np.array_equal(found[name], value) == name.startswith("encoder"), name


def test_schedule_rises_to_the_peak_and_falls_to_zero() -> None:
    schedule = LinearSchedule(1e-4, warmup_steps=10, total_steps=110)
    rates = [float(schedule.rate(np.int32(step))) for step in range(111)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[4] == pytest.approx(5e-5)
    assert rates[9] == pytest.approx(rates[10]) == pytest.approx(max(rates)) == pytest.approx(1e-4)
    assert rates[60] == pytest.approx(5e-5)
    assert rates[109] == pytest.approx(1e-6, rel=1e-5)
    assert rates[110] == 0.0
    assert float(schedule.rate(np.int32(1000))) == 0.0


@pytest.mark.parametrize("warmup", [0, 1])
def test_schedule_without_warm_up_begins_at_the_peak(warmup: int) -> None:
    assert float(LinearSchedule(1e-4, warmup, 100).rate(np.int32(0))) == pytest.approx(1e-4)


def test_runs_with_other_rates_share_one_program(params: Flat) -> None:
    """The numbers of the schedule are data: the update is traced and compiled once."""
    tree = traverse_util.unflatten_dict(params, sep="/")
    traced = []

    @jax.jit
    def update(gradients: Any, state: Any) -> Any:
        traced.append(1)
        return adamw(LinearSchedule(0, 0, 0)).update(gradients, state, tree)[0]

    moved = [
        np.abs(jax.tree.leaves(update(tree, adamw(LinearSchedule(rate, 0, 10)).init(tree)))[0])
        for rate in (0.1, 0.2)
    ]
    assert len(traced) == 1
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-5)
