"""A run as one serialized program that JAX calls without this package: jax.export's StableHLO."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, export

from bertjax import programs
from bertjax.errors import UserError
from bertjax.files.json_file import write_json
from bertjax.models import encoders
from bertjax.models.config import BertConfig, EncoderConfig
from bertjax.models.heads import TaskModel
from bertjax.text import tokenizer
from bertjax.text.tokenizer import Tokenizer
from bertjax.weights import model_folder
from bertjax.weights.huggingface_tokenizer import write_tokenizer
from bertjax.weights.random_batch import random_batch

PROGRAM, DESCRIPTION = "program.stablehlo", "program.json"
PLATFORMS = ("cpu", "cuda", "tpu")
# Of two compilations of the same arithmetic, as a share of the largest output.
_TOLERANCE = 1e-3
_INPUTS = {
    "input_ids": "[CLS] text [SEP], or [CLS] text [SEP] text [SEP]; then [PAD]; what is not in the "
    "vocabulary is [UNK], also for encoders that read letters",
    "input_mask": "1 for tokens, 0 for padding",
    "segment_ids": "1 for the second text and its [SEP], else 0",
}
_ENCODED = {
    "sequence": "of every token, the last layer",
    "layers": "of every token, the embeddings and each layer above them",
    "pooled": "of the whole row",
}
_SCORES = {
    "classification": "scores of the labels; their softmax is the probabilities",
    "regression": "the number itself",
    "choice": "a row is a text with one choice; the softmax over an example's rows is the "
    "probabilities",
    "tagging": "of every token, scores of the labels; their softmax is the probabilities",
    "span": "of every token, scores of being the first and the last of the answer",
}
Outputs = dict[str, Array]
Function = Callable[[Array, Array, Array], Outputs]


class Model(NamedTuple):
    """What is exported.

    Attributes:
      head: the kind of its task's head; "" for an encoder alone.
      function: input_ids, input_mask and segment_ids [B, T] -> its outputs by their names.
    """

    config: EncoderConfig
    head: str
    words: Tokenizer
    function: Function


def model_of(folder: Path, run: Mapping[str, Any], params: Any) -> Model:
    """The encoder of a pretraining run, or the whole of a fine-tuned one, in float32.

    Words that are not in the vocabulary are [UNK], also where the encoder reads letters: a program
    knows the entries that it was made with.
    """
    config: Any = encoders.from_run(run)
    config = dataclasses.replace(config, dtype="float32")
    if isinstance(config, BertConfig):
        config = dataclasses.replace(config, attention_kernel="auto")
    words, head = tokenizer.load(folder), run.get("head", "")
    module: nn.Module = encoders.build(config, words)
    if head:
        more = run["features"]
        module = TaskModel(config, head, run["num_outputs"], words=words, **more)
    given = {"params": jax.tree.map(jnp.asarray, params if head else params["encoder"])}

    def function(*inputs: Array) -> Outputs:
        # Else accelerators would round what they multiply, each in its own way.
        with jax.default_matmul_precision("highest"):
            found: Any = module.apply(given, *inputs)
        return {"scores": found} if head else found._asdict()

    return Model(config, head, words, function)


def lowered(model: Model) -> export.Exported:
    """The program for batches of any size and length, and for all of PLATFORMS."""
    scope = export.SymbolicScope([f"length <= {model.config.max_positions}"])
    shape = export.symbolic_shape("batch, length", scope=scope)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.int32)] * len(_INPUTS)
    anywhere = programs.knowing(programs.ANYWHERE, model.function)
    return export.export(jax.jit(anywhere), platforms=PLATFORMS)(*inputs)


def write(folder: Path, model: Model, *, labels: Sequence[str], max_seq_length: int) -> float:
    """Writes a folder with the program, a description of it, and the tokenizer's files.

    The folder appears in full or not at all.

    Args:
      labels: names of the scores, in their order.
      max_seq_length: tokens that the model was trained with.

    Returns:
      The largest difference of what is written from the model.

    Raises:
      UserError: the folder is not empty; the program gives other numbers.
    """
    with model_folder.new_folder(folder, DESCRIPTION) as partial:
        program = lowered(model)
        (partial / PROGRAM).write_bytes(program.serialize())
        write_tokenizer(partial, model.words, max_seq_length)
        write_json(partial / DESCRIPTION, describe(program, model, labels, max_seq_length))
        difference, largest = _compare((partial / PROGRAM).read_bytes(), model)
        if not difference <= _TOLERANCE * max(1.0, largest):
            raise UserError(
                f"{folder}: would differ from the run by {difference:.1e}, so nothing is written; "
                "report this as a bug"
            )
    return difference


def describe(
    program: export.Exported, model: Model, labels: Sequence[str], max_seq_length: int
) -> dict[str, Any]:
    """What one must know to call the program; raises UserError: nothing is known of its head."""
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    meanings = {"scores": model_folder.of_head(_SCORES, model.head)} if model.head else _ENCODED
    ids = {name: getattr(model.words, f"{name}_id") for name in ("pad", "unk", "cls", "sep")}
    return {
        "call": f"jax.export.deserialize(bytes of {PROGRAM}).call({', '.join(_INPUTS)})",
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
        "encoder": model.config.encoder,
        "head": model.head,
        "labels": list(labels),
        "inputs": {
            name: {"shape": ["batch", "length"], "type": "int32", "meaning": meaning}
            for name, meaning in _INPUTS.items()
        },
        "outputs": {
            name: {
                "shape": [n if isinstance(n, int) else str(n) for n in outputs[name].shape],
                "type": str(outputs[name].dtype),
                "meaning": meaning,
            }
            for name, meaning in meanings.items()
        },
        "max_length": model.config.max_positions,
        "trained_with_length": max_seq_length,
        "ids": ids,
    }


def _compare(program: bytes, model: Model) -> tuple[float, float]:
    """The largest difference of a program from its model, and the largest output."""
    batch = random_batch(model.config)
    found = export.deserialize(bytearray(program)).call(*batch)
    wanted = jax.jit(model.function)(*batch)
    difference = max(float(jnp.max(jnp.abs(found[name] - wanted[name]))) for name in wanted)
    return difference, max(float(jnp.max(jnp.abs(value))) for value in wanted.values())
