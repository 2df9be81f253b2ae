"""The encoder and its heads against published sizes and against another implementation."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from bertjax.models import masked_lm
from bertjax.models.bert import Bert
from bertjax.models.config import SIZES, BertConfig, size
from bertjax.models.encoder_output import Packing, of_places
from bertjax.models.heads import TaskModel
from bertjax.models.layers import Dropout, LayerNorm
from bertjax.models.masked_lm import PretrainingModel
from bertjax.weights import convert, model_folder

VOCAB = 30_522  # of bert-*-uncased
Batch = dict[str, np.ndarray]


def _count(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _shapes(name: str) -> Any:
    """Parameter shapes of the pretraining model of a published size, without their memory."""
    sizes: dict[str, Any] = {**size(name)}
    model = PretrainingModel(BertConfig(vocab_size=VOCAB, **sizes))
    row = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), row, row, row, row)["params"]


def _inputs(batch: Batch) -> list[jax.Array]:
    names = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")
    return [jnp.asarray(batch[name]) for name in names]


def _apply(model: Any, params: Any, inputs: list[jax.Array], **more: Any) -> Any:
    return jax.jit(lambda params, inputs: model.apply({"params": params}, *inputs, **more))(
        params, inputs
    )


# --- Sizes ----------------------------------------------------------------------------------


def test_base_has_the_parameters_of_bert_base_uncased() -> None:
    shapes = _shapes("base")
    assert _count(shapes) == 110_106_428
    assert _count(shapes["encoder"]) == 109_482_240


def test_large_has_the_parameters_of_bert_large_uncased() -> None:
    assert _count(_shapes("large")["encoder"]) == 335_141_888


@pytest.mark.parametrize("layers", [2, 4, 6, 8, 10, 12])
@pytest.mark.parametrize("width", [128, 256, 512, 768])
def test_the_24_miniatures_have_the_sizes_of_the_paper(layers: int, width: int) -> None:
    norm, square = 2 * width, width * width + width
    embeddings = (VOCAB + 512 + 2) * width + norm
    feed_forward = 2 * (4 * width * width) + 4 * width + width
    layer = 4 * square + norm + feed_forward + norm
    expected = embeddings + layers * layer + square
    assert _count(_shapes(f"L{layers}_H{width}")["encoder"]) == expected
    assert size(f"L{layers}_H{width}")["num_heads"] * 64 == width


@pytest.mark.parametrize(
    ("name", "whole", "encoder"),
    [("tiny", 4.4, 4.4), ("mini", 11.3, 11.2), ("small", 29.1, 28.8), ("medium", 41.7, 41.4)],
)
def test_named_miniatures_round_to_their_published_millions(
    name: str, whole: float, encoder: float
) -> None:
    shapes = _shapes(name)
    assert round(_count(shapes) / 1e6, 1) == whole
    assert round(_count(shapes["encoder"]) / 1e6, 1) == encoder


def test_sizes_hold_the_24_miniatures_and_their_names() -> None:
    assert sum(name.startswith("L") for name in SIZES) == 24
    assert SIZES["base"] == SIZES["L12_H768"]


# --- Against transformers -------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretraining(tiny_config: BertConfig, random_params: Callable[..., Any]) -> Any:
    return random_params(PretrainingModel(tiny_config))


@pytest.fixture(scope="module")
def reference(tiny_config: BertConfig, pretraining: Any, tiny_batch: Batch) -> dict[str, Any]:
    """transformers' outputs for the same parameters and batch."""
    config = transformers.BertConfig(**model_folder.config_json(tiny_config))
    model = transformers.BertForPreTraining(config).eval()
    tensors = convert.to_foreign(pretraining, tiny_config, "huggingface")
    found = model.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()}, strict=False)
    assert not found.unexpected_keys
    given = {
        "input_ids": torch.tensor(tiny_batch["input_ids"]),
        "attention_mask": torch.tensor(tiny_batch["input_mask"]),
        "token_type_ids": torch.tensor(tiny_batch["segment_ids"]),
    }
    with torch.no_grad():
        heads = model(**given)
        encoded = model.bert(**given, output_hidden_states=True)
    return {
        "masked_lm": heads.prediction_logits.numpy(),
        "next_sentence": heads.seq_relationship_logits.numpy(),
        "sequence": encoded.last_hidden_state.numpy(),
        "pooled": encoded.pooler_output.numpy(),
        "layers": np.stack([layer.numpy() for layer in encoded.hidden_states]),
    }


def test_pretraining_logits_equal_transformers(
    tiny_config: BertConfig, pretraining: Any, reference: dict[str, Any], tiny_batch: Batch
) -> None:
    found = _apply(PretrainingModel(tiny_config), pretraining, _inputs(tiny_batch))
    rows = np.arange(len(tiny_batch["input_ids"]))[:, None]
    expected = reference["masked_lm"][rows, tiny_batch["masked_lm_positions"]]
    np.testing.assert_allclose(found.masked_lm, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.next_sentence, reference["next_sentence"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["sequence", "pooled", "layers"])
def test_encoder_output_equals_transformers(
    name: str,
    tiny_config: BertConfig,
    pretraining: Any,
    reference: dict[str, Any],
    tiny_batch: Batch,
) -> None:
    inputs = _inputs(tiny_batch)[:3]
    found = _apply(Bert(tiny_config), pretraining["encoder"], inputs)
    np.testing.assert_allclose(getattr(found, name), reference[name], rtol=0, atol=1e-5)


# --- Claims of our own ----------------------------------------------------------------------


def test_padding_does_not_reach_real_positions(
    tiny_config: BertConfig, pretraining: Any, tiny_batch: Batch
) -> None:
    ids, mask, segments = _inputs(tiny_batch)[:3]
    model, params = Bert(tiny_config), pretraining["encoder"]
    other = jnp.where(mask == 1, ids, 7 + (ids + 1) % 50)
    first, second = (_apply(model, params, [x, mask, segments]) for x in (ids, other))
    real = np.asarray(mask, bool)
    np.testing.assert_array_equal(first.sequence[real], second.sequence[real])
    assert np.abs(first.sequence - second.sequence)[~real].max() > 0.1
    length = int(mask[0].sum())
    alone = _apply(model, params, [x[:1, :length] for x in (ids, mask, segments)])
    np.testing.assert_allclose(alone.sequence[0], first.sequence[0, :length], rtol=0, atol=1e-5)


def test_dropout_is_off_unless_asked_for(
    tiny_config: BertConfig, pretraining: Any, tiny_batch: Batch
) -> None:
    model, inputs = PretrainingModel(tiny_config), _inputs(tiny_batch)
    rateless = PretrainingModel(
        dataclasses.replace(tiny_config, hidden_dropout=0.0, attention_dropout=0.0)
    )
    plain, without = (_apply(m, pretraining, inputs).masked_lm for m in (model, rateless))
    np.testing.assert_array_equal(plain, without)

    @jax.jit
    def noisy(key: jax.Array) -> Any:
        rngs = {"dropout": key}
        return _apply(model, pretraining, inputs, deterministic=False, rngs=rngs).masked_lm

    first, again, other = (noisy(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    ones = jnp.ones((1000, 1000))
    dropped: Any = Dropout(rate).apply({}, ones, False, rngs={"dropout": jax.random.key(0)})
    # Five deviations of a mean of a million draws.
    slack = 5 * (rate * (1 - rate)) ** 0.5 / 1000
    assert abs(float(jnp.mean(dropped == 0)) - rate) < slack
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)


def test_each_site_of_dropout_follows_its_own_rate(
    tiny_config: BertConfig, pretraining: Any, tiny_batch: Batch
) -> None:
    """hidden_dropout and attention_dropout act on their own (paper, appendix A.2: 0.1 on all)."""

    def encode(hidden: float, attention: float) -> Any:
        config = dataclasses.replace(
            tiny_config, hidden_dropout=hidden, attention_dropout=attention
        )
        rngs = {"dropout": jax.random.key(0)}
        inputs = _inputs(tiny_batch)[:3]
        return _apply(Bert(config), pretraining["encoder"], inputs, deterministic=False, rngs=rngs)

    plain, hidden, attention = encode(0, 0), encode(0.5, 0), encode(0, 0.5)
    assert 0.45 < float(jnp.mean(hidden.layers[0] == 0)) < 0.55
    np.testing.assert_array_equal(plain.layers[0], attention.layers[0])
    assert np.abs(plain.layers[1] - attention.layers[1]).max() > 0.1


def _primitives(jaxpr: Any) -> list[Any]:
    """Every operation of a traced function, those of inner functions too."""
    inner = [p for e in jaxpr.eqns for p in e.params.values() if hasattr(p, "jaxpr")]
    return [*jaxpr.eqns, *(e for p in inner for e in _primitives(p.jaxpr))]


def test_bfloat16_is_for_matrix_products_only(tiny_config: BertConfig, tiny_batch: Batch) -> None:
    model = PretrainingModel(dataclasses.replace(tiny_config, dtype="bfloat16"))
    inputs = _inputs(tiny_batch)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}

    objective = masked_lm.objective(model)
    batch = {name: jnp.asarray(value) for name, value in tiny_batch.items()}
    operations = _primitives(jax.make_jaxpr(lambda p: objective.sums(p, batch, None))(params).jaxpr)
    kinds: dict[str, set[str]] = {}
    for operation in operations:
        for variable in operation.invars:
            if variable.aval.dtype in (jnp.float32, jnp.bfloat16):
                kinds.setdefault(operation.primitive.name, set()).add(str(variable.aval.dtype))
    # Softmax and the loss (exp, log) and layer normalisation (rsqrt) in float32 alone.
    assert kinds["exp"] == kinds["log"] == kinds["rsqrt"] == kinds["reduce_sum"] == {"float32"}
    # 2 layers of 6 products each, the pooler and three products of the heads, one of segments.
    products = [e for e in operations if e.primitive.name == "dot_general"]
    low = [e for e in products if {str(v.aval.dtype) for v in e.invars} == {"bfloat16"}]
    assert (len(products), len(low)) == (2 * 6 + 1 + 3 + 1, 2 * 6 + 1 + 3)

    def loss(params: Any) -> Any:
        sums = objective.sums(params, batch, None)
        return sums["masked_lm"]["loss"], sums

    shapes = jax.eval_shape(jax.grad(loss, has_aux=True), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_bfloat16_outputs_are_near_float32(
    tiny_config: BertConfig, pretraining: Any, tiny_batch: Batch
) -> None:
    model = PretrainingModel(dataclasses.replace(tiny_config, dtype="bfloat16"))
    inputs = _inputs(tiny_batch)
    exact = _apply(PretrainingModel(tiny_config), pretraining, inputs)
    found = _apply(model, pretraining, inputs)
    assert found.masked_lm.dtype == found.next_sentence.dtype == jnp.float32
    assert 0 < np.abs(found.masked_lm - exact.masked_lm).max() < 0.1


def test_layer_norm_works_in_float32_on_bfloat16(tiny_config: BertConfig) -> None:
    """Values around 300 differ by less than bfloat16 can tell apart once squared."""
    x = jnp.asarray(np.random.default_rng(0).normal(300, 2, (4, 32)), jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(32), "bias": jnp.zeros(32)}}
    found: Any = LayerNorm(tiny_config).apply(params, x)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-8, atol=1e-5)


def test_classifier_is_dropout_and_a_linear_map_of_the_pooled_position(
    tiny_config: BertConfig, random_params: Callable[..., Any], tiny_batch: Batch
) -> None:
    model = TaskModel(tiny_config, "classification", 3)
    params, inputs = random_params(model), _inputs(tiny_batch)[:3]
    pooled = _apply(Bert(tiny_config), params["encoder"], inputs).pooled
    expected = np.asarray(pooled) @ params["head"]["kernel"] + params["head"]["bias"]
    found = _apply(model, params, inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


# --- Only what is read ----------------------------------------------------------------------

SPARSE = [
    {},
    {"residual": "pre_norm", "positions": "rope"},
    {"attention": "causal"},
    {"attention": "local_global", "attention_window": 4, "num_layers": 3},
    {"num_layers": 1},
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("changes", SPARSE)
def test_places_that_are_read_alone_are_encoded_as_with_all(
    changes: dict[str, Any],
    packed: bool,
    tiny_config: BertConfig,
    random_params: Callable[..., Any],
) -> None:
    """Values and gradients; of the places that nobody reads the last layer is not computed."""
    config = dataclasses.replace(tiny_config, **changes)
    model, rng = Bert(config), np.random.default_rng(0)
    params = random_params(model)
    ids = jnp.asarray(rng.integers(5, 50, (2, 12)))
    numbers = jnp.asarray([[1] * 5 + [2] * 5 + [0] * 2] * 2) if packed else ids * 0 + 1
    packing = None
    if packed:
        position_ids = jnp.asarray([[*range(5), *range(5), 0, 0]] * 2)
        packing = Packing(position_ids, jnp.asarray([[0, 5]] * 2))
    reads = jnp.asarray([[3, 7, 3], [9, 0, 1]])
    slopes = jnp.asarray(rng.normal(size=(2, 3, config.hidden_size)), jnp.float32)

    def run(params: Any, sparse: bool) -> tuple[Any, Any]:
        inputs = (ids, numbers, ids * 0)
        chosen = reads if sparse else None
        found: Any = model.apply({"params": params}, *inputs, packing=packing, reads=chosen)
        if not sparse:
            found = of_places(found, reads)
        return jnp.sum(found.sequence * slopes) + jnp.sum(found.pooled), found

    (sparse, found), sparse_slopes = jax.value_and_grad(run, has_aux=True)(params, True)
    (whole, wanted), whole_slopes = jax.value_and_grad(run, has_aux=True)(params, False)
    assert float(sparse) == pytest.approx(float(whole), rel=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), found, wanted)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-4), sparse_slopes, whole_slopes
    )


def test_pretraining_computes_the_last_layer_where_it_is_read(tiny_config: BertConfig) -> None:
    """Feed-forward products of the last layer are of 1 + P places, not of all T."""
    model, ids = PretrainingModel(tiny_config), jnp.ones((2, 24), jnp.int32)
    inputs = (ids, ids, ids * 0, ids[:, :3])
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    text = jax.jit(model.apply).lower(params, *inputs).as_text()
    inner = tiny_config.intermediate_size
    made = re.findall(rf"dot_general.*-> tensor<(\d+)x{inner}xf32>", text)
    assert [int(rows) for rows in made] == [48] * (tiny_config.num_layers - 1) + [2 * (1 + 3)]
