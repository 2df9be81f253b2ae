"""Hugging Face folders: config, weights and labels of a BERT, read and written."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util
from safetensors import SafetensorError

from bertjax.convert import ROWS, from_huggingface, part_of, to_huggingface
from bertjax.errors import UserError
from bertjax.huggingface_tokenizer import write_tokenizer
from bertjax.json_file import read_json, write_json
from bertjax.models.config import BertConfig
from bertjax.tokenizer import Tokenizer

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
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


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


def read_huggingface(folder: Path) -> tuple[BertConfig, Any, FolderInfo]:
    """Reads config.json and the safetensors files of a BERT; its tokenizer is for tokenizer.load.

    Raises:
      UserError: not such a folder, or a model whose arithmetic differs from ours.
    """
    settings = read_json(folder / "config.json")
    config = _read_config(folder / "config.json", settings)
    try:
        params = from_huggingface(_read_tensors(folder), config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    every = dict.fromkeys(part_of(row.ours) for row in ROWS)
    have = {part_of(path) for path in traverse_util.flatten_dict(params, sep="/")}
    info = FolderInfo(
        architectures=settings.get("architectures") or [],
        labels=_read_labels(folder, settings, params),
        missing=[part for part in every if part not in have],
    )
    return config, params, info


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
        names = sorted(set(read_json(folder / _INDEX).get("weight_map", {}).values()))
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
        write_json(partial / "config.json", settings)
        write_tokenizer(partial, tokenizer, max_seq_length)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
