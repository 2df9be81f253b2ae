"""A run's checkpoint in, a folder that others can load out.

example:
  python -m bertjax.export --format=hf --run=runs/books --output=exports/books
  then, with transformers: AutoModelForPreTraining.from_pretrained("exports/books")
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bertjax import checkpoint, errors, huggingface, tokenizer
from bertjax.command_line import new_parser
from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.heads import Classifier, PretrainingModel

# Our own parameters read back must give what they gave: float32 is written as it is.
_TOLERANCE = 1e-6


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("export", __doc__)
    add = parser.add_argument
    add("--format", choices=["hf"], default="hf", help="hf: Hugging Face transformers")
    add("--run", type=Path, required=True, help="folder of a pretraining or fine-tuning run")
    add("--output", type=Path, required=True, help="folder to write; must be new or empty")
    add("--step", type=int, help="of the checkpoint; default: the best, or the newest if unscored")
    return parser.parse_args(argv)


def outputs(params: Any, config: BertConfig) -> tuple[Any, ...]:
    """Every output of the model that params belong to, on a small random batch with padding."""
    random = np.random.default_rng(0)
    batch, length = 4, min(32, config.max_positions)
    input_ids = jnp.asarray(random.integers(config.vocab_size, size=(batch, length)))
    lengths = random.integers(length // 2, length + 1, size=(batch, 1))
    input_mask = jnp.asarray(np.arange(length) < lengths, jnp.int32)
    segment_ids = jnp.asarray(random.integers(config.num_segments, size=(batch, length)))
    inputs = [input_ids, input_mask, segment_ids]
    if "head" in params:
        model = Classifier(config, len(params["head"]["bias"]))
        return (model.apply({"params": params}, *inputs),)
    positions = jnp.tile(jnp.arange(length // 2), (batch, 1))
    found: Any = PretrainingModel(config).apply({"params": params}, *inputs, positions)
    return tuple(found)


def largest_difference(first: tuple[Any, ...], second: tuple[Any, ...]) -> float:
    pairs = zip(first, second, strict=True)
    return max(float(jnp.max(jnp.abs(ours - theirs))) for ours, theirs in pairs)


def main() -> None:
    flags = parse_arguments()
    huggingface.check_target(flags.output)
    run = checkpoint.load_config(flags.run)
    config = BertConfig(**run["model"])
    params = checkpoint.load_params(flags.run, flags.step, best=True)
    huggingface.write_huggingface(
        flags.output,
        params,
        config,
        tokenizer.load(flags.run),
        labels=run.get("labels"),
        max_seq_length=run["max_seq_length"],
    )
    read_config, read, info = huggingface.read_huggingface(flags.output)
    # bfloat16 is a setting of the run, not of the folder; the folder's numbers are float32.
    config = dataclasses.replace(config, dtype="float32")
    difference = largest_difference(outputs(params, config), outputs(read, read_config))
    print(
        f"{flags.output}: {', '.join(info.architectures)}, "
        f"largest difference of its outputs from the run's: {difference:.1e}"
    )
    if not difference <= _TOLERANCE:
        raise UserError(
            f"{flags.output}: differs from the run by {difference:.1e}; do not use it, and report "
            "this as a bug"
        )


if __name__ == "__main__":
    sys.exit(errors.run(main))
