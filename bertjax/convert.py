"""Parameters under foreign names: one table, read in both directions, and the folders around it.

Only this file knows how others name and lay out BERT's parameters.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from safetensors import SafetensorError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as HuggingFaceTokenizer

from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.heads import Classifier, PretrainingModel
from bertjax.tokenizer import SentencePieceTokenizer, Tokenizer, WordPieceTokenizer


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

# BertConfig's fields and the keys of Hugging Face's config.json.
_CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "norm_epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
# What this code computes; a folder that says otherwise would load and give other numbers.
_ONLY: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_BUFFERS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")
_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


@dataclasses.dataclass(frozen=True)
class FolderInfo:
    """What a folder says beside its parameters.

    Attributes:
      architectures: the classes it was written for, "BertForPreTraining" say.
      labels: names of the head's outputs in their order; empty without a head.
      missing: parts the folder does not have, "masked_lm" say; whoever needs one starts it anew.
    """

    architectures: list[str]
    labels: list[str]
    missing: list[str]


# --- Names ----------------------------------------------------------------------------------


def _rows(config: BertConfig) -> list[Row]:
    """The table with the layers written out."""
    return [
        Row(row.ours.format(i=i), row.huggingface.format(i=i), row.transposed)
        for row in ROWS
        for i in (range(config.num_layers) if "{i}" in row.ours else (0,))
    ]


def _part(path: str) -> str:
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
    parts = {_part(row.ours) for row in _rows(config) if row.huggingface in given} | {"encoder"}
    flat = {}
    for row in _rows(config):
        if _part(row.ours) in parts:
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


# --- Reading a folder -----------------------------------------------------------------------


def read_huggingface(folder: Path) -> tuple[BertConfig, Any, FolderInfo]:
    """Reads config.json and the safetensors files of a BERT; its tokenizer is for tokenizer.load.

    Raises:
      UserError: not such a folder, or a model whose arithmetic differs from ours.
    """
    settings = _read_json(folder / "config.json")
    config = _read_config(folder / "config.json", settings)
    try:
        params = from_huggingface(_read_tensors(folder), config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    every = dict.fromkeys(_part(row.ours) for row in ROWS)
    have = {_part(path) for path in traverse_util.flatten_dict(params, sep="/")}
    info = FolderInfo(
        architectures=settings.get("architectures") or [],
        labels=_read_labels(folder, settings, params),
        missing=[part for part in every if part not in have],
    )
    return config, params, info


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not found; give a folder that save_pretrained has written")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def _read_config(path: Path, settings: dict[str, Any]) -> BertConfig:
    for key, value in _ONLY.items():
        # Absent keys have these values in transformers, too, but a config without a type is none.
        if settings.get(key, None if key == "model_type" else value) != value:
            raise UserError(
                f"{path}: {key} is {settings.get(key)!r}, only {value!r} is supported here"
            )
    if "vocab_size" not in settings:
        raise UserError(f"{path}: no vocab_size")
    fields = {ours: settings[key] for ours, key in _CONFIG_KEYS.items() if key in settings}
    try:
        return BertConfig(**fields)
    except (UserError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    if (folder / _WEIGHTS).is_file():
        names = [_WEIGHTS]
    elif (folder / _INDEX).is_file():
        names = sorted(set(_read_json(folder / _INDEX).get("weight_map", {}).values()))
    elif (folder / "pytorch_model.bin").exists() or list(folder.glob("pytorch_model-*.bin")):
        raise UserError(
            "only pytorch_model.bin, a pickle, which can run any code and is refused; convert it "
            "where you trust it: AutoModel.from_pretrained(folder)"
            ".save_pretrained(new_folder, safe_serialization=True)"
        )
    else:
        raise UserError(f"neither {_WEIGHTS} nor {_INDEX} in this folder")
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        try:
            tensors |= safetensors.numpy.load_file(folder / name)
        except FileNotFoundError:
            raise UserError(f"{name}, which {_INDEX} names, is missing") from None
        except SafetensorError as error:
            raise UserError(f"{name}: broken or cut short ({error})") from None
    return tensors


def _read_labels(folder: Path, settings: dict[str, Any], params: Any) -> list[str]:
    if "head" not in params:
        return []
    outputs = len(params["head"]["bias"])
    names = settings.get("id2label") or {str(i): f"LABEL_{i}" for i in range(outputs)}
    if sorted(names) != sorted(map(str, range(outputs))):
        raise UserError(
            f"{folder / 'config.json'}: id2label has the ids {', '.join(names)}, the classifier "
            f"has {outputs} outputs"
        )
    return [names[str(i)] for i in range(outputs)]


# --- Writing a folder -----------------------------------------------------------------------


def check_target(folder: Path) -> None:
    """Raises UserError for a folder that holds something, or a file in its place."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; choose another folder or delete it")


def write_huggingface(
    folder: Path,
    params: Any,
    config: BertConfig,
    tokenizer: Tokenizer,
    *,
    labels: list[str] | None = None,
    max_seq_length: int,
) -> None:
    """Writes a folder that transformers' from_pretrained and AutoTokenizer load.

    The folder appears in full or not at all.

    Args:
      labels: names of the head's outputs in their order; without them it counts as a regression
        if it has one output, and transformers' LABEL_0, LABEL_1, ... otherwise.
      max_seq_length: tokens the model was trained with; truncation in transformers uses it.

    Raises:
      UserError: the folder is not empty, or something has no counterpart in transformers.
    """
    check_target(folder)
    tensors = to_huggingface(params, config)
    settings = _config_json(params, config, tokenizer, labels)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        safetensors.numpy.save_file(tensors, partial / _WEIGHTS, metadata={"format": "pt"})
        _write_json(partial / "config.json", settings)
        _write_tokenizer(partial, tokenizer, max_seq_length)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _config_json(
    params: Any, config: BertConfig, tokenizer: Tokenizer, labels: list[str] | None
) -> dict[str, Any]:
    settings: dict[str, Any] = {key: getattr(config, ours) for ours, key in _CONFIG_KEYS.items()}
    settings |= {**_ONLY, "pad_token_id": tokenizer.pad_id}
    if "head" not in params:
        name = "BertForPreTraining" if "masked_lm" in params else "BertModel"
        return settings | {"architectures": [name]}
    outputs = len(params["head"]["bias"])
    names = labels or [f"LABEL_{i}" for i in range(outputs)]
    if len(names) != outputs or len(set(names)) != outputs:
        raise UserError(f"{outputs} outputs need as many different labels, not {names}")
    kind = "regression" if outputs == 1 else "single_label_classification"
    return settings | {
        "architectures": ["BertForSequenceClassification"],
        "problem_type": kind,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


# --- Tokenizers -----------------------------------------------------------------------------


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, max_seq_length: int) -> None:
    """Our own files, and tokenizer.json, which transformers runs word for word.

    transformers' BertTokenizer would ignore max_chars_per_word, so the class is the plain one.
    Unlike our tokenizers it reads "[MASK]" and the like in a text as that symbol.

    Raises:
      UserError: a tokenizer without a counterpart.
    """
    tokenizer.save(folder)
    if isinstance(tokenizer, WordPieceTokenizer):
        described = _wordpiece_json(tokenizer)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        described = _sentencepiece_json(tokenizer, (folder / "spiece.model").read_bytes())
    else:
        raise UserError(f"a {tokenizer.kind} tokenizer has no counterpart in transformers")
    ids = {role: getattr(tokenizer, role.replace("_token", "_id")) for role in _ROLES}
    names = dict(zip(ids, tokenizer.pieces(ids.values()), strict=True))
    described.add_special_tokens(list(names.values()))
    cls, sep = names["cls_token"], names["sep_token"]
    described.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, ids["cls_token"]), (sep, ids["sep_token"])],
    )
    described.save(str(folder / "tokenizer.json"))
    _write_json(folder / "special_tokens_map.json", names)
    settings = _read_json(folder / "tokenizer_config.json")
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": max_seq_length,
    }
    _write_json(folder / "tokenizer_config.json", settings | names)


def _wordpiece_json(tokenizer: WordPieceTokenizer) -> HuggingFaceTokenizer:
    vocabulary = {token: i for i, token in enumerate(tokenizer.tokens)}
    model = models.WordPiece(
        vocabulary,
        unk_token=tokenizer.tokens[tokenizer.unk_id],
        max_input_chars_per_word=tokenizer.max_chars_per_word,
    )
    described = HuggingFaceTokenizer(model)
    described.normalizer = normalizers.BertNormalizer(lowercase=tokenizer.lowercase)
    described.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    described.decoder = decoders.WordPiece(prefix="##")
    return described


def _sentencepiece_json(tokenizer: SentencePieceTokenizer, data: bytes) -> HuggingFaceTokenizer:
    messages: Any = sentencepiece_model_pb2  # made at import, so type checkers see nothing in it
    proto = messages.ModelProto.FromString(data)
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type != trainer.UNIGRAM:
        raise UserError("only SentencePiece's unigram models have a counterpart in transformers")
    described = HuggingFaceTokenizer(
        models.Unigram(
            [(piece.piece, piece.score) for piece in proto.pieces],
            unk_id=tokenizer.unk_id,
            byte_fallback=trainer.byte_fallback,
        )
    )
    steps: list[Any] = [normalizers.Lowercase()] if tokenizer.lowercase else []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    described.normalizer = normalizers.Sequence(steps)
    prepend: Any = "always" if rules.add_dummy_prefix else "never"
    described.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    described.decoder = decoders.Metaspace(prepend_scheme=prepend)
    return described
