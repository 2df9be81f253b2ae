"""Refuses flags of bertjax.finetune that would change nothing or fail late where they are given."""

from __future__ import annotations

import argparse
import math
from typing import Any

from bertjax.command_line import named
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.finetuning.from_flags import EVERY, is_single
from bertjax.models import features
from bertjax.runs import run_folder
from bertjax.tasks import submission
from bertjax.tasks.base import Task

# What a finished run has settled.
TRAINING = (
    *("train", "init", "seeds", "sweep", "keep_all", "encoder", "layers", "extra_train"),
    *("batch_size", "learning_rate", "epochs", "seed", "warmup_share", "layer_decay", "dropout"),
    *("bias_correction", "dtype", "max_seq_length", "doc_stride", "max_query_length"),
    *("train_examples", "document_context", "head", "wandb", "profile"),
)
# What tests of word vectors take.
WORDS = ("task", "mode", "workdir", "data_dir", "test", "init")
PREDICTING = ("input", "output", "ensemble")
# What is predicted is either a file or the splits of a data set.
_DATA_SETS = ("data_dir", "dev", "test")
_QUESTIONS = ("doc_stride", "max_query_length", "max_answer_length", "n_best", "null_threshold")
# What only some families of tasks read: their head, and what they do, for messages.
_HEADS = {
    **dict.fromkeys(("document_context", "head"), ("tagging", "tagging")),
    **dict.fromkeys(_QUESTIONS, ("span", "questions")),
}


def check_mode(flags: argparse.Namespace, usual: argparse.Namespace) -> None:
    """Raises UserError: flags that the mode does not read, or an --output that is a file.

    Args:
      usual: all flags without any given.
    """
    given = _given(flags, usual)
    if flags.mode == "train":
        if idle := named(given, PREDICTING):
            raise UserError(f"{idle}: for --mode=predict; add that, or leave it out")
        if flags.keep_all and is_single(flags):
            raise UserError("--keep_all: of one run all is kept; add --seeds=N or --sweep")
        check_profile(flags)
        return
    if idle := named(given, TRAINING):
        raise UserError(f"{idle}: --mode=predict goes on with what the run was trained with")
    if flags.ensemble and flags.workdir:
        raise UserError("--workdir: one run; give it to --ensemble, too, or leave it out")
    if flags.input and (idle := named(given, _DATA_SETS)):
        raise UserError(f"{idle}: --input alone is predicted; leave one of them out")
    if flags.output and flags.output.is_file():
        raise UserError(f"--output={flags.output}: a file; give a folder")


def check_profile(flags: argparse.Namespace) -> None:
    """Raises UserError: steps to trace where it is not clear of which training."""
    if flags.profile and (flags.extra_train or flags.layers == EVERY or not is_single(flags)):
        raise UserError(
            "--profile: traces one training; leave it out, or --seeds, --sweep, --layers=all and "
            "--extra_train"
        )


def check_words(flags: argparse.Namespace, usual: argparse.Namespace) -> None:
    """Raises UserError: flags that tests of word vectors do not read; args as of check_mode."""
    given = _given(flags, usual)
    if idle := named(given, [name for name in given if name not in WORDS]):
        raise UserError(f"{idle}: nothing is trained for --task={flags.task}; leave them out")
    if flags.test and flags.data_dir:
        raise UserError("--data_dir: --test alone is read; leave one of them out")


def check_folder(flags: argparse.Namespace) -> None:
    """Raises UserError: --workdir holds a sweep where one run is asked for, or the other way round.

    Of a folder with both, all that read it would take the best run of the sweep. And OSError:
    nothing can be written there.
    """
    storage.check_writable(flags.workdir)
    for kind in features.CHOICES if flags.layers == EVERY else ("",):
        folder = flags.workdir / kind
        if is_single(flags) and (folder / run_folder.SWEEP).is_file():
            raise UserError(
                f"{folder}: holds a sweep, whose best run is all that is read of it; give a single "
                "run another --workdir"
            )
        if not is_single(flags) and run_folder.is_run(folder):
            raise UserError(
                f"{folder}: holds a single run, which a sweep would hide; give this one another "
                "--workdir"
            )


def _given(flags: argparse.Namespace, usual: argparse.Namespace) -> list[str]:
    return [name for name, value in vars(flags).items() if value != getattr(usual, name)]


def check_task(flags: argparse.Namespace, task: Task) -> None:
    """Raises UserError: flags for other tasks than this one."""
    if flags.task not in (None, task.name):
        raise UserError(f"--task={flags.task}: the run is of --task={task.name}; leave it out")
    for name, (head, what) in _HEADS.items():
        value = getattr(flags, name)
        if value is not None and task.family.head != head:
            raise UserError(f"{_shown(name, value)}: is for {what}, not for --task={task.name}")
    if flags.null_threshold is not None and not getattr(task.family, "unanswerable", False):
        raise UserError(
            f"--null_threshold={flags.null_threshold:g}: every question of --task={task.name} has "
            "an answer; leave it out"
        )
    if flags.null_threshold is not None and math.isnan(flags.null_threshold):
        raise UserError(f"--null_threshold={flags.null_threshold}: give a number")
    check_submission(flags, task)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def check_input(flags: argparse.Namespace, task: Task) -> None:
    """Raises UserError: nothing to predict for a task of own files."""
    if task.reader.tfds is None and not any(getattr(flags, name) for name in _DATA_SETS):
        raise UserError(
            f"--input is missing: give the file that the run of --task={task.name} is to predict, "
            "or its splits, --data_dir=FOLDER"
        )


def check_submission(flags: argparse.Namespace, task: Task) -> None:
    """Checks --submission before anything is trained or predicted for it.

    Raises:
      UserError: there is nothing that the site takes, or the zip cannot be written.
    """
    if not flags.submission:
        return
    if not task.submission:
        raise UserError(
            f"--submission: the GLUE site takes no answers of --task={task.name}; leave it out"
        )
    if flags.layers == EVERY:
        raise UserError(
            "--submission: takes one run's answers, and --layers=all makes several; choose one of "
            "them"
        )
    submission.check_target(flags.submission)
