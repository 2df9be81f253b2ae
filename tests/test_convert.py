"""The table of names: both layouts, both ways, byte by byte, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import jax
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.heads import TASK_HEADS, TaskModel
from bertjax.models.masked_lm import PretrainingModel
from bertjax.weights import convert
from bertjax.weights.convert import Layout

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
KINDS = ["", *TASK_HEADS]


@pytest.fixture(scope="module")
def params(tiny_config: BertConfig, random_params: Callable[..., Any]) -> dict[str, Any]:
    """Kind of head -> parameters; "" stands for pretraining."""
    heads = {
        kind: TaskModel(tiny_config, kind, h.num_outputs or 3) for kind, h in TASK_HEADS.items()
    }
    models = {"": PretrainingModel(tiny_config), **heads}
    return {kind: random_params(model) for kind, model in models.items()}


@pytest.fixture(scope="module")
def pretraining(params: dict[str, Any]) -> Any:
    return params[""]


def _assert_same(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


# --- Both layouts ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("head", KINDS)
def test_every_parameter_stands_in_one_row_and_comes_back(
    layout: Layout, head: str, params: dict[str, Any], tiny_config: BertConfig
) -> None:
    tensors = convert.to_foreign(params[head], tiny_config, layout, head)
    assert len(tensors) == len(jax.tree.leaves(params[head]))
    back = convert.from_foreign(tensors, tiny_config, layout, head)
    _assert_same(back, params[head])
    again = convert.to_foreign(back, tiny_config, layout, head)
    assert {name: (array.shape, array.tobytes()) for name, array in again.items()} == {
        name: (array.shape, array.tobytes()) for name, array in tensors.items()
    }


@pytest.mark.parametrize("head", TASK_HEADS)
@pytest.mark.parametrize("column", ["ours", *LAYOUTS])
def test_no_name_stands_twice(column: str, head: str) -> None:
    names = [getattr(row, column) for row in (*convert.ROWS, *convert.HEADS[head])]
    assert len(set(names)) == len(names)


def test_every_kind_of_head_has_its_names() -> None:
    assert convert.HEADS.keys() == TASK_HEADS.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unknown_parameter_is_refused(
    layout: Layout, pretraining: Any, tiny_config: BertConfig
) -> None:
    given = pretraining | {"mix": {"gamma": np.ones(())}}
    with pytest.raises(UserError, match=f"parameter mix/gamma has no name in the {layout} layout"):
        convert.to_foreign(given, tiny_config, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_head_without_names_is_refused(
    layout: Layout, pretraining: Any, tiny_config: BertConfig
) -> None:
    with pytest.raises(UserError, match="kind ordering can be neither exported nor read; one of"):
        convert.to_foreign(pretraining, tiny_config, layout, "ordering")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("head", TASK_HEADS)
def test_a_head_is_there_as_its_kind_says_or_refused(
    layout: Layout, head: str, params: dict[str, Any], tiny_config: BertConfig
) -> None:
    tensors = convert.to_foreign(params[head], tiny_config, layout, head)
    kernel, bias = (getattr(row, layout) for row in convert.HEADS[head])
    with pytest.raises(UserError, match=f"tensor {kernel} .*no place in .*with no head"):
        convert.from_foreign(tensors, tiny_config, layout)
    for name in (kernel, bias):
        rest = {other: array for other, array in tensors.items() if other != name}
        with pytest.raises(UserError, match=f"tensor {name} is missing"):
            convert.from_foreign(rest, tiny_config, layout, head)
    rest = {other: array for other, array in tensors.items() if other not in (kernel, bias)}
    with pytest.raises(UserError, match=f"tensor {kernel} is missing"):
        convert.from_foreign(rest, tiny_config, layout, head)
    larger = tensors | {bias: np.zeros(9, np.float32)}
    with pytest.raises(UserError, match=f"tensor ({kernel}|{bias}) has shape"):
        convert.from_foreign(larger, tiny_config, layout, head)


HF, TF = "bert.encoder.layer", "bert/encoder/layer"


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        (
            "huggingface",
            {f"{HF}.1.output.dense.weight": np.zeros((32, 48))},
            rf"{HF}.1.output.dense.weight has shape \(32, 48\), .* \(32, 64\)",
        ),
        (
            "huggingface",
            {"bert.embeddings.word_embeddings.weight": np.zeros((9, 32))},
            r"word_embeddings.weight has shape \(9, 32\), .* \(128, 32\)",
        ),
        ("huggingface", {"bert.pooler.dense.bias": None}, "bert.pooler.dense.bias is missing"),
        ("huggingface", {f"{HF}.0.output.dense.bias": None}, "0.output.dense.bias is missing"),
        ("huggingface", {f"{HF}.2.output.dense.bias": np.zeros(32)}, "layer.2.*no place.*2 layers"),
        ("huggingface", {"embeddings.LayerNorm.gamma": np.zeros(32)}, "weight is there twice"),
        ("huggingface", {"cls.predictions.decoder.weight": np.zeros((128, 32))}, "untied"),
        ("huggingface", {"cls.predictions.decoder.bias": np.ones(128)}, "untied"),
        (
            "google",
            {f"{TF}_1/output/dense/kernel": np.zeros((32, 64))},
            rf"{TF}_1/output/dense/kernel has shape \(32, 64\), .* \(64, 32\)",
        ),
        (
            "google",
            {"cls/seq_relationship/output_weights": np.zeros((32, 2))},
            r"cls/seq_relationship/output_weights has shape \(32, 2\), .* \(2, 32\)",
        ),
        ("google", {"bert/pooler/dense/kernel": None}, "bert/pooler/dense/kernel is missing"),
        ("google", {"bert/embeddings/LayerNorm/beta": None}, "LayerNorm/beta is missing"),
        ("google", {f"{TF}_2/output/dense/bias": np.zeros(32)}, "layer_2.*no place.*2 layers"),
        ("google", {"bert.pooler.dense.bias": np.zeros(32)}, "bert.pooler.dense.bias .*no place"),
    ],
)
def test_wrong_tensors_are_named(
    layout: Layout,
    change: dict[str, Any],
    message: str,
    pretraining: Any,
    tiny_config: BertConfig,
) -> None:
    tensors = convert.to_foreign(pretraining, tiny_config, layout) | change
    given = {name: value for name, value in tensors.items() if value is not None}
    with pytest.raises(UserError, match=message):
        convert.from_foreign(given, tiny_config, layout)


# --- Hugging Face's older names -------------------------------------------------------------


def test_names_of_older_releases_are_understood(pretraining: Any, tiny_config: BertConfig) -> None:
    tensors = convert.to_foreign(pretraining, tiny_config, "huggingface")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(64)[None]
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.bias"] = old.pop("cls.predictions.bias")
    _assert_same(convert.from_foreign(old, tiny_config, "huggingface"), pretraining)


def test_names_without_prefix_and_without_pooler_are_understood(
    pretraining: Any, tiny_config: BertConfig
) -> None:
    encoder = {"encoder": {k: v for k, v in pretraining["encoder"].items() if k != "pooler"}}
    tensors = convert.to_foreign(encoder, tiny_config, "huggingface")
    bare = {name.removeprefix("bert."): value for name, value in tensors.items()}
    _assert_same(convert.from_foreign(bare, tiny_config, "huggingface"), encoder)


# --- TensorFlow 1 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("bert/pooler/dense/kernel/adam_m", True),
        ("cls/seq_relationship/output_weights/adam_v", True),
        ("output_bias/Adam", True),
        ("output_bias/Adam_1", True),
        ("training/beta1_power", True),
        ("beta2_power", True),
        ("global_step", True),
        ("bert/pooler/dense/kernel", False),
        ("bert/adam_max/kernel", False),
        ("not_the_global_step", False),
    ],
)
def test_the_variables_of_optimizers_are_known_by_name(name: str, slot: bool) -> None:
    assert convert.is_slot(name) == slot


@pytest.mark.parametrize(
    ("head", "layout", "found"),
    [
        ("", "google", ""),
        ("", "huggingface", ""),
        # run_classifier.py wrote it, for all that its names say.
        ("tagging", "google", "classification"),
        ("span", "google", "span"),
        ("span", "huggingface", "span"),
    ],
)
def test_names_tell_a_head(
    head: str, layout: Layout, found: str, params: dict[str, Any], tiny_config: BertConfig
) -> None:
    tensors = convert.to_foreign(params[head], tiny_config, layout, head)
    assert convert.head_of(tensors, layout) == found
