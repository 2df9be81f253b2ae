"""Optimizers, against their formulas written out in NumPy, and against PyTorch's and optax's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from flax import traverse_util

from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.masked_lm import PretrainingModel
from bertjax.training.optimizer import MATRICES, OPTIMIZERS, make_optimizer, scale_by_depth
from bertjax.training.schedules import Schedule, linear

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
    rates = [0.005, 0.01, 0.01 * 4 / 6, 0.01 * 3 / 6, 0.01 * 2 / 6]
    expected = _transcription(params, gradients, rates)
    found = _ours(params, gradients, make_optimizer("adam2018", linear(0.01, 2, 6)))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6, err_msg=name)


def test_the_first_update_is_not_corrected_for_bias(params: Flat) -> None:
    """m / sqrt(v) of the first step is 0.1 / sqrt(0.001) = 3.16 and not 1 (decay left out)."""
    gradients = _gradients(params, 1, 1e-3)
    schedule = linear(1.0, 0, 100)
    found = _ours(params, gradients, make_optimizer("adam2018", schedule, weight_decay=0.0))
    name = "encoder/layer_0/attention/query/kernel"
    moved = np.median(np.abs(np.asarray(found[name]) - params[name]))
    assert moved == pytest.approx(0.1 / np.sqrt(0.001), rel=0.1)


def test_decay_is_decoupled_and_leaves_norms_and_biases_alone(params: Flat) -> None:
    """Without a gradient, what moves is rate * 0.01 * value, and only of kernels and tables."""
    nothing = [{name: np.zeros_like(value) for name, value in params.items()}]
    found = _ours(params, nothing, make_optimizer("adam2018", linear(0.5, 0, 100)))
    for name, value in params.items():
        shrunk = value * (1 - 0.5 * 0.01) if name.endswith(("kernel", "embedding")) else value
        np.testing.assert_allclose(found[name], shrunk, rtol=1e-6, err_msg=name)


def test_adamw_is_pytorchs(params: Flat) -> None:
    """Also its decay, where it applies."""
    gradients = _gradients(params, 4, 1e-4)
    kernels = {name: value for name, value in params.items() if _decays(name)}
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in kernels.items()}
    adamw = torch.optim.AdamW(theirs.values(), lr=0.01, eps=1e-6, weight_decay=0.1)
    for step in gradients:
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(step[name])
        adamw.step()
    # All but at its peak: PyTorch is given no schedule.
    found = _ours(
        params, gradients, make_optimizer("adamw", linear(0.01, 0, 10**9), weight_decay=0.1)
    )
    for name, parameter in theirs.items():
        np.testing.assert_allclose(
            found[name], parameter.detach().numpy(), rtol=0, atol=2e-6, err_msg=name
        )


def _lamb(params: Flat, gradients: list[Flat], rate: float) -> Flat:
    """You et al. 2020, algorithm 2, with phi(z) = z, tensor by tensor in float64."""
    values = {name: value.astype(np.float64) for name, value in params.items()}
    m = {name: np.zeros_like(value) for name, value in values.items()}
    v = {name: np.zeros_like(value) for name, value in values.items()}
    for t, step in enumerate(gradients, 1):
        for name, g in step.items():
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * np.square(g.astype(np.float64))
            update = m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-6)
            if _decays(name):
                update = update + 0.01 * values[name]
                update *= np.linalg.norm(values[name]) / np.linalg.norm(update)
            values[name] = values[name] - rate * update
    return values


def test_lamb_is_the_algorithm_of_the_paper(params: Flat) -> None:
    gradients = _gradients(params, 4, 1e-4)
    expected = _lamb(params, gradients, 0.01)
    found = _ours(params, gradients, make_optimizer("lamb", linear(0.01, 0, 10**9)))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6, err_msg=name)


def test_lamb_is_optaxs_where_decay_applies(params: Flat) -> None:
    gradients = _gradients(params, 3, 1e-4)
    schedule = linear(0.01, 2, 10)
    expected = _ours(params, gradients, optax.lamb(schedule.rate, weight_decay=0.01))
    found = _ours(params, gradients, make_optimizer("lamb", schedule))
    for name in filter(_decays, expected):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-6, err_msg=name)


def test_lambs_step_has_the_norm_of_the_tensor(params: Flat) -> None:
    """Whatever the size of the gradients: that is what lets the batch grow."""
    step = _gradients(params, 1, 1e-5)
    found = _ours(params, step, make_optimizer("lamb", linear(0.01, 0, 10**9)))
    for name in filter(_decays, params):
        moved = np.linalg.norm(found[name] - params[name])
        assert moved == pytest.approx(0.01 * np.linalg.norm(params[name]), rel=1e-4)


def _orthogonal(gradient: np.ndarray) -> np.ndarray:
    """Jordan et al. 2024: five steps of a polynomial bring all singular values near 1."""
    left, singular, right = np.linalg.svd(gradient.astype(np.float64), full_matrices=False)
    singular = singular / np.linalg.norm(singular)
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return left * singular @ right


def test_muon_moves_matrices_by_orthogonal_ones_and_the_rest_as_adamw(params: Flat) -> None:
    (step,) = _gradients(params, 1, 1e-4)
    schedule = linear(0.01, 0, 10**9)
    muon = _ours(params, [step], make_optimizer("muon", schedule, weight_decay=0.0))
    adamw = _ours(params, [step], make_optimizer("adamw", schedule, weight_decay=0.0))
    orthogonal = 0
    for name, value in params.items():
        if re.search(MATRICES, name):
            orthogonal += 1
            # Scaled to the size of Adam's updates: 0.2 sqrt(the longer side).
            size = 0.01 * 0.2 * np.sqrt(max(value.shape))
            expected = value - size * _orthogonal(step[name])
            np.testing.assert_allclose(muon[name], expected, rtol=0, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(muon[name], adamw[name], err_msg=name)
    # Query, key, value, output and two of the feed-forward part, in two layers.
    assert orthogonal == 12


def test_muon_takes_each_direction_and_gate_of_an_lstm_for_a_matrix_of_its_own() -> None:
    shapes = {"input_kernel": (2, 6, 4, 5), "projection_kernel": (2, 5, 6)}
    rng = np.random.default_rng(4)
    layer = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    found = make_optimizer("muon", linear(0.01, 0, 10**9), weight_decay=0.0, clip_norm=math.inf)
    tree = {"encoder": {"layer_0": layer}}
    updates, _ = found.update(tree, found.init(tree), tree)
    moved = updates["encoder"]["layer_0"]
    size = 0.01 * 0.2 * np.sqrt(6)
    for direction in range(2):
        for gate in range(4):
            place = np.s_[direction, :, gate]
            expected = -size * _orthogonal(layer["input_kernel"][place])
            np.testing.assert_allclose(moved["input_kernel"][place], expected, atol=1e-5)
        expected = -size * _orthogonal(layer["projection_kernel"][direction])
        np.testing.assert_allclose(moved["projection_kernel"][direction], expected, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_and_keeps_its_moments_as_told(name: str) -> None:
    """A quadratic bowl, from 1 to near its bottom, also with moments in bfloat16."""
    start = {
        "encoder/layer_0/kernel": np.eye(8, dtype=np.float32),
        "norm/bias": np.ones(8, np.float32),
    }
    tree = traverse_util.unflatten_dict(start, sep="/")
    for dtype in ("float32", "bfloat16"):
        optimizer = make_optimizer(name, linear(0.05, 0, 200), moment_dtype=dtype)
        values, opt_state = tree, optimizer.init(tree)
        update = jax.jit(optimizer.update)
        for _ in range(200):
            updates, opt_state = update(values, opt_state, values)
            values = optax.apply_updates(values, updates)
        assert all(np.abs(leaf).max() < 0.2 for leaf in jax.tree.leaves(values)), dtype
        moments = [leaf for leaf in jax.tree.leaves(opt_state) if leaf.shape in ((8, 8), (8,))]
        assert moments
        assert {leaf.dtype.name for leaf in moments} == {dtype}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "sgd"}, "train.optimizer=sgd: choose one of adam2018, adamw, lamb, muon"),
        ({"moment_dtype": "int8"}, "train.moment_dtype=int8: choose one of float32, bfloat16"),
        ({"schedule": Schedule("flat", ())}, "train.schedule=flat: choose one of linear, cosine"),
        ({"clip_norm": 0.0}, "train.clip_norm=0: give a number above 0; inf clips nothing"),
        ({"weight_decay": math.nan}, "train.weight_decay=nan: give 0 or more"),
    ],
)
def test_what_makes_no_optimizer_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_optimizer(**({"name": "adamw", "schedule": linear(0.1, 0, 1)} | wrong))


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
    found = _ours(params, [step], make_optimizer("adam2018", linear(0.1, 0, 10), frozen="encoder"))
    for name, value in params.items():
        assert np.array_equal(found[name], value) == name.startswith("encoder"), name
