"""Fine-tunes a pretrained encoder on a labelled task, and predicts with the result.

examples:
  python -m bertjax.finetune --task=squad --data_dir=squad --init=runs/base
  python -m bertjax.finetune --task=classify --train=mails.csv --dev=more.csv \\
      --columns sentence=body label=folder
  python -m bertjax.finetune --task=rte --data_dir=glue --sweep --seeds=5
  python -m bertjax.finetune --mode=predict --workdir=runs/classify --input=new.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertjax import compile_cache, distributed, memory, partition
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.finetuning import earlier, finished, flag_checks, from_flags, method, sweep, word_tests
from bertjax.finetuning.flags import new_parser
from bertjax.finetuning.method import Method
from bertjax.finetuning.tuning import Tuner
from bertjax.reporting import results
from bertjax.tasks import own, sources, submission
from bertjax.tasks.base import Context, Options, Task
from bertjax.tasks.table import TASKS
from bertjax.tasks.word_lists import WORD_TASKS, find
from bertjax.training.pulse import heed_sigterm

# What of the answers to questions a finished run leaves open.
ANSWERING = ("null_threshold", "n_best", "max_answer_length")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    return new_parser(__doc__).parse_args(argv)


def train(flags: argparse.Namespace, task: Task) -> None:
    """One training or many, and what they predict.

    Raises:
      UserError: flags or files that do not fit the task, the model or each other; a folder that
        holds something else.
      Diverged: the only run lost its finite loss or scores.
      SystemExit: with 0 after SIGTERM, when all is saved.
    """
    heed_sigterm()
    flag_checks.check_task(flags, task)
    flag_checks.check_folder(flags)
    watching = from_flags.watching(flags)
    mesh = partition.make_mesh()
    shared = Method(**from_flags.given(flags, Method))
    for point in from_flags.all_points(flags, task):
        method.check(point, shared, mesh)
    start = from_flags.find_start(flags)
    limit = from_flags.row_length(flags, task, start)
    options = Options(
        **{**task.options, **from_flags.given(flags, Options), "max_seq_length": limit}
    )
    examples, source = from_flags.read_data(task, flags)
    extra = from_flags.read_extra(task, flags)
    wanted = submission.files_of(task, examples) if flags.submission else {}
    fixed = task.labels
    labels = list(task.family.find_labels(examples["train"]) if fixed is None else fixed)
    # What is not drawn may hold the only examples of a label.
    source += from_flags.draw(flags, examples, options.document_context)
    context = Context(start.tokenizer, labels, options)
    kinds = from_flags.layer_kinds(flags, task, start)
    models = [from_flags.build_model(flags, task, start, len(labels), layers) for layers in kinds]
    data = method.encode(task, examples, context, source, flags.columns)
    first = method.trained_on(data, task, context, extra, flags.extra_train) if extra else None
    runs = []
    for model in models:
        folder = flags.workdir / model.layers if len(models) > 1 else flags.workdir
        tuner = Tuner(task, context, start, model, mesh, shared, watching)
        runs.append(from_flags.run_all(flags, tuner, folder, data, first))
    if not distributed.is_first():
        return
    if len(models) > 1:
        sweep.write_comparison(flags.workdir, dict(zip(kinds, runs, strict=True)))
    elif flags.submission:
        earlier.check_predicted(runs[0], data, wanted)
        submit(flags.submission, wanted, runs[0])


def submit(archive: Path, wanted: Mapping[str, str], folder: Path) -> None:
    """Puts the answers to some splits, whose predictions lie in a folder, into the site's zip."""
    answers = {file: results.read_answers(folder, split) for split, file in wanted.items()}
    submission.write_submission(archive, answers)


def evaluate_words(flags: argparse.Namespace) -> None:
    """Tests of word vectors, for which nothing is trained.

    Raises:
      UserError: no files; flags that would change nothing.
    """
    flag_checks.check_words(flags, parse_arguments([]))
    if flags.test is None and flags.data_dir is None:
        raise UserError(f"--task={flags.task}: give its files, --data_dir=DIR or --test=FILE")
    files = {flags.test.stem: flags.test} if flags.test else find(flags.task, flags.data_dir)
    word_tests.run(flags.task, flags.init, files, flags.workdir)


# --- Predicting -----------------------------------------------------------------------------


def predict(flags: argparse.Namespace) -> None:
    """With one finished run or with several, for a file or for the splits of a data set.

    All is read and checked before anything is predicted.
    """
    mesh = partition.make_mesh()
    given = from_flags.given(flags, Options)
    options = {name: value for name, value in given.items() if name in ANSWERING}
    output = flags.output or flags.workdir
    storage.check_writable(output)
    runs = flags.ensemble or [flags.workdir]
    members = [finished.load(run, mesh, options, flags.columns) for run in runs]
    finished.check_alike(members)
    task = members[0].task
    flag_checks.check_task(flags, task)
    examples = read_new(flags, task)
    wanted = submission.files_of(task, examples) if flags.submission else {}
    finished.check_output(output, examples)
    encoded = {split: finished.encode(members, split, examples[split]) for split in examples}
    for split, found in examples.items():
        finished.write(members, split, found, encoded[split], output)
    if wanted and distributed.is_first():
        submit(flags.submission, wanted, output)


def read_new(flags: argparse.Namespace, task: Task) -> dict[str, list[Any]]:
    """{split: examples} to predict: --input, or all of a data set but what is trained on.

    Raises:
      UserError: there is nothing else.
    """
    if flags.input:
        read = sources.load(task, {"test": flags.input}, need=())
        return {finished.name_of(flags.input): read["test"]}
    flag_checks.check_input(flags, task)
    examples, source = from_flags.read_data(task, flags, need=())
    examples.pop("train", None)
    if not examples:
        raise UserError(f"{source}: only train is there, which is not predicted; give --input=FILE")
    return examples


def main() -> None:
    flags = parse_arguments()
    flag_checks.check_mode(flags, parse_arguments([]))
    memory.keep_freed_memory()
    compile_cache.turn_on()
    if flags.mode == "predict":
        if flags.workdir is None and not (flags.ensemble and flags.output):
            raise UserError("--mode=predict: give --workdir=RUN, or --ensemble and --output")
        predict(flags)
        return
    if flags.task is None:
        raise UserError(f"--task is missing; choose one of {', '.join(TASKS)}")
    flags.workdir = flags.workdir or Path("runs", flags.task)
    if flags.task in WORD_TASKS:
        evaluate_words(flags)
        return
    task = own.with_columns(TASKS[flags.task], flags.columns)
    train(flags, task)


if __name__ == "__main__":
    sys.exit(distributed.run(main))
