"""Finished fine-tunings at work: predicting new examples, alone or as an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from bertjax import checkpoint, tokenizer
from bertjax.data.rows import Shape
from bertjax.errors import UserError
from bertjax.json_file import read_json
from bertjax.models.config import BertConfig
from bertjax.models.heads import TaskModel
from bertjax.predictor import Predictor
from bertjax.tasks import own
from bertjax.tasks.base import Context, Encoded, Options, Task
from bertjax.tasks.table import TASKS
from bertjax.whole_file import write_whole


class Finished(NamedTuple):
    """A fine-tuned model with all that its predictions need."""

    run: Path
    task: Task
    context: Context
    model: TaskModel
    params: Any
    batch_size: int


def load(run: Path) -> Finished:
    """The best checkpoint of a run, or the best run of a sweep.

    Raises:
      UserError: not a fine-tuning.
    """
    run = best_of_sweep(run)
    config = checkpoint.load_config(run)
    if config.get("kind") != "finetune":
        raise UserError(f"{run}: not a fine-tuning; give the --workdir of bertjax.finetune")
    params = checkpoint.load_params(run, best=True)
    context = Context(tokenizer.load(run), config["labels"], Options(**config["options"]))
    task = own.with_columns(TASKS[config["task"]], config["columns"])
    outputs = config["num_outputs"]
    model = TaskModel(BertConfig(**config["model"]), config["head"], outputs, **config["features"])
    # With the batches of the training, predictions are the same to the last bit.
    return Finished(run, task, context, model, params, config["settings"]["batch_size"])


def best_of_sweep(run: Path) -> Path:
    """The folder itself, or of a sweep that of its best run."""
    path = run / "sweep.json"
    return run / read_json(path)["best"] if path.is_file() else run


def outputs(finished: Finished, encoded: Encoded, mesh: Mesh) -> list[np.ndarray]:
    """Scores as base.Family.predict takes them."""
    shape = Shape(
        finished.model.head,
        finished.batch_size,
        finished.context.options.max_seq_length,
        finished.context.tokenizer.pad_id,
    )
    return Predictor(finished.model, mesh)(finished.params, encoded, shape)


def predict(members: Sequence[Finished], examples: Sequence[Any], mesh: Mesh) -> list[Any]:
    """Predictions for examples from the mean scores of all members (paper, table 2: ensemble).

    Raises:
      UserError: members that differ in task, labels, vocabulary or options.
    """
    first = members[0]
    for other in members[1:]:
        _check_alike(first, other)
    family = first.task.family
    encoded = family.encode(examples, first.context)
    found = [outputs(member, encoded, mesh) for member in members]
    mean = [np.mean(scores, axis=0) for scores in zip(*found, strict=True)]
    return family.predict(examples, encoded.rows, mean, first.context)


def write(
    members: Sequence[Finished], split: str, examples: Sequence[Any], output: Path, mesh: Mesh
) -> None:
    """Predicts, writes what the task writes for a split, and prints scores if there is gold."""
    first = members[0]
    family = first.task.family
    found = predict(members, examples, mesh)
    for name, content in family.files(split, examples, found, first.context).items():
        write_whole(output / name, content.encode())
        print(f"wrote {output / name}")
    if all(example.gold is not None for example in examples):
        scores = family.score(examples, found)
        print(f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))


def _check_alike(first: Finished, other: Finished) -> None:
    pairs = {
        "task": (first.task.name, other.task.name),
        "labels": (list(first.context.labels), list(other.context.labels)),
        "vocabulary": (first.context.tokenizer.fingerprint, other.context.tokenizer.fingerprint),
        "options": (first.context.options, other.context.options),
    }
    for name, (one, two) in pairs.items():
        if one != two:
            raise UserError(
                f"{other.run}: its {name} differ(s) from {first.run}'s; an ensemble's members "
                "must agree"
            )
