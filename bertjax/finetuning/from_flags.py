"""What the flags of bertjax.finetune stand for: the start, the examples, the model, the runs."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.finetuning import sweep
from bertjax.finetuning.method import Data, Point
from bertjax.finetuning.tuning import Tuner, Watching
from bertjax.models import encoders, features
from bertjax.models.heads import TASK_HEADS, TaskModel
from bertjax.tasks import sources
from bertjax.tasks.base import HEAD_RATES, Recipe, Task
from bertjax.training import profiler, wandb_log
from bertjax.weights import pretrained

# For --layers: all of them, one after the other (paper, table 7).
EVERY = "all"


def given(flags: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The flags that were given, of those that a dataclass has as fields."""
    found = {field.name: getattr(flags, field.name) for field in dataclasses.fields(kind)}
    return {name: value for name, value in found.items() if value is not None}


def find_start(flags: argparse.Namespace) -> pretrained.Pretrained:
    """What --init names, with what the flags change in it."""
    start = pretrained.find(flags.init)
    config: Any = start.config
    if flags.dropout is not None:
        if not 0 <= flags.dropout < 1:
            raise UserError(f"--dropout={flags.dropout}: give a share from 0 to below 1")
        config = encoders.with_dropout(config, flags.dropout)
    return start._replace(config=dataclasses.replace(config, dtype=flags.dtype))


def row_length(flags: argparse.Namespace, task: Task, start: pretrained.Pretrained) -> int:
    """--max_seq_length, or the task's as far as the encoder has positions.

    Raises:
      UserError: --max_seq_length is more than that.
    """
    wanted, positions = task.recipe.max_seq_length, start.config.max_positions
    if flags.max_seq_length is None and wanted > positions:
        print(f"max_seq_length: {positions}, all that {start.name} has (usual are {wanted})")
    limit = min(wanted, positions) if flags.max_seq_length is None else flags.max_seq_length
    if limit > positions:
        raise UserError(
            f"--max_seq_length={limit}: {start.name} has {positions} positions; give at most that"
        )
    return limit


def read_data(
    task: Task, flags: argparse.Namespace, need: tuple[str, ...] = ("train", "dev")
) -> tuple[dict[str, list[Any]], str]:
    """{split: examples}, and where they came from."""
    files = {split: getattr(flags, split) for split in ("train", "dev", "test")}
    files = {split: path for split, path in files.items() if path is not None}
    examples = sources.load(task, files, flags.data_dir, need)
    named = [str(flags.data_dir)] * bool(flags.data_dir)
    named += [f"{split}={path}" for split, path in files.items()]
    source = " ".join(named) or "tfds"
    return examples, source


def read_extra(task: Task, flags: argparse.Namespace) -> list[Any]:
    """The examples of --extra_train; none without it."""
    if not flags.extra_train:
        return []
    return sources.load(task, {"train": flags.extra_train}, need=())["train"]


def layer_kinds(
    flags: argparse.Namespace, task: Task, start: pretrained.Pretrained
) -> tuple[str, ...]:
    """What heads are to read: --layers, or all for which the encoder has layers; tells the rest.

    Not the pooled vector where nothing has trained what makes it, nor is going to.
    """
    pools = not (flags.layers or TASK_HEADS[task.family.head].per_token)
    if pools and flags.encoder == "frozen" and not pretrained.pools(start):
        why = f"nothing has trained the pooled vector of {start.name}"
        print(f"layers: {features.MIX}, for {why} (others: --layers)")
        return (features.MIX,)
    if flags.layers != EVERY:
        return (flags.layers,)
    number = start.config.num_layers
    kinds = features.readable(number)
    missing = [name for name in features.CHOICES if name not in kinds]
    if missing:
        print(f"--layers={EVERY}: the encoder has {number} layer(s), so not {', '.join(missing)}")
    return kinds


def draw(flags: argparse.Namespace, examples: dict[str, list[Any]], in_documents: bool) -> str:
    """Leaves --train_examples to train on; returns what that adds to where they came from."""
    if flags.train_examples is None:
        return ""
    examples["train"] = sources.drawn(examples["train"], flags.train_examples, in_documents)
    return f", {len(examples['train']):,} training examples"


def build_model(
    flags: argparse.Namespace,
    task: Task,
    start: pretrained.Pretrained,
    num_labels: int,
    layers: str,
) -> TaskModel:
    """Raises UserError: the encoder has too few layers, or --extra_train would leave no trace."""
    head, frozen = task.family.head, flags.encoder == "frozen"
    if layers:
        features.check(layers, start.config.num_layers)
    if flags.layer_decay not in (None, 1.0) and (frozen or not start.config.num_layers):
        why = "a frozen encoder learns nothing" if frozen else f"{start.name} has no layers"
        raise UserError(f"--layer_decay={flags.layer_decay:g}: {why}; leave it out")
    kind = flags.head or ("bilstm" if frozen and head == "tagging" else "linear")
    read = {"layers": layers, "bilstm": kind == "bilstm"}
    if flags.extra_train and frozen and not pretrained.paper_head({"head": head, "features": read}):
        raise UserError(
            "--extra_train: of a frozen encoder nothing is kept but a linear head on its last "
            "layer; leave it out, or --encoder=frozen"
        )
    return TaskModel(
        start.config,
        head,
        TASK_HEADS[head].num_outputs or num_labels,
        layers=layers,
        frozen=frozen,
        bilstm=kind == "bilstm",
        words=start.tokenizer,
    )


def watching(flags: argparse.Namespace) -> Watching:
    """Raises UserError: --profile names no steps, or there is no wandb for --wandb."""
    if flags.wandb:
        wandb_log.opener(flags.wandb, flags.workdir, {})  # That it is missing is told early.
    return Watching(flags.wandb, profiler.parse_steps(flags.profile) if flags.profile else None)


def run_all(
    flags: argparse.Namespace, tuner: Tuner, folder: Path, data: Data, first: Data | None
) -> Path:
    """One run, or many of which the best by dev is kept; returns the best run's folder.

    Args:
      first: what is trained on before, see method.trained_on.
    """
    point = first_point(flags, tuner.task)
    if first:
        tuner.train_first(folder / "extra", point, first)
    points = all_points(flags, tuner.task)
    if is_single(flags):
        tuner.run(folder, point, data)
        return folder
    return sweep.run(folder, points, lambda run, point: tuner.run(run, point, data), flags.keep_all)


def is_single(flags: argparse.Namespace) -> bool:
    """Whether one run is asked for, which needs no folder of many."""
    return not flags.sweep and flags.seeds in (None, 1)


def first_point(flags: argparse.Namespace, task: Task) -> Point:
    usual = dataclasses.asdict(task.recipe)
    if flags.encoder == "frozen":
        usual["learning_rate"] = HEAD_RATES[0]
    recipe = usual | given(flags, Recipe)
    return Point(recipe["batch_size"], recipe["learning_rate"], recipe["epochs"], flags.seed)


def all_points(flags: argparse.Namespace, task: Task) -> list[Point]:
    """The settings of all runs.

    Raises:
      UserError: not even one seed.
    """
    seeds = (5 if flags.sweep else 1) if flags.seeds is None else flags.seeds
    if seeds < 1:
        raise UserError(f"--seeds={seeds}: give at least 1")
    point = first_point(flags, task)
    if flags.sweep:
        tried = {"learning_rate": HEAD_RATES} if flags.encoder == "frozen" else {}
        return sweep.grid(point, seeds, given(flags, Recipe), sweep.GRID | tried)
    return sweep.repeated(point, seeds)
