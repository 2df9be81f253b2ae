"""The encoder a fine-tuning starts from: a run of ours or a Hugging Face folder, as one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bertjax import checkpoint, huggingface, tokenizer
from bertjax.errors import UserError
from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig


class Pretrained(NamedTuple):
    """An encoder's config, its parameters with any heads (NumPy arrays), and its tokenizer."""

    config: BertConfig
    params: Any
    tokenizer: tokenizer.Tokenizer


def load(folder: Path) -> Pretrained:
    """Loads the newest (or, of a fine-tuned run, the best) parameters of a folder.

    Raises:
      UserError: neither a run nor a Hugging Face folder, or one whose vocabulary or config does
        not fit its parameters.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a run of bertjax or a Hugging Face folder")
    if (folder / "checkpoints").is_dir():
        config = BertConfig(**checkpoint.load_config(folder)["model"])
        params = checkpoint.load_params(folder, best=True)
        _check_encoder(folder, config, params)
    else:
        config, params, _ = huggingface.read_huggingface(folder)
    words = tokenizer.load(folder)
    if words.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: the vocabulary has {words.vocab_size} entries, the model only "
            f"{config.vocab_size}; use the vocabulary the model was trained with"
        )
    return Pretrained(config, params, words)


def _check_encoder(folder: Path, config: BertConfig, params: Any) -> None:
    """Compares the encoder with what its config would make, before anything is built on it."""
    row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    wanted = jax.eval_shape(Bert(config).init, jax.random.key(0), row, row, row)["params"]
    checkpoint.check_shapes(folder, {"encoder": params["encoder"]}, {"encoder": wanted})


def transplant(given: Any, fresh: Any, source: Path) -> tuple[Any, list[str]]:
    """Puts given parameters in place of fresh ones, part by part ("encoder", "head", ...).

    The encoder must fit exactly. A part that only the fresh tree has stays fresh; one that only
    the given tree has is left out; both are told.

    Returns:
      The merged tree, and lines that begin with + (started fresh) or - (left out).
    """
    checkpoint.check_shapes(source, {"encoder": given["encoder"]}, {"encoder": fresh["encoder"]})
    new = [f"+ {name}: starts fresh" for name in fresh if name != "encoder"]
    left = [f"- {name}: left out" for name in given if name != "encoder"]
    return {**fresh, "encoder": given["encoder"]}, new + left
