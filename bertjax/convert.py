"""Parameters under foreign names: one table, read in both directions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.heads import Classifier, PretrainingModel


class Row(NamedTuple):
    """One parameter: our path, its foreign name, and whether the foreign array is transposed.

    "{i}" stands for the number of a layer. PyTorch keeps a linear map as [out, in], we as
    [in, out].
    """

    ours: str
    huggingface: str
    transposed: bool = False


_LAYER, _HF_LAYER = "encoder/layer_{i}", "bert.encoder.layer.{i}"


def _linear(ours: str, huggingface: str) -> tuple[Row, Row]:
    return (
        Row(f"{ours}/kernel", f"{huggingface}.weight", transposed=True),
        Row(f"{ours}/bias", f"{huggingface}.bias"),
    )


def _norm(ours: str, huggingface: str) -> tuple[Row, Row]:
    return (
        Row(f"{ours}/scale", f"{huggingface}.weight"),
        Row(f"{ours}/bias", f"{huggingface}.bias"),
    )


ROWS: tuple[Row, ...] = (
    Row("encoder/embeddings/token/embedding", "bert.embeddings.word_embeddings.weight"),
    Row("encoder/embeddings/position/embedding", "bert.embeddings.position_embeddings.weight"),
    Row("encoder/embeddings/segment/embedding", "bert.embeddings.token_type_embeddings.weight"),
    *_norm("encoder/embeddings/norm", "bert.embeddings.LayerNorm"),
    *_linear(f"{_LAYER}/attention/query", f"{_HF_LAYER}.attention.self.query"),
    *_linear(f"{_LAYER}/attention/key", f"{_HF_LAYER}.attention.self.key"),
    *_linear(f"{_LAYER}/attention/value", f"{_HF_LAYER}.attention.self.value"),
    *_linear(f"{_LAYER}/attention/output", f"{_HF_LAYER}.attention.output.dense"),
    *_norm(f"{_LAYER}/attention_norm", f"{_HF_LAYER}.attention.output.LayerNorm"),
    *_linear(f"{_LAYER}/feed_forward/intermediate", f"{_HF_LAYER}.intermediate.dense"),
    *_linear(f"{_LAYER}/feed_forward/output", f"{_HF_LAYER}.output.dense"),
    *_norm(f"{_LAYER}/feed_forward_norm", f"{_HF_LAYER}.output.LayerNorm"),
    *_linear("encoder/pooler", "bert.pooler.dense"),
    *_linear("masked_lm/transform", "cls.predictions.transform.dense"),
    *_norm("masked_lm/norm", "cls.predictions.transform.LayerNorm"),
    Row("masked_lm/bias", "cls.predictions.bias"),
    *_linear("next_sentence", "cls.seq_relationship"),
    *_linear("head", "classifier"),
)

_BUFFERS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")
_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def _rows(config: BertConfig) -> list[Row]:
    """The table with the layers written out."""
    return [
        Row(row.ours.format(i=i), row.huggingface.format(i=i), row.transposed)
        for row in ROWS
        for i in (range(config.num_layers) if "{i}" in row.ours else (0,))
    ]


def part_of(path: str) -> str:
    """The piece of a model that is there in full or not at all."""
    return "encoder/pooler" if path.startswith("encoder/pooler/") else path.split("/")[0]


def to_huggingface(params: Any, config: BertConfig) -> dict[str, np.ndarray]:
    """Hugging Face's names and layouts for a parameter tree.

    Args:
      params: of a PretrainingModel, a Classifier, or {"encoder": ...} alone.

    Raises:
      UserError: a parameter that the table does not know.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {}
    for row in _rows(config):
        if row.ours in flat:
            array = np.asarray(flat.pop(row.ours))
            tensors[row.huggingface] = np.ascontiguousarray(array.T if row.transposed else array)
    if flat:
        raise UserError(f"parameter {next(iter(flat))} has no name in Hugging Face's BERT")
    return tensors


def from_huggingface(tensors: dict[str, np.ndarray], config: BertConfig) -> Any:
    """The parameter tree, float32, of tensors under Hugging Face's names.

    Names may lack the prefix "bert." (as in a BertModel) and may be those of before 2020 (gamma
    and beta, position_ids, the tied decoder). Parts that are not there at all, such as the
    pooler or the heads, are not in the tree either; the encoder must be there.

    Raises:
      UserError: a tensor that is unknown, missing, untied or of another shape, by its name.
    """
    given = _current_names(tensors)
    _drop_copies(given)
    shapes = _shapes(config, given)
    parts = {part_of(row.ours) for row in _rows(config) if row.huggingface in given} | {"encoder"}
    flat = {}
    for row in _rows(config):
        if part_of(row.ours) in parts:
            flat[row.ours] = _take(given, row, shapes[row.ours])
    if given:
        raise UserError(
            f"tensor {next(iter(given))} (one of {len(given)}) has no place in a BERT of "
            f"{config.num_layers} layers; is config.json the one that belongs to it?"
        )
    return traverse_util.unflatten_dict(flat, sep="/")


def _current_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under the names that the table has."""
    given: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        new = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        new = new.replace("LayerNorm.beta", "LayerNorm.bias")
        if new.startswith(("embeddings.", "encoder.", "pooler.")):
            new = "bert." + new
        if new in given:
            raise UserError(f"tensor {new} is there twice, once under an older name")
        given[new] = array
    return given


def _drop_copies(given: dict[str, np.ndarray]) -> None:
    """Removes buffers and the tied decoder, whose values stand elsewhere."""
    for name in _BUFFERS:
        given.pop(name, None)
    for name, source in _TIED.items():
        copy = given.pop(name, None)
        if copy is not None and not np.array_equal(copy, given.setdefault(source, copy)):
            raise UserError(f"tensor {name} differs from {source}; untied models are not supported")


def _shapes(config: BertConfig, given: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Our path -> shape, for every part; the head has as many outputs as its bias."""
    bias = given.get("classifier.bias", np.zeros(2))
    row = jnp.zeros((1, 1), jnp.int32)

    def init(key: jax.Array) -> Any:
        pretraining = PretrainingModel(config).init(key, row, row, row, row)
        classifier = Classifier(config, bias.size).init(key, row, row, row)
        return pretraining["params"] | classifier["params"]

    flat = traverse_util.flatten_dict(jax.eval_shape(init, jax.random.key(0)), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def _take(given: dict[str, np.ndarray], row: Row, shape: tuple[int, ...]) -> np.ndarray:
    """Removes a tensor from `given` and lays it out as ours."""
    if row.huggingface not in given:
        raise UserError(f"tensor {row.huggingface} is missing")
    array = given.pop(row.huggingface)
    wanted = shape[::-1] if row.transposed else shape
    if array.shape != wanted:
        raise UserError(
            f"tensor {row.huggingface} has shape {array.shape}, its config.json asks for {wanted}"
        )
    return np.ascontiguousarray(array.T if row.transposed else array, dtype=np.float32)
