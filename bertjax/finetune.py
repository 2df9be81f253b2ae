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
from bertjax.command_line import new_parser
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.finetuning import finished, flag_checks, from_flags, method, sweep, word_tests
from bertjax.finetuning.method import Method
from bertjax.finetuning.tuning import Tuner
from bertjax.models import features
from bertjax.reporting import results
from bertjax.tasks import own, sources, submission
from bertjax.tasks.base import Context, Options, Task
from bertjax.tasks.table import TASKS
from bertjax.tasks.word_lists import WORD_TASKS, find
from bertjax.weights import pretrained

# What of the answers to questions a finished run leaves open.
ANSWERING = ("null_threshold", "n_best", "max_answer_length")
INITS = "a run, Hugging Face or TF1 folder, word vectors, scratch[:FOLDER]"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("finetune", __doc__)
    parser.usage = "python -m bertjax.finetune --task=TASK [options]"
    add = parser.add_argument
    tasks = [*TASKS, *WORD_TASKS]
    file: dict[str, Any] = {"type": storage.path, "metavar": "FILE"}
    add("--task", choices=sorted(tasks), metavar="TASK", help=", ".join(tasks))
    add("--mode", choices=["train", "predict"], default="train", help="(%(default)s)")
    add("--workdir", type=storage.path, metavar="RUN", help="continued if there is one (runs/TASK)")
    add("--data_dir", type=storage.path, metavar="DIR", help="official files (tensorflow-datasets)")
    add("--train", **file, help="your own (.tsv .csv .jsonl .conll ...), also --dev, --test")
    for split in ("dev", "test"):
        add(f"--{split}", type=storage.path, help=argparse.SUPPRESS)
    add(
        "--columns", nargs="+", default=[], metavar="A=B", help="column A of the task is B in yours"
    )
    add("--init", metavar="FROM", help=f"{INITS} (newest in runs/)")
    add("--input", **file, help="to predict, into --output DIR (RUN)")
    add("--output", type=storage.path, help=argparse.SUPPRESS)
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="runs of each setting (1; with --sweep 5); --keep_all their weights",
    )
    add("--sweep", action="store_true", help="the paper's grid, but for what is given")
    add("--keep_all", action="store_true", help=argparse.SUPPRESS)
    add("--encoder", choices=["tuned", "frozen"], default="tuned", help="(%(default)s)")
    every = [*features.CHOICES, from_flags.EVERY]
    add("--layers", choices=every, default="", metavar="NAME", help=", ".join(every))
    add("--extra_train", **file, help="train on it first, then on the task's")
    add(
        "--ensemble",
        nargs="+",
        type=storage.path,
        metavar="RUN",
        help="predict: average their scores",
    )
    add(
        "--submission",
        type=storage.path,
        metavar="ZIP",
        help="add the test answers, for the GLUE site",
    )
    add_settings(parser)
    return parser.parse_args(argv)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The numbers, which are told together so that the help fits one screen."""

    def group(title: str, description: str, **kinds: Any) -> None:
        wanted = parser.add_argument_group(title, description)
        for name, more in kinds.items():
            wanted.add_argument(f"--{name}", help=argparse.SUPPRESS, **more)

    yes = {"action": "store_true", "default": None}
    whole, real = {"type": int}, {"type": float}
    group(
        "training, by default as the task has it",
        "--batch_size N, --learning_rate X, --epochs N, --max_seq_length N, --seed N (0)\n"
        "--warmup_share X (0.1), --layer_decay X (1), --bias_correction (no, as in 2018)\n"
        "--dropout P (of --init), --dtype float32|bfloat16 (float32), --train_examples N (all)",
        batch_size=whole,
        learning_rate=real,
        epochs=whole,
        max_seq_length=whole,
        seed={"type": int, "default": 0},
        warmup_share=real,
        layer_decay=real,
        bias_correction=yes,
        dropout=real,
        dtype={"choices": ["float32", "bfloat16"], "default": "float32"},
        train_examples=whole,
    )
    group(
        "tagging and questions",
        "--[no-]document_context (conll: yes), --head linear|bilstm (bilstm on a frozen encoder)\n"
        "--doc_stride N (128), --max_query_length N (64), --max_answer_length N (30)\n"
        "--n_best N (20), --null_threshold X (0); the last three also with --mode=predict",
        document_context={"action": argparse.BooleanOptionalAction},
        head={"choices": ["linear", "bilstm"]},
        doc_stride=whole,
        max_query_length=whole,
        max_answer_length=whole,
        n_best=whole,
        null_threshold=real,
    )


def train(flags: argparse.Namespace, task: Task) -> None:
    flag_checks.check_task(flags, task)
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
    wanted = submission.files_of(task, examples) if flags.submission else {}
    fixed = task.labels
    labels = list(task.family.find_labels(examples["train"]) if fixed is None else fixed)
    # What is not drawn may hold the only examples of a label.
    source += from_flags.draw(flags, examples)
    context = Context(start.tokenizer, labels, options)
    kinds = from_flags.layer_kinds(flags, start)
    models = [from_flags.build_model(flags, task, start, len(labels), layers) for layers in kinds]
    data = method.encode(task, examples, context, source, flags.columns)
    runs = []
    for model in models:
        folder = flags.workdir / model.layers if len(models) > 1 else flags.workdir
        tuner = Tuner(task, context, start, model, mesh, shared)
        runs.append(from_flags.run_all(flags, tuner, folder, data))
    if not distributed.is_first():
        return
    if len(models) > 1:
        sweep.write_comparison(flags.workdir, dict(zip(kinds, runs, strict=True)))
    elif flags.submission:
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
    word_tests.run(flags.task, pretrained.find(flags.init), files, flags.workdir)


# --- Predicting -----------------------------------------------------------------------------


def predict(flags: argparse.Namespace) -> None:
    """With one finished run or with several, for a file or for the splits of a data set.

    All is read and checked before anything is predicted.
    """
    mesh = partition.make_mesh()
    given = from_flags.given(flags, Options)
    options = {name: value for name, value in given.items() if name in ANSWERING}
    runs = flags.ensemble or [flags.workdir]
    members = [finished.load(run, mesh, options, flags.columns) for run in runs]
    finished.check_alike(members)
    task = members[0].task
    flag_checks.check_task(flags, task)
    examples = read_new(flags, task)
    wanted = submission.files_of(task, examples) if flags.submission else {}
    output = flags.output or flags.workdir
    if not flags.output:
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
