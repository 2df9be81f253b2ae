"""Twenty updates with the optimizer of 2018 end in the same parameters, whatever the mesh."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from bertjax import partition, shares
from bertjax.models import encoders, masked_lm
from bertjax.models.config import BertConfig
from bertjax.runs import state
from bertjax.training import optimizer, schedules, train_step
from bertjax.training.program import init_function

Batch = dict[str, np.ndarray]
MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 4, "tensor": 2},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
    "data and fsdp": {"data": 2, "fsdp": 4},
}


def packed(batch: Batch) -> Batch:
    """The same rows, each holding two sequences of their own, cut where the segments meet."""
    length = batch["input_ids"].shape[1]
    place = np.arange(length)
    cut = batch["input_mask"].sum(axis=1, keepdims=True) // 2
    second = place >= cut
    present = batch["input_mask"] > 0
    labels = batch["next_sentence_labels"]
    return batch | {
        "input_mask": np.where(present, 1 + second, 0).astype(np.int32),
        "segment_ids": (present & (place % 3 == 0)).astype(np.int32),
        "position_ids": np.where(second, place - cut, place).astype(np.int32),
        "starts": np.concatenate([np.zeros_like(cut), cut], axis=1).astype(np.int32),
        "next_sentence_labels": np.concatenate([labels, 1 - labels], axis=1),
        "next_sentence_weights": np.ones((len(labels), 2), np.float32),
    }


def assert_lies(leaf: jax.Array, sharding: jax.sharding.NamedSharding) -> None:
    assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def trained(
    config: BertConfig, batch: Batch, mesh: Mesh, microbatches: int = 1
) -> tuple[np.ndarray, Any]:
    """[20] losses, and the parameters after them; every step has other rows."""
    model = masked_lm.PretrainingModel(config)
    tx = optimizer.make_optimizer("adam2018", schedules.linear(1e-3, 5, 30))
    init = init_function(model, encoders.MASKED_LM.inputs)
    now = state.init_state(init, tx, mesh, seed=1)
    objective = masked_lm.objective(model)
    step = train_step.make_train_step(objective, tx, microbatches=microbatches, mesh=mesh)
    losses = []
    for number in range(20):
        rows = np.random.default_rng(number).permutation(len(batch["input_ids"]))[:16]
        chosen = {name: value[rows] for name, value in batch.items()}
        now, metrics = step(now, shares.global_batch(chosen, mesh))
        losses.append(metrics["loss"])
    # Laid out in another way it would be compiled for once more.
    jax.tree.map(assert_lies, now, partition.tree_shardings(now, mesh))
    return np.array(jax.device_get(losses)), jax.device_get(now.params)


@pytest.fixture(scope="module")
def single(tiny_config: BertConfig, tiny_batch: Batch) -> Callable[[str], Any]:
    """kind of rows -> (config, batch, what one device ends with); each is trained once."""

    @functools.cache
    def found(kind: str) -> Any:
        rate = 0.1 if "dropout" in kind else 0.0
        config = dataclasses.replace(
            tiny_config, num_layers=1, hidden_dropout=rate, attention_dropout=rate
        )
        batch = packed(tiny_batch) if "packed" in kind else tiny_batch
        return config, batch, trained(config, batch, partition.make_mesh(devices=jax.devices()[:1]))

    return found


@pytest.mark.parametrize(
    ("kind", "mesh", "parts"),
    [
        ("plain", "mixed", 1),
        *(("packed, with dropout", mesh, 1) for mesh in ("data", "fsdp", "tensor", "mixed")),
        # Where nothing is split along `tensor`, every device adds up its own parts.
        ("plain", "data and fsdp", 2),
        ("plain", "data", 2),
    ],
)
def test_eight_devices_end_where_one_does(
    kind: str, mesh: str, parts: int, single: Callable[[str], Any]
) -> None:
    config, batch, (losses, params) = single(kind)
    # It has learnt something, so that there is something to be equal.
    assert losses[-5:].mean() < losses[:5].mean() - 0.1
    found, others = trained(config, batch, partition.make_mesh(**MESHES[mesh]), parts)
    np.testing.assert_allclose(found, losses, rtol=0, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), others, params)
