"""The flags of bertjax.finetune."""

from __future__ import annotations

import argparse
from typing import Any

from bertjax import command_line
from bertjax.files import storage
from bertjax.finetuning import from_flags
from bertjax.models import features
from bertjax.tasks.table import TASKS
from bertjax.tasks.word_lists import WORD_TASKS

_INITS = "a run, HF or TF1 folder, vectors, scratch[:FOLDER]"


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """Args: doc: of the command, for --help."""
    parser = command_line.new_parser("finetune", doc, "--task=TASK [options]")
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
    add("--init", metavar="FROM", help=f"{_INITS} (newest in runs/)")
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
    add(
        "--wandb",
        metavar="PROJECT",
        help="every run's metrics to Weights & Biases, too; --profile A:B traces one's",
    )
    add("--profile", help=argparse.SUPPRESS)
    _add_settings(parser)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The numbers, which are told together so that the help fits one screen."""

    def group(title: str, description: str, **kinds: Any) -> None:
        wanted = parser.add_argument_group(title, description)
        for name, more in kinds.items():
            wanted.add_argument(f"--{name}", help=argparse.SUPPRESS, **more)

    yes = {"action": "store_true", "default": None}
    whole, real = {"type": int}, {"type": float}
    group(
        "training, by default as the task has it",
        "--batch_size N, --learning_rate X (1e-3 on a frozen encoder), --epochs N, --seed N (0)\n"
        "--max_seq_length N, --warmup_share X (0.1), --layer_decay X (1), --dropout P (of --init)\n"
        "--bias_correction (no, as in 2018), --dtype float32|bfloat16 (float32), "
        "--train_examples N (all)",
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
