"""What heads read of the layers, against the definitions written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.models import features
from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig
from bertjax.models.heads import TaskModel

Batch = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def layers() -> np.ndarray:
    """[L + 1, B, T, D] of an encoder of five layers."""
    return np.random.default_rng(0).normal(size=(6, 2, 3, 4)).astype(np.float32)


def _inputs(batch: Batch, rows: int = 4) -> list[jax.Array]:
    return [jnp.asarray(batch[n][:rows]) for n in ("input_ids", "input_mask", "segment_ids")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("embeddings", lambda h: h[0]),
        ("second_to_last", lambda h: h[4]),
        ("last", lambda h: h[5]),
        ("sum_last4", lambda h: h[2] + h[3] + h[4] + h[5]),
        ("concat_last4", lambda h: np.concatenate([h[2], h[3], h[4], h[5]], axis=-1)),
    ],
)
def test_the_paper_s_rows(name: str, expected: Callable[..., Any], layers: np.ndarray) -> None:
    found = features.FIXED[name](jnp.asarray(layers))
    np.testing.assert_allclose(found, expected(layers), atol=1e-6)


def test_the_mix_is_gamma_times_the_softmax_weighted_sum(layers: np.ndarray) -> None:
    scores = np.array([0.5, -1.0, 2.0, 0.0, 0.3, 1.0], np.float32)
    weights = np.exp(scores) / np.exp(scores).sum()
    expected = 1.7 * sum(weight * layer for weight, layer in zip(weights, layers, strict=True))
    params = {"scores": scores, "gamma": np.float32(1.7)}
    found = features.LayerMix().apply({"params": params}, jnp.asarray(layers))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_mix_starts_as_the_plain_mean(layers: np.ndarray) -> None:
    mix = features.LayerMix()
    found, _ = mix.init_with_output(jax.random.key(0), jnp.asarray(layers))
    np.testing.assert_allclose(found, layers.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("third", 12, "choose one of embeddings"),
        ("sum_last4", 2, "takes 4 layer.*has 2"),
        ("second_to_last", 0, "takes 1 layer.*has 0; choose another"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, layers: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        features.check(name, layers)


# --- In a model -----------------------------------------------------------------------------


def test_a_sequence_on_chosen_layers_is_the_mean_of_its_real_tokens(
    tiny_config: BertConfig, random_params: Callable[..., Any], tiny_batch: Batch
) -> None:
    model = TaskModel(tiny_config, "classification", 3, layers="embeddings")
    params, inputs = random_params(model), _inputs(tiny_batch)
    encoded: Any = Bert(tiny_config).apply({"params": params["encoder"]}, *inputs)
    real = np.asarray(inputs[1])[..., None]
    mean = (np.asarray(encoded.layers[0]) * real).sum(1) / real.sum(1)
    expected = mean @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, *inputs), expected, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_only_a_tuned_encoder_has_gradients(
    frozen: bool, tiny_config: BertConfig, random_params: Callable[..., Any], tiny_batch: Batch
) -> None:
    model = TaskModel(tiny_config, "tagging", 3, layers="mix", frozen=frozen)
    params, inputs = random_params(model), _inputs(tiny_batch)

    def loss(params: Any) -> jax.Array:
        return jnp.square(jnp.asarray(model.apply({"params": params}, *inputs))).sum()

    gradients = jax.grad(loss)(params)
    moved = {
        part: any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))
        for part, tree in gradients.items()
    }
    assert moved == {"encoder": not frozen, "mix": True, "head": True}


def test_a_frozen_encoder_has_no_dropout(
    tiny_config: BertConfig, random_params: Callable[..., Any], tiny_batch: Batch
) -> None:
    """Two keys differ in the head's dropout only: tokens kept by both read the same features."""
    model = TaskModel(tiny_config, "tagging", 32, layers="last", frozen=True)
    params, inputs = random_params(model), _inputs(tiny_batch)
    params["head"] = {"kernel": np.eye(32, dtype=np.float32), "bias": np.zeros(32, np.float32)}
    sure = np.asarray(model.apply({"params": params}, *inputs))
    rngs = {"dropout": jax.random.key(1)}
    dropped = np.asarray(model.apply({"params": params}, *inputs, deterministic=False, rngs=rngs))
    kept = dropped != 0
    assert 0.85 < kept.mean() < 0.95
    np.testing.assert_allclose(dropped[kept], sure[kept] / 0.9, rtol=1e-5)


def test_the_bilstm_reads_both_ways_and_not_the_padding(
    tiny_config: BertConfig, random_params: Callable[..., Any], tiny_batch: Batch
) -> None:
    model = TaskModel(tiny_config, "tagging", 3, layers="embeddings", frozen=True, bilstm=True)
    params = random_params(model)
    ids, mask, segments = _inputs(tiny_batch)
    mask = jnp.zeros_like(mask).at[:, :6].set(1)

    def scores(ids: jax.Array) -> np.ndarray:
        return np.asarray(jax.jit(model.apply)({"params": params}, ids, mask, segments))

    first = scores(ids)
    other_end = scores(ids.at[:, 5].set(7))
    assert np.abs(other_end - first)[:, 0].max() > 1e-6  # backwards from the end
    other_start = scores(ids.at[:, 0].set(7))
    assert np.abs(other_start - first)[:, 5].max() > 1e-6  # forwards from the start
    padded = scores(ids.at[:, 6:].set(7))
    np.testing.assert_allclose(padded[:, :6], first[:, :6], atol=1e-6)
