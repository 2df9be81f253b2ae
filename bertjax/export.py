"""A run's checkpoint in, a folder that others can load out.

example:
  python -m bertjax.export --format=hf --run=runs/books --output=exports/books
  then, with transformers: AutoModelForPreTraining.from_pretrained("exports/books")
  python -m bertjax.export --format=tf1 --run=runs/books --output=exports/books-tf1
  then, with google-research/bert: --init_checkpoint=exports/books-tf1/bert_model.ckpt
  python -m bertjax.export --format=stablehlo --run=runs/elmo --output=exports/elmo
  then, with jax alone: jax.export.deserialize(...).call(...), see its program.json
  python -m bertjax.export --format=word2vec --run=runs/word2vec --output=exports/books.txt
  then, with gensim: KeyedVectors.load_word2vec_format("exports/books.txt")
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import errors
from bertjax.command_line import new_parser
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.models import encoders
from bertjax.models.config import BertConfig
from bertjax.models.heads import TaskModel
from bertjax.runs import checkpoint, run_folder
from bertjax.text import tokenizer
from bertjax.weights import (
    google,
    huggingface,
    model_folder,
    pretrained,
    stablehlo,
    word_vectors,
)
from bertjax.weights.model_folder import FolderInfo
from bertjax.weights.random_batch import random_batch
from bertjax.weights.word_layer import WordLayer
from bertjax.weights.word_vectors import WordVectors

VECTORS = {"word2vec": word_vectors.write_text, "word2vec-bin": word_vectors.write_binary}
# Our own parameters read back must give what they gave: float32 is written as it is.
_TOLERANCE = 1e-6


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("export", __doc__)
    add = parser.add_argument
    formats = (
        "hf: Hugging Face transformers; tf1: Google's code of 2018; stablehlo: a program, of any "
        "encoder; word2vec, word2vec-bin: a file of the vectors of all words, text or binary "
        "(%(default)s)"
    )
    kinds = ["hf", "tf1", "stablehlo", *VECTORS]
    add("--format", choices=kinds, default="hf", metavar="NAME", help=formats)
    add(
        "--run", type=storage.path, required=True, help="folder of a pretraining or fine-tuning run"
    )
    add(
        "--output", type=storage.path, required=True, help="to write; a folder must be new or empty"
    )
    add("--step", type=int, help="of the checkpoint; default: the best, or the newest if unscored")
    return parser.parse_args(argv)


def write_vectors(flags: argparse.Namespace) -> None:
    """The layer of embeddings of every whole word of the vocabulary; read back and compared."""
    if flags.output.exists():
        raise UserError(f"{flags.output}: exists already; choose another file or delete it")
    start = pretrained.load(flags.run)
    if flags.step is not None:
        start = start._replace(params=checkpoint.load_params(flags.run, flags.step))
    known = WordLayer(start).known()
    words = sorted(known.ids, key=known.ids.__getitem__)
    found = WordVectors(words, known.vectors[[known.ids[word] for word in words]])
    VECTORS[flags.format](flags.output, found)
    again = word_vectors.read(flags.output)
    if again.words != words or not np.array_equal(again.vectors, found.vectors):
        raise UserError(f"{flags.output}: differs from the run; report this as a bug")
    print(f"{flags.output}: {len(words):,} words, {found.vectors.shape[1]} numbers each")


def write_program(flags: argparse.Namespace) -> None:
    """The encoder, and its task's head if it has one, as a program; compared with the run."""
    model_folder.check_target(flags.output)
    run = run_folder.load_config(flags.run)
    params = checkpoint.load_params(flags.run, flags.step, best=True)
    model, labels = stablehlo.model_of(flags.run, run, params), run.get("labels", [])
    longest = run["max_seq_length"]
    difference = stablehlo.write(flags.output, model, labels=labels, max_seq_length=longest)
    what = model.head or f"the encoder ({model.config.encoder})"
    tell(flags.output, what, labels, difference)
    print(f"{flags.output}: runs on {', '.join(stablehlo.PLATFORMS)}; see {stablehlo.DESCRIPTION}")


def bert_config(flags: argparse.Namespace, run: dict[str, Any]) -> BertConfig:
    """The run's config in float32: bfloat16 is a setting of a run, not of a folder.

    Raises:
      UserError: another encoder than BERT.
    """
    folder = flags.run
    config = encoders.from_run(run)
    if not isinstance(config, BertConfig):
        raise UserError(
            f"{folder}: its encoder is {config.encoder}; --format=hf and tf1 are layouts of BERT "
            "alone. Give --format=stablehlo"
        )
    other = model_folder.own_settings(config)
    # transformers has a class for models of the next word, though none for their tasks.
    decoder = flags.format == "hf" and not run.get("head")
    if other and not (decoder and other == ["attention=causal"]):
        raise UserError(
            f"{folder}: {', '.join(other)}: neither layout knows such a model. Give "
            "--format=stablehlo"
        )
    return dataclasses.replace(config, dtype="float32")


def find_head(folder: Path, run: dict[str, Any]) -> str:
    """The kind of a run's task head; "" for a pretraining run.

    Raises:
      UserError: a head that neither layout has.
    """
    head = pretrained.paper_head(run)
    if run.get("head") and not head:
        raise UserError(
            f"{folder}: its head reads other layers than the last or is a BiLSTM; neither "
            "transformers nor the 2018 code has such a head. Give --format=stablehlo"
        )
    return head


def write(
    flags: argparse.Namespace, run: dict[str, Any], params: Any, config: BertConfig, head: str
) -> tuple[BertConfig, Any, FolderInfo]:
    """Writes the folder and reads it back."""
    words = tokenizer.load(flags.run)
    described = {"head": head, "labels": run.get("labels", [])}
    if flags.format == "tf1":
        google.write_google(flags.output, params, config, words, **described)
        return google.read_google(flags.output)
    longest = run["max_seq_length"]
    huggingface.write_huggingface(
        flags.output, params, config, words, max_seq_length=longest, **described
    )
    return huggingface.read_huggingface(flags.output)


def outputs(params: Any, config: BertConfig, head: str) -> tuple[Any, ...]:
    """Every output of the model that params belong to, on a small random batch with padding."""
    inputs = [jnp.asarray(array) for array in random_batch(config)]
    if head:
        model = TaskModel(config, head, model_folder.num_outputs(params))
        return (model.apply({"params": params}, *inputs),)
    pretraining = encoders.pretraining(config)
    if "masked_lm_positions" in pretraining.inputs:
        rows, length = inputs[0].shape
        inputs.append(jnp.tile(jnp.arange(length // 2), (rows, 1)))
    found: Any = pretraining.model(config, None, None).apply({"params": params}, *inputs)
    return tuple(jax.tree.leaves(found))


def largest_difference(first: tuple[Any, ...], second: tuple[Any, ...]) -> float:
    pairs = zip(first, second, strict=True)
    return max(float(jnp.max(jnp.abs(ours - theirs))) for ours, theirs in pairs)


def tell(output: Path, what: str, labels: Sequence[str], difference: float) -> None:
    print(
        f"{output}: {what}{' of ' + ', '.join(labels) if labels else ''}, "
        f"largest difference of its outputs from the run's: {difference:.1e}"
    )


def main() -> None:
    flags = parse_arguments()
    flags.run = run_folder.best_of_sweep(flags.run)
    if flags.format == "stablehlo":
        write_program(flags)
        return
    if flags.format in VECTORS:
        write_vectors(flags)
        return
    model_folder.check_target(flags.output)
    run = run_folder.load_config(flags.run)
    config = bert_config(flags, run)
    head = find_head(flags.run, run)
    params = checkpoint.load_params(flags.run, flags.step, best=True)
    read_config, read, info = write(flags, run, params, config, head)
    # Where a layout's class has no pooler, none is written, and no output hangs on it.
    read["encoder"].setdefault("pooler", params["encoder"]["pooler"])
    difference = largest_difference(
        outputs(params, config, head), outputs(read, read_config, info.head)
    )
    tell(flags.output, info.head or "pretraining", info.labels, difference)
    if not difference <= _TOLERANCE:
        raise UserError(
            f"{flags.output}: differs from the run by {difference:.1e}; do not use it, and report "
            "this as a bug"
        )


if __name__ == "__main__":
    sys.exit(errors.run(main))
