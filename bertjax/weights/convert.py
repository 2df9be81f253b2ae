"""Parameters under foreign names: one table, read in both directions, for two layouts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.heads import TASK_HEADS, TaskModel
from bertjax.models.masked_lm import PretrainingModel
from bertjax.weights.model_folder import of_head

# Hugging Face's transformers, and the TensorFlow 1 code of Google's first release.
Layout = Literal["huggingface", "google"]


class Row(NamedTuple):
    """One parameter: our path, its name in each layout, and the layouts that transpose it.

    "{i}" stands for the number of a layer. A linear map is [in, out] here and in Google's
    "kernel", [out, in] in PyTorch and in Google's "output_weights".
    """

    ours: str
    huggingface: str
    google: str
    transposed: tuple[Layout, ...] = ()


def _dotted(scope: str) -> str:
    """Hugging Face's module of one of Google's variable scopes, after which it was named."""
    return scope.replace("/layer_", "/layer/").replace("/", ".")


def _linear(ours: str, scope: str) -> tuple[Row, Row]:
    return (
        Row(f"{ours}/kernel", f"{_dotted(scope)}.weight", f"{scope}/kernel", ("huggingface",)),
        Row(f"{ours}/bias", f"{_dotted(scope)}.bias", f"{scope}/bias"),
    )


def _norm(ours: str, scope: str) -> tuple[Row, Row]:
    inner = f"{_dotted(scope)}.LayerNorm"
    return (
        Row(f"{ours}/scale", f"{inner}.weight", f"{scope}/LayerNorm/gamma"),
        Row(f"{ours}/bias", f"{inner}.bias", f"{scope}/LayerNorm/beta"),
    )


def _table(ours: str, scope: str) -> Row:
    return Row(f"{ours}/embedding", f"{_dotted(scope)}.weight", scope)


def _scores(ours: str, module: str, prefix: str) -> tuple[Row, Row]:
    return (
        Row(
            f"{ours}/kernel",
            f"{module}.weight",
            f"{prefix}output_weights",
            ("huggingface", "google"),
        ),
        Row(f"{ours}/bias", f"{module}.bias", f"{prefix}output_bias"),
    )


_OURS, _SCOPE = "encoder/layer_{i}", "bert/encoder/layer_{i}"

ROWS: tuple[Row, ...] = (
    _table("encoder/embeddings/token", "bert/embeddings/word_embeddings"),
    _table("encoder/embeddings/position", "bert/embeddings/position_embeddings"),
    _table("encoder/embeddings/segment", "bert/embeddings/token_type_embeddings"),
    *_norm("encoder/embeddings/norm", "bert/embeddings"),
    *_linear(f"{_OURS}/attention/query", f"{_SCOPE}/attention/self/query"),
    *_linear(f"{_OURS}/attention/key", f"{_SCOPE}/attention/self/key"),
    *_linear(f"{_OURS}/attention/value", f"{_SCOPE}/attention/self/value"),
    *_linear(f"{_OURS}/attention/output", f"{_SCOPE}/attention/output/dense"),
    *_norm(f"{_OURS}/attention_norm", f"{_SCOPE}/attention/output"),
    *_linear(f"{_OURS}/feed_forward/intermediate", f"{_SCOPE}/intermediate/dense"),
    *_linear(f"{_OURS}/feed_forward/output", f"{_SCOPE}/output/dense"),
    *_norm(f"{_OURS}/feed_forward_norm", f"{_SCOPE}/output"),
    *_linear("encoder/pooler", "bert/pooler/dense"),
    *_linear("masked_lm/transform", "cls/predictions/transform/dense"),
    *_norm("masked_lm/norm", "cls/predictions/transform"),
    Row("masked_lm/bias", "cls.predictions.bias", "cls/predictions/output_bias"),
    *_scores("next_sentence", "cls.seq_relationship", "cls/seq_relationship/"),
)

# The same layer of ours has another name for each kind of head. Google has run_classifier.py and
# run_squad.py; its users have named the other heads as run_classifier.py does.
_CLASSIFIER = _scores("head", "classifier", "")
HEADS: dict[str, tuple[Row, Row]] = {
    "classification": _CLASSIFIER,
    "regression": _CLASSIFIER,
    "choice": _CLASSIFIER,
    "tagging": _CLASSIFIER,
    "span": _scores("head", "qa_outputs", "cls/squad/"),
}

_BUFFERS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")
_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
# Of the release's own optimizer and of TensorFlow's Adam.
_SLOT = re.compile(r"(.+/)?(adam_[mv]|Adam(_1)?|beta[12]_power|global_step)")


def _rows(config: BertConfig, head: str) -> list[Row]:
    """The table with the layers written out, and the rows of a kind of head ("": none)."""
    return [
        row._replace(**{name: getattr(row, name).format(i=i) for name in Row._fields[:3]})
        for row in (*ROWS, *(of_head(HEADS, head) if head else ()))
        for i in (range(config.num_layers) if "{i}" in row.ours else (0,))
    ]


def part_of(path: str) -> str:
    """The piece of a model that is there in full or not at all."""
    return "encoder/pooler" if path.startswith("encoder/pooler/") else path.split("/")[0]


def is_slot(name: str) -> bool:
    """Whether a variable of a TensorFlow 1 checkpoint is an optimizer's, not the model's."""
    return _SLOT.fullmatch(name) is not None


def head_of(names: Iterable[str], layout: Layout) -> str:
    """The first kind of HEADS that the names allow; "" if they hold no head."""
    held = set(names)
    return next((head for head, rows in HEADS.items() if getattr(rows[0], layout) in held), "")


def to_foreign(
    params: Any, config: BertConfig, layout: Layout, head: str = ""
) -> dict[str, np.ndarray]:
    """A parameter tree under a layout's names, laid out as there.

    Args:
      params: of a PretrainingModel, of a TaskModel, or some of their parts.
      head: a key of HEADS if params hold a task's head.

    Raises:
      UserError: a parameter or a kind of head that the tables do not know.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {}
    for row in _rows(config, head):
        if row.ours in flat:
            array = np.asarray(flat.pop(row.ours))
            turned = array.T if layout in row.transposed else array
            tensors[getattr(row, layout)] = np.ascontiguousarray(turned)
    if flat:
        raise UserError(f"parameter {next(iter(flat))} has no name in the {layout} layout")
    return tensors


def from_foreign(
    tensors: dict[str, np.ndarray], config: BertConfig, layout: Layout, head: str = ""
) -> Any:
    """The parameter tree, float32, of tensors under a layout's names.

    Hugging Face's may lack the prefix "bert." (as in a BertModel) and may be those of before 2020
    (gamma and beta, position_ids, the tied decoder). Parts that are not there at all, such as the
    pooler or the heads of pretraining, are not in the tree either.

    Args:
      head: a key of HEADS if the tensors hold a task's head, which must then be there.

    Raises:
      UserError: a tensor that is unknown, missing, untied or of another shape, by its name.
    """
    given = _tidy_huggingface(tensors) if layout == "huggingface" else dict(tensors)
    rows = {getattr(row, layout): row for row in _rows(config, head)}
    parts = {part_of(row.ours) for name, row in rows.items() if name in given}
    parts |= {"encoder", *(["head"] if head else [])}
    wanted = {name: row for name, row in rows.items() if part_of(row.ours) in parts}
    for name in wanted:
        if name not in given:
            raise UserError(f"tensor {name} is missing")
    for name in given:
        if name not in wanted:
            raise UserError(
                f"tensor {name} (one of {len(given.keys() - wanted.keys())}) has no place in "
                f"{_describe(config, head)}; is its config the one that belongs to it?"
            )
    shapes = _shapes(config, head, _num_outputs(given, layout, head))
    flat = {
        row.ours: _take(name, given[name], shapes[row.ours], layout in row.transposed)
        for name, row in wanted.items()
    }
    return traverse_util.unflatten_dict(flat, sep="/")


def _describe(config: BertConfig, head: str) -> str:
    return f"a BERT of {config.num_layers} layers with {head or 'no'} head"


def _tidy_huggingface(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under the names that the table has, without those that stand there twice."""
    given: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        new = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        new = new.replace("LayerNorm.beta", "LayerNorm.bias")
        if new.startswith(("embeddings.", "encoder.", "pooler.")):
            new = "bert." + new
        if new in given:
            raise UserError(f"tensor {new} is there twice, once under an older name")
        given[new] = array
    for name in _BUFFERS:
        given.pop(name, None)
    for name, source in _TIED.items():
        copy = given.pop(name, None)
        if copy is not None and not np.array_equal(copy, given.setdefault(source, copy)):
            raise UserError(f"tensor {name} differs from {source}; untied models are not supported")
    return given


def _num_outputs(given: dict[str, np.ndarray], layout: Layout, head: str) -> int:
    """How many scores the head must give: as its kind says, or as its bias has."""
    fixed = TASK_HEADS[head].num_outputs if head else None
    return fixed or (given[getattr(HEADS[head][1], layout)].size if head else 0)


def _shapes(config: BertConfig, head: str, num_outputs: int) -> dict[str, tuple[int, ...]]:
    """Our path -> shape, for every part."""
    row = jnp.zeros((1, 1), jnp.int32)

    def init(key: jax.Array) -> Any:
        params = PretrainingModel(config).init(key, row, row, row, row)["params"]
        if head:
            params |= TaskModel(config, head, num_outputs).init(key, row, row, row)["params"]
        return params

    flat = traverse_util.flatten_dict(jax.eval_shape(init, jax.random.key(0)), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def _take(name: str, array: np.ndarray, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
    """An array laid out as ours, float32."""
    wanted = shape[::-1] if transposed else shape
    if array.shape != wanted:
        raise UserError(f"tensor {name} has shape {array.shape}, its config asks for {wanted}")
    return np.ascontiguousarray(array.T if transposed else array, dtype=np.float32)
