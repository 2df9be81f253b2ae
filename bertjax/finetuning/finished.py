"""Finished fine-tunings at work: predicting new examples, alone or as an ensemble."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from bertjax.data.rows import Shape
from bertjax.errors import UserError
from bertjax.files.json_file import read_json
from bertjax.files.tables import EXTENSIONS
from bertjax.finetuning import earlier
from bertjax.finetuning.method import tell
from bertjax.finetuning.predictor import Predictor, conclude, row_shape, shown
from bertjax.models import encoders
from bertjax.models.heads import TaskModel
from bertjax.runs import checkpoint, run_folder
from bertjax.tasks import own
from bertjax.tasks.base import Context, Encoded, Options, Task
from bertjax.tasks.table import TASKS
from bertjax.weights import pretrained

# Ends of the names of files with examples.
_KINDS = (*EXTENSIONS, ".json", ".conll", ".txt")


class Finished(NamedTuple):
    """A fine-tuned model with all that its predictions need."""

    run: Path
    task: Task
    context: Context
    predictor: Predictor
    shape: Shape
    params: Any


def load(
    run: Path, mesh: Mesh, changed: Mapping[str, Any] | None = None, columns: Sequence[str] = ()
) -> Finished:
    """The best checkpoint of a run, or the best run of a sweep.

    Args:
      changed: fields of Options that are other than in the training.
      columns: as --columns, of the files to be predicted; those of the training's if empty.

    Raises:
      UserError: not a fine-tuning.
    """
    run = run_folder.best_of_sweep(run)
    config = run_folder.load_config(run)
    if config.get("kind") != "finetune":
        raise UserError(f"{run}: not a fine-tuning; give the --workdir of bertjax.finetune")
    if not (run / run_folder.SCORES).is_file():
        print(f"{run}: not finished, its best checkpoint so far is taken; {_way_on(run)}")
    params = checkpoint.load_params(run, best=True)
    pretrained.check_head(run, config, params)
    encoder = encoders.from_run(config)
    words = pretrained.load_words(run, encoder)
    options = Options(**{**config["options"], **(changed or {})})
    context = Context(words, config["labels"], options)
    task = own.with_columns(TASKS[config["task"]], columns or config["columns"], kept=not columns)
    model = TaskModel(
        encoder,
        config["head"],
        config["num_outputs"],
        words=context.tokenizer,
        **config["features"],
    )
    # With the batches of the training, predictions are the same to the last bit.
    shape = row_shape(model, params, context, config["settings"]["batch_size"])
    return Finished(run, task, context, Predictor(model, mesh), shape, params)


def _way_on(run: Path) -> str:
    """How to come from an unfinished run to a finished one."""
    if (run / earlier.DIVERGED).is_file():
        return (
            f"it diverged, as {earlier.DIVERGED} there tells: train in another --workdir with a "
            "lower --learning_rate"
        )
    return "the command of its training goes on"


def name_of(path: Path) -> str:
    """What predictions of a file are called: its name, without the end that tells its kind."""
    return path.stem if path.suffix in _KINDS else path.name


def check_output(run: Path, splits: Iterable[str]) -> None:
    """Raises UserError: the folder is a run's, whose own predictions these would replace."""
    path = run / run_folder.SCORES
    known = read_json(path).get("digests", ("dev", "test")) if path.is_file() else ()
    for split in splits:
        if split in known and split != "train":
            raise UserError(
                f"{run}: holds the training's own predictions of {split}; give others a folder of "
                "their own: --output=DIR"
            )


def check_alike(members: Sequence[Finished]) -> None:
    """Raises UserError: members that differ in task, labels, vocabulary or options."""
    for other in members[1:]:
        _check_pair(members[0], other)


def encode(members: Sequence[Finished], split: str, examples: Sequence[Any]) -> list[Encoded]:
    """The rows of a split for each member, alike in all; says what was done to the examples.

    Raises:
      UserError: a label that the training did not have, or an example that has no room.
    """
    # Each with its own tokenizer: an open one has the words that it has met.
    encoded = [member.task.family.encode(examples, member.context) for member in members]
    tell(split, examples, encoded[0])
    return encoded


def predict(
    members: Sequence[Finished], examples: Sequence[Any], encoded: Sequence[Encoded]
) -> list[Any]:
    """Predictions for examples from the mean scores of all members (paper, table 2: ensemble).

    Args:
      encoded: as `encode` gives them.
    """
    first = members[0]
    found = [
        member.predictor(member.params, rows, member.shape)
        for member, rows in zip(members, encoded, strict=True)
    ]
    mean = [np.mean(scores, axis=0) for scores in zip(*found, strict=True)]
    return first.task.family.predict(examples, encoded[0].rows, mean, first.context)


def write(
    members: Sequence[Finished],
    split: str,
    examples: Sequence[Any],
    encoded: Sequence[Encoded],
    output: Path,
) -> None:
    """Predicts, writes what the task writes for a split, and prints scores if there is gold.

    Args:
      encoded: as `encode` gives them.
    """
    first, found = members[0], predict(members, examples, encoded)
    family = first.task.family
    written, scores = conclude(family, split, examples, found, first.context, output)
    for path in written:
        print(f"wrote {path}")
    if scores:
        print(f"{split}: {shown(scores)}")


def _check_pair(first: Finished, other: Finished) -> None:
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
