"""An update that is not finite changes nothing; norms are measured by group, when asked for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import partition, programs
from bertjax.models import masked_lm, objectives
from bertjax.models.config import BertConfig
from bertjax.models.masked_lm import PretrainingModel
from bertjax.models.objectives import Objective
from bertjax.runs.state import TrainState, init_state
from bertjax.training import norms, optimizer, schedules
from bertjax.training import train_step as steps
from bertjax.training.train_step import TrainStep, make_train_step

TX = optimizer.make_optimizer("adam2018", schedules.linear(1e-3, 2, 10))
GROUPS = ("embeddings", "layers", "heads")


@pytest.fixture(scope="module")
def objective(tiny_config: BertConfig) -> Objective:
    """The pretraining loss, times a factor that may make it, or its gradient only, infinite."""
    plain = masked_lm.objective(PretrainingModel(tiny_config))

    def sums(params: Any, batch: Any, key: Any) -> objectives.Sums:
        found = plain.sums(params, batch, key)
        return jax.tree.map(lambda value: value * batch["factor"], found)

    return Objective(plain.counts, sums)


@pytest.fixture(scope="module")
def train_step(objective: Objective) -> TrainStep:
    return make_train_step(objective, TX, norms_every=2)


@pytest.fixture()
def state(tiny_config: BertConfig) -> TrainState:
    model = PretrainingModel(tiny_config)

    def init(key: jax.Array) -> Any:
        ids = np.zeros((1, 8), np.int32)
        return model.init(key, ids, ids, ids, ids[:, :2])["params"]

    return init_state(init, TX, partition.make_mesh(), seed=0)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("factor", [np.nan, np.inf, 1e25])
def test_an_update_that_is_not_finite_is_left_out(
    factor: float, state: TrainState, train_step: TrainStep, tiny_batch: dict[str, np.ndarray]
) -> None:
    good = {**tiny_batch, "factor": np.float32(1)}
    state, metrics = train_step(state, good)
    assert int(metrics["skipped_updates"]) == 0
    before = bits((state.params, state.opt_state))
    # With 1e25 the loss is finite, and the square of the gradient's norm is not.
    state, metrics = train_step(state, {**tiny_batch, "factor": np.float32(factor)})
    assert np.isfinite(metrics["loss"]) == (factor == 1e25)
    assert int(metrics["skipped_updates"]) == int(state.skipped) == 1
    assert int(state.step) == 2
    assert bits((state.params, state.opt_state)) == before
    state, metrics = train_step(state, good)
    assert int(state.skipped) == 1
    assert np.isfinite(metrics["loss"])
    assert bits(state.params) != before[: len(jax.tree.leaves(state.params))]


def test_norms_by_group_are_those_of_gradient_and_update(
    state: TrainState,
    train_step: TrainStep,
    objective: Objective,
    tiny_batch: dict[str, np.ndarray],
) -> None:
    batch: Any = {**tiny_batch, "factor": np.float32(1)}
    state, metrics = train_step(state, batch)
    names = [f"{what}_norm/{group}" for what in ("gradient", "update") for group in GROUPS]
    assert all(np.isnan(metrics[name]) for name in names)
    before = jax.device_get(state.params)
    state, metrics = train_step(state, batch)
    assert all(metrics[name] > 0 for name in names)
    squares = sum(float(metrics[f"gradient_norm/{group}"]) ** 2 for group in GROUPS)
    assert np.sqrt(squares) == pytest.approx(float(metrics["gradient_norm"]), rel=1e-5)
    moved = jax.tree.map(lambda new, old: new - old, jax.device_get(state.params), before)
    for group, norm in norms.by_group(moved).items():
        assert float(metrics[f"update_norm/{group}"]) == pytest.approx(float(norm), rel=1e-3)


def test_every_parameter_has_its_group() -> None:
    leaf = np.float32(2)
    tree = {
        "encoder": {
            "embeddings": {"token": {"embedding": leaf}},
            "layer_0": {"attention": {"query": {"kernel": leaf, "bias": leaf}}},
            "pooler": {"kernel": leaf},
        },
        "masked_lm": {"bias": leaf},
        "head": {"kernel": leaf},
    }
    found = {group: float(norm) ** 2 for group, norm in norms.by_group(tree).items()}
    assert found == pytest.approx({"embeddings": 4, "layers": 8, "heads": 12})


def test_choices_of_an_example_stay_together() -> None:
    batch = {"input_ids": jnp.arange(24).reshape(12, 2), "labels": jnp.arange(4)}
    parts = steps._microbatches(batch, 2)
    # Three rows an example: those of 0 and 2, then of 1 and 3.
    assert parts["input_ids"][:, :, 0].tolist() == [[0, 2, 4, 12, 14, 16], [6, 8, 10, 18, 20, 22]]
    assert parts["labels"].tolist() == [[0, 2], [1, 3]]


def test_a_device_takes_its_share_of_a_batch_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(rows: int, length: int) -> int:
        return steps._suitable({"input_ids": np.zeros((rows, length))}, 8192)

    assert [parts(32, 128), parts(256, 128), parts(32, 384), parts(3, 4096)] == [1, 8, 4, 1]
    monkeypatch.setattr(programs, "platform", lambda: "gpu")
    assert parts(256, 128) == 1
    monkeypatch.setattr(programs, "platform", lambda: "tpu")
    # 64 rows at once, as few parts as will do, and parts of equal rows.
    assert [parts(64, 128), parts(256, 128), parts(24, 512), parts(51, 512)] == [1, 4, 2, 1]
    mesh = partition.make_mesh(data=2, fsdp=2, tensor=2)
    assert programs.knowing(mesh, parts)(256, 128) == 1
