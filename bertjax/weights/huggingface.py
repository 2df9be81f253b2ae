"""Hugging Face folders: config, weights and labels of a BERT with any head, read and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.json_file import read_json, write_json
from bertjax.models.config import BertConfig
from bertjax.models.heads import TASK_HEADS
from bertjax.text.tokenizer import Tokenizer
from bertjax.weights import model_folder
from bertjax.weights.convert import from_foreign, to_foreign
from bertjax.weights.huggingface_tokenizer import write_tokenizer
from bertjax.weights.model_folder import FolderInfo

# What this code computes; a folder that says otherwise would load and give other numbers.
_ONLY: dict[str, Any] = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
# The class of each kind of head; regression shares one with classification.
_CLASSES = {
    "classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "choice": "BertForMultipleChoice",
    "tagging": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
}
_PROBLEMS = {"classification": "single_label_classification", "regression": "regression"}
# A model of the next word is a decoder there, with the masked LM's head under the same names.
_DECODER: dict[str, Any] = {"is_decoder": True, "architectures": ["BertLMHeadModel"]}
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


# --- Reading --------------------------------------------------------------------------------


def read_config(folder: Path) -> BertConfig:
    """Reads config.json alone.

    Raises:
      UserError: no such file, or a model whose arithmetic differs from ours.
    """
    path = folder / "config.json"
    return _config(path, read_json(path))


def _config(path: Path, settings: dict[str, Any]) -> BertConfig:
    causal = settings.get("architectures") == _DECODER["architectures"]
    # Absent keys have these values in transformers, too, but a config without a type is none.
    usual = {"model_type": None, "is_decoder": False}
    only = _ONLY | {"is_decoder": causal}
    config = model_folder.read_config(path, usual | settings, only)
    return dataclasses.replace(config, attention="causal") if causal else config


def read_huggingface(folder: Path) -> tuple[BertConfig, Any, FolderInfo]:
    """Reads config.json and the safetensors files of a BERT; its tokenizer is for tokenizer.load.

    A head for other problems, such as several labels at a time, is of no kind here: whoever goes on
    with the encoder leaves it out.

    Raises:
      UserError: not such a folder, or a model whose arithmetic differs from ours.
    """
    path = folder / "config.json"
    settings = read_json(path)
    config = _config(path, settings)
    head = _read_head(settings)
    try:
        tensors = _read_tensors(folder, settings.get("architectures") or ["AutoModel"])
        params = from_foreign(tensors, config, "huggingface", head)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if config.attention == "causal":
        params = _renamed(params, "masked_lm", "next_token")
    problem = settings.get("problem_type") or _PROBLEMS["classification"]
    if head == "classification" and problem != _PROBLEMS[head]:
        head = ""
    labels = _read_labels(path, settings, params) if model_folder.has_labels(head) else []
    return config, params, FolderInfo(head, labels)


def _renamed(params: Any, old: str, new: str) -> Any:
    """The parameters with a part under another name."""
    return {new if name == old else name: part for name, part in params.items()}


def _read_head(settings: dict[str, Any]) -> str:
    """The kind of the class that has written the folder, a key of TASK_HEADS; "" without a head."""
    classes = settings.get("architectures") or []
    kinds = [kind for kind, name in _CLASSES.items() if name in classes]
    if "classification" not in kinds:
        return kinds[0] if kinds else ""
    # transformers, too, takes one output for a regression unless it is told otherwise.
    usual = "regression" if len(settings.get("id2label") or {}) == 1 else "classification"
    problem = settings.get("problem_type") or _PROBLEMS[usual]
    return "regression" if problem == _PROBLEMS["regression"] else "classification"


def _read_tensors(folder: Path, classes: list[str]) -> dict[str, np.ndarray]:
    if (folder / _WEIGHTS).is_file():
        names = [_WEIGHTS]
    elif (folder / _INDEX).is_file():
        names = sorted(set(read_json(folder / _INDEX).get("weight_map", {}).values()))
    elif (folder / "pytorch_model.bin").exists() or list(folder.glob("pytorch_model-*.bin")):
        raise UserError(
            "only pytorch_model.bin, a pickle, which can run any code and is refused; convert it "
            f"where you trust it: transformers.{classes[0]}.from_pretrained({str(folder)!r})"
            f".save_pretrained({str(folder)!r})"
        )
    else:
        raise UserError(f"neither {_WEIGHTS} nor {_INDEX} in this folder")
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        try:
            with storage.local(folder / name) as file:
                tensors |= safetensors.numpy.load_file(file)
        except FileNotFoundError:
            raise UserError(f"{name}, which {_INDEX} names, is missing") from None
        except SafetensorError as error:
            raise UserError(f"{name}: broken or cut short ({error})") from None
    return tensors


def _read_labels(path: Path, settings: dict[str, Any], params: Any) -> list[str]:
    """The names of the head's outputs; id2label and label2id must say the same."""
    outputs = model_folder.num_outputs(params)
    names = settings.get("id2label") or {str(i): f"LABEL_{i}" for i in range(outputs)}
    if sorted(names) != sorted(map(str, range(outputs))):
        raise UserError(
            f"{path}: id2label has the ids {', '.join(names)}, the head has {outputs} outputs"
        )
    labels = [str(names[str(i)]) for i in range(outputs)]
    model_folder.check_labels(path, labels, params)
    ids = {name: i for i, name in enumerate(labels)}
    if (settings.get("label2id") or ids) != ids:
        raise UserError(f"{path}: label2id does not give the ids that id2label gives; mend it")
    return labels


# --- Writing --------------------------------------------------------------------------------


def write_huggingface(
    folder: Path,
    params: Any,
    config: BertConfig,
    tokenizer: Tokenizer,
    *,
    head: str = "",
    labels: Sequence[str] = (),
    max_seq_length: int,
) -> None:
    """Writes a folder that transformers' from_pretrained and AutoTokenizer load.

    The folder appears in full or not at all.

    Args:
      head: the kind of the head in params, a key of TASK_HEADS; "" without a head.
      labels: names of the outputs of a classification or tagging head, in their order.
      max_seq_length: tokens the model was trained with; truncation in transformers uses it.

    Raises:
      UserError: the folder is not empty, or something has no counterpart in transformers.
    """
    causal = config.attention == "causal"
    if causal or (head and TASK_HEADS[head].per_token):
        # The classes that score tokens have no pooler.
        encoder = {name: part for name, part in params["encoder"].items() if name != "pooler"}
        params = params | {"encoder": encoder}
    tensors = to_foreign(_renamed(params, "next_token", "masked_lm"), config, "huggingface", head)
    settings = model_folder.config_json(config) | _ONLY | {"pad_token_id": tokenizer.pad_id}
    settings |= _DECODER if causal else _describe_head(folder, params, head, labels)
    with model_folder.new_folder(folder, "config.json") as partial:
        safetensors.numpy.save_file(tensors, partial / _WEIGHTS, metadata={"format": "pt"})
        write_json(partial / "config.json", settings)
        # Its writer lets nobody else read the file; who serves it is often somebody else.
        (partial / _WEIGHTS).chmod((partial / "config.json").stat().st_mode)
        write_tokenizer(partial, tokenizer, max_seq_length)


def _describe_head(folder: Path, params: Any, head: str, labels: Sequence[str]) -> dict[str, Any]:
    """The keys of config.json that hang on the head."""
    if not head:
        return {"architectures": ["BertForPreTraining" if "masked_lm" in params else "BertModel"]}
    settings: dict[str, Any] = {"architectures": [model_folder.of_head(_CLASSES, head)]}
    if head in _PROBLEMS:
        settings["problem_type"] = _PROBLEMS[head]
    if model_folder.has_labels(head):
        model_folder.check_labels(folder, labels, params)
    else:
        # transformers counts these to know how many outputs there are.
        labels = [f"LABEL_{i}" for i in range(model_folder.num_outputs(params))]
    return settings | {
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
    }
