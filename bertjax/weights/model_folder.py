"""What the model folders of others have in common: config keys, labels, and being written whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from bertjax.errors import UserError
from bertjax.files.whole_file import whole_folder
from bertjax.models.config import BertConfig
from bertjax.models.heads import TASK_HEADS

T = TypeVar("T")

# BertConfig's fields and their keys in both layouts; Hugging Face has taken Google's and added one.
CONFIG_KEYS = {
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
# hidden_act there -> feed_forward here, all that both know; the first name of each is written.
HIDDEN_ACTS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


@dataclasses.dataclass(frozen=True)
class FolderInfo:
    """What a folder says beside its parameters.

    Attributes:
      head: the kind of its head, a key of TASK_HEADS; "" without a head.
      labels: names of the head's outputs in their order; empty if unknown or without names.
      skipped: how many tensors of an optimizer were left out.
    """

    head: str
    labels: list[str]
    skipped: int = 0


def has_labels(head: str) -> bool:
    """Whether the outputs of a kind of head are labels with names."""
    return bool(head) and TASK_HEADS[head].num_outputs is None


def of_head(table: Mapping[str, T], head: str) -> T:
    """What a table of an export has for a kind of head; raises UserError: nothing."""
    if head not in table:
        raise UserError(
            f"a head of the kind {head} can be neither exported nor read; one of these can: "
            f"{', '.join(table)}"
        )
    return table[head]


def config_json(config: BertConfig) -> dict[str, Any]:
    names = (name for name, ours in HIDDEN_ACTS.items() if ours == config.feed_forward)
    sizes = {key: getattr(config, ours) for ours, key in CONFIG_KEYS.items()}
    return sizes | {"hidden_act": next(names)}


def own_settings(config: BertConfig) -> list[str]:
    """What makes an encoder another than the paper's, but for what the layouts know."""
    known = [*CONFIG_KEYS, "dtype", "attention_window", "attention_kernel"]
    if config.feed_forward in HIDDEN_ACTS.values():
        known.append("feed_forward")
    return [
        f"{field.name}={getattr(config, field.name)}"
        for field in dataclasses.fields(config)
        if field.name not in known and getattr(config, field.name) != field.default
    ]


def read_config(path: Path, settings: dict[str, Any], only: dict[str, Any]) -> BertConfig:
    """The config in a file's settings.

    Args:
      only: key -> the one value that this code computes; absent keys have it, too.

    Raises:
      UserError: another value, or sizes that do not fit together.
    """
    for key, value in only.items():
        if settings.get(key, value) != value:
            raise UserError(
                f"{path}: {key} is {settings.get(key)!r}, only {value!r} is supported here"
            )
    act = settings.get("hidden_act", "gelu")
    if act not in HIDDEN_ACTS:
        raise UserError(
            f"{path}: hidden_act is {act!r}, supported here are {', '.join(HIDDEN_ACTS)}"
        )
    if "vocab_size" not in settings:
        raise UserError(f"{path}: no vocab_size")
    fields = {ours: settings[key] for ours, key in CONFIG_KEYS.items() if key in settings}
    try:
        return BertConfig(**fields, feed_forward=HIDDEN_ACTS[act])
    except (UserError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None


def num_outputs(params: Any) -> int:
    return len(params["head"]["bias"])


def check_labels(source: Path, labels: Sequence[str], params: Any) -> None:
    """Raises UserError unless there is one name for each output, all different."""
    outputs = num_outputs(params)
    if len(labels) != outputs or len(set(labels)) != outputs:
        raise UserError(f"{source}: {outputs} outputs need as many different labels, not {labels}")


def check_target(folder: Path) -> None:
    """Raises UserError for a folder that holds something, or a file in its place."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; choose another folder or delete it")


@contextmanager
def new_folder(folder: Path, config: str) -> Iterator[Path]:
    """As whole_folder, for a folder that holds nothing yet; its config is written last."""
    check_target(folder)
    with whole_folder(folder, config) as partial:
        yield partial
