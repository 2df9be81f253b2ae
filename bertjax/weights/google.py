"""Google's folders of 2018: bert_config.json, a TensorFlow 1 checkpoint and vocab.txt.

    bert_config.json    sizes; the kind of the head and of GELU, too, under keys that the 2018
                        code ignores
    bert_model.ckpt.*   variables by name, written by TensorFlow's own saver
    vocab.txt           WordPiece; tokenizer_config.json beside it says whether it is uncased
    labels.txt          names of a head's outputs, one a line, for which 2018 had no place

"gelu" has meant two functions: x Phi(x) in the first release, and since February 2019 its
approximation by a tanh, for which the code of google-research/bert has no other name. Here it is
the first one, as in transformers, which runs all released models so; scores differ by up to some
1e-3. Who knows that a model was trained with the other one writes "hidden_act": "gelu_new" into its
config. Models of ours that were say "gelu": "gelu_new" beside the name that the 2018 code reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files.json_file import read_json, write_json
from bertjax.files.whole_file import write_whole
from bertjax.models.config import BertConfig
from bertjax.models.heads import TASK_HEADS
from bertjax.text.tokenizer import Tokenizer
from bertjax.weights import model_folder
from bertjax.weights.convert import from_foreign, head_of, is_slot, to_foreign
from bertjax.weights.model_folder import FolderInfo

CONFIG, LABELS, CHECKPOINT = "bert_config.json", "labels.txt", "bert_model.ckpt"
# Written into the 2018 code, not into its config.
_NORM_EPSILON = 1e-12


# --- Reading --------------------------------------------------------------------------------


def read_config(folder: Path) -> BertConfig:
    """Reads bert_config.json alone.

    Raises:
      UserError: no such file, or a model whose arithmetic differs from ours.
    """
    path = folder / CONFIG
    return _config(path, read_json(path))


def _config(path: Path, settings: dict[str, Any]) -> BertConfig:
    # What an absent key means in modeling.py.
    usual = {"type_vocab_size": 16, "hidden_act": "gelu"}
    settings = usual | settings
    if settings["hidden_act"] == "gelu":
        settings["hidden_act"] = settings.get("gelu", "gelu")
    return model_folder.read_config(path, settings, {})


def read_google(folder: Path) -> tuple[BertConfig, Any, FolderInfo]:
    """Reads a released or fine-tuned checkpoint; its vocabulary is for tokenizer.load.

    An optimizer's variables are left out and counted.

    Raises:
      UserError: not such a folder, or a model whose arithmetic differs from ours.
    """
    path = folder / CONFIG
    settings = read_json(path)
    config, prefix = _config(path, settings), _find_checkpoint(folder)
    tensors, skipped = _read_variables(prefix)
    head = settings.get("head") or head_of(tensors, "google")
    if head and head not in TASK_HEADS:
        raise UserError(f"{path}: head is {head!r}, not one of {', '.join(TASK_HEADS)}")
    try:
        params = from_foreign(tensors, config, "google", head)
    except UserError as error:
        raise UserError(f"{prefix}: {error}") from None
    labels = _read_labels(folder / LABELS, params) if model_folder.has_labels(head) else []
    return config, params, FolderInfo(head, labels, skipped)


def _find_checkpoint(folder: Path) -> Path:
    """The prefix of the release, of the only checkpoint, or of the newest of a training."""
    found = sorted(path.with_suffix("") for path in folder.glob("*.index"))
    steps = {
        int(match[1]): prefix
        for prefix in found
        if (match := re.fullmatch(r"model\.ckpt-(\d+)", prefix.name))
    }
    if folder / CHECKPOINT in found:
        return folder / CHECKPOINT
    if len(found) == 1:
        return found[0]
    if len(steps) == len(found) and found:
        return steps[max(steps)]
    names = ", ".join(prefix.name for prefix in found) or "no *.index file"
    raise UserError(f"{folder}: needs one checkpoint, {CHECKPOINT}.index say; there is: {names}")


def _read_variables(prefix: Path) -> tuple[dict[str, Any], int]:
    """The model's variables by name, and how many of an optimizer were left out."""
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = sorted(reader.get_variable_to_shape_map())
        kept = [name for name in names if not is_slot(name)]
        return {name: reader.get_tensor(name) for name in kept}, len(names) - len(kept)
    except (tf.errors.OpError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{prefix}: broken, cut short or without its data ({reason})") from None


def _read_labels(path: Path, params: Any) -> list[str]:
    if not path.is_file():
        return []
    try:
        labels = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    model_folder.check_labels(path, labels, params)
    return labels


# --- Writing --------------------------------------------------------------------------------


def write_google(
    folder: Path,
    params: Any,
    config: BertConfig,
    tokenizer: Tokenizer,
    *,
    head: str = "",
    labels: Sequence[str] = (),
) -> None:
    """Writes a folder that the 2018 code takes for --init_checkpoint and --bert_config_file.

    The folder appears in full or not at all.

    Args:
      head: the kind of the head in params, a key of TASK_HEADS; "" without a head.
      labels: names of the outputs of a classification or tagging head, in their order.

    Raises:
      UserError: the folder is not empty, or something has no counterpart in the 2018 code.
    """
    if tokenizer.kind != "wordpiece":
        raise UserError(
            f"a {tokenizer.kind} tokenizer has no counterpart in the 2018 code, which reads "
            "vocab.txt; write Hugging Face's layout instead"
        )
    if config.norm_epsilon != _NORM_EPSILON:
        raise UserError(
            f"norm_epsilon is {config.norm_epsilon}, in the 2018 code it is {_NORM_EPSILON}; write "
            "Hugging Face's layout instead"
        )
    if model_folder.has_labels(head):
        _check_lines(folder, labels, params)
    variables = to_foreign(params, config, "google", head)
    settings = model_folder.config_json(config)
    if settings["hidden_act"] == "gelu_new":
        settings |= {"hidden_act": "gelu", "gelu": "gelu_new"}
    del settings[model_folder.CONFIG_KEYS["norm_epsilon"]]
    with model_folder.new_folder(folder, CONFIG) as partial:
        write_json(partial / CONFIG, settings | ({"head": head} if head else {}))
        _write_variables(partial / CHECKPOINT, variables)
        tokenizer.save(partial)
        if model_folder.has_labels(head):
            write_whole(partial / LABELS, "".join(f"{label}\n" for label in labels).encode())


def _check_lines(folder: Path, labels: Sequence[str], params: Any) -> None:
    model_folder.check_labels(folder, labels, params)
    for label in labels:
        if label.splitlines() != [label]:
            raise UserError(f"{folder}: the label {label!r} is not one line, as {LABELS} needs it")


def _write_variables(prefix: Path, variables: dict[str, Any]) -> None:
    import tensorflow as tf

    # The operation behind TensorFlow 1's Saver; that itself would need a graph of variables.
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=[tf.constant(array, tf.float32) for array in variables.values()],
    )
