"""Fine-tunes a pretrained encoder on a labelled task.

example:
  python -m bertjax.finetune --task=sst2 --data_dir=glue/SST-2 --init=runs/base \\
      --workdir=runs/sst2
Your own files: --task=classify (columns sentence, label) or --task=pair (sentence1, sentence2,
label) with train.tsv and dev.tsv, and test.tsv if there is one, in --data_dir.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array

from bertjax import checkpoint, errors, loop, memory, metrics, optimizer, partition, pretrained
from bertjax.command_line import new_parser
from bertjax.data import examples as data_examples
from bertjax.data.examples import Encoded, Example
from bertjax.errors import UserError
from bertjax.json_file import read_json, write_json
from bertjax.models import heads, objectives
from bertjax.models.config import BertConfig
from bertjax.predictor import Predictor, write_predictions
from bertjax.run_log import RunLog
from bertjax.state import TrainState, abstract_state, init_state, with_params
from bertjax.tasks.base import Task
from bertjax.tasks.glue import TASKS
from bertjax.train_step import make_train_step


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("finetune", __doc__)
    add = parser.add_argument
    add("--task", required=True, choices=sorted(TASKS))
    add("--data_dir", type=Path, required=True, help="folder with the task's files")
    add("--init", type=Path, required=True, help="a run of bertjax or a Hugging Face folder")
    add("--workdir", type=Path, required=True, help="folder of the run; continued if it has one")
    add(
        "--from_scratch",
        action="store_true",
        help="take size and vocabulary of --init, but random weights",
    )
    add("--batch_size", type=int, help="default: the task's")
    add("--learning_rate", type=float, help="default: the task's")
    add("--epochs", type=int, help="default: the task's")
    add("--max_seq_length", type=int, help="longer texts are cut (default: the task's)")
    add("--warmup_share", type=float, default=0.1, help="of all steps (%(default)s)")
    add("--dropout", type=float, help="default: that of --init")
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def apply_recipe(flags: argparse.Namespace, task: Task) -> None:
    """Flags that were not given take the task's values."""
    for name, value in dataclasses.asdict(task.recipe).items():
        if getattr(flags, name) is None:
            setattr(flags, name, value)


@dataclasses.dataclass
class Data:
    """The task's examples, read and encoded; splits without a file are absent."""

    labels: list[str]
    examples: dict[str, list[Example]]
    encoded: dict[str, list[Encoded]]


def read_data(task: Task, flags: argparse.Namespace, tokenizer: Any) -> Data:
    """Reads all splits and checks every label before anything is trained."""
    splits = ["train", "dev"] + ["test"] * (flags.data_dir / "test.tsv").exists()
    examples = {split: task.read(flags.data_dir, split) for split in splits}
    labels = list(task.labels or sorted({str(example.label) for example in examples["train"]}))
    if len(labels) < 2:
        raise UserError(f"{flags.data_dir}/train.tsv: only one label, '{labels[0]}'")
    encoded = {
        split: data_examples.encode(rows, tokenizer, labels, flags.max_seq_length)
        for split, rows in examples.items()
    }
    for split, rows in encoded.items():
        cut = sum(row.was_cut for row in rows)
        note = f", {cut:,} of them cut at {flags.max_seq_length} tokens" if cut else ""
        print(f"{split}: {len(rows):,} examples{note}")
    return Data(labels, examples, encoded)


def resolved(
    flags: argparse.Namespace, task: Task, start: pretrained.Pretrained, labels: list[str]
) -> dict[str, Any]:
    keep = ("batch_size", "learning_rate", "epochs", "warmup_share", "from_scratch", "seed")
    return {
        "kind": "finetune",
        "model": start.config.to_dict(),
        "tokenizer": {"kind": start.tokenizer.kind, "fingerprint": start.tokenizer.fingerprint},
        "max_seq_length": flags.max_seq_length,
        "task": task.name,
        "labels": labels,
        "init": str(flags.init),
        "data_dir": str(flags.data_dir),
        "settings": {name: getattr(flags, name) for name in keep},
    }


def start_state(
    init: Any,
    tx: Any,
    mesh: Any,
    flags: argparse.Namespace,
    start: pretrained.Pretrained,
    checkpoints: checkpoint.Checkpoints,
) -> TrainState:
    """1. this run's own checkpoint; 2. the given parameters; 3. scratch."""
    if checkpoints.latest_step() is not None:
        state = checkpoints.restore(abstract_state(init, tx, mesh))
        print(f"continuing at step {int(state.step):,}")
        return state
    state = init_state(init, tx, mesh, flags.seed)
    if flags.from_scratch:
        return state
    merged, changes = pretrained.transplant(start.params, state.params, flags.init)
    print("\n".join([f"weights from {flags.init}", *changes]))
    return with_params(state, merged)


def finished(workdir: Path) -> bool:
    path = workdir / "metrics.json"
    if not path.exists():
        return False
    result = read_json(path)
    print(f"reusing {workdir}: {result['primary']} {result['score']:.4f} on dev")
    return True


def finish(
    flags: argparse.Namespace,
    task: Task,
    data: Data,
    predictor: Predictor,
    train_seconds: float,
) -> None:
    """Predicts with the best checkpoint and writes predictions and metrics."""
    params = checkpoint.load_params(flags.workdir, best=True)
    for split in sorted(data.examples.keys() - {"train", "dev"}) + ["dev"]:
        probabilities = predictor(params, data.encoded[split])
        path = flags.workdir / f"predictions-{split}.tsv"
        write_predictions(path, data.examples[split], data.labels, probabilities)
    scores = score(task, data, probabilities)
    gold = [str(example.label) for example in data.examples["dev"]]
    result = {
        "task": task.name,
        "split": "dev",
        "primary": task.primary,
        "score": scores[task.primary],
        **scores,
        "examples": len(gold),
        "majority_baseline": metrics.majority_share(gold),
        "init": "scratch" if flags.from_scratch else str(flags.init),
        "train_seconds": round(train_seconds, 1),
    }
    write_json(flags.workdir / "metrics.json", result)
    print(
        f"best on dev: {task.primary} {result['score']:.4f} ({len(gold):,} examples; always the "
        f"most frequent label: {result['majority_baseline']:.4f})\n"
        f"wrote {flags.workdir}/metrics.json and predictions-dev.tsv"
    )


def score(task: Task, data: Data, probabilities: np.ndarray) -> dict[str, float]:
    gold = [str(example.label) for example in data.examples["dev"]]
    return task.score(gold, [data.labels[i] for i in probabilities.argmax(axis=1)])


def train(
    flags: argparse.Namespace,
    model: heads.Classifier,
    task: Task,
    data: Data,
    start: pretrained.Pretrained,
    predictor: Predictor,
    mesh: Any,
) -> float:
    """Trains to the last epoch, evaluating after each; returns seconds spent."""
    steps_per_epoch = -(-len(data.encoded["train"]) // flags.batch_size)
    total = steps_per_epoch * flags.epochs
    tx = optimizer.adam_2018(
        optimizer.linear_schedule(flags.learning_rate, int(flags.warmup_share * total), total)
    )
    train_step = make_train_step(objectives.classification(model), tx, seed=flags.seed)

    def init(key: Array) -> Any:
        ids = np.zeros((1, 8), np.int32)
        return model.init(key, ids, ids, ids)["params"]

    began = time.monotonic()
    with checkpoint.Checkpoints(flags.workdir, keep_last=1) as checkpoints:
        state = start_state(init, tx, mesh, flags, start, checkpoints)
        first = int(state.step)
        batches = data_examples.train_batches(
            data.encoded["train"],
            batch_size=flags.batch_size,
            max_seq_length=flags.max_seq_length,
            pad_id=start.tokenizer.pad_id,
            seed=flags.seed,
            start_step=first,
        )
        timetable = loop.Timetable(
            total,
            log_every=max(1, min(50, steps_per_epoch)),
            eval_every=steps_per_epoch,
            save_every=max(steps_per_epoch, 1000),
        )
        with RunLog(flags.workdir, "fine-tuning", total, first) as log:

            def evaluate(state: TrainState) -> tuple[dict[str, float], float]:
                scores = score(task, data, predictor(state.params, data.encoded["dev"]))
                epoch = int(state.step) / steps_per_epoch
                log.say(f"epoch {epoch:g}: dev {task.primary} {scores[task.primary]:.4f}")
                return {f"dev_{name}": v for name, v in scores.items()}, scores[task.primary]

            loop.train(
                state,
                train_step,
                batches,
                mesh=mesh,
                timetable=timetable,
                log=log,
                checkpoints=checkpoints,
                evaluate=evaluate,
            )
    return time.monotonic() - began


def model_config(flags: argparse.Namespace, start: pretrained.Pretrained) -> BertConfig:
    """The config of --init with what the flags change.

    Raises:
      UserError: --max_seq_length is more than the encoder has positions.
    """
    if flags.max_seq_length > start.config.max_positions:
        raise UserError(
            f"--max_seq_length={flags.max_seq_length}: {flags.init} has "
            f"{start.config.max_positions} positions; give at most that"
        )
    changed: dict[str, Any] = {"dtype": flags.dtype}
    if flags.dropout is not None:
        changed |= {"hidden_dropout": flags.dropout, "attention_dropout": flags.dropout}
    return dataclasses.replace(start.config, **changed)


def main() -> None:
    flags = parse_arguments()
    memory.keep_freed_memory()
    task = TASKS[flags.task]
    apply_recipe(flags, task)
    mesh = partition.make_mesh()
    partition.check_batch_size(flags.batch_size, mesh)
    if flags.epochs < 1:
        raise UserError(f"--epochs={flags.epochs}: give at least 1")
    start = pretrained.load(flags.init)
    start = start._replace(config=model_config(flags, start))
    data = read_data(task, flags, start.tokenizer)
    checkpoint.save_config(flags.workdir, resolved(flags, task, start, data.labels))
    if finished(flags.workdir):
        return
    start.tokenizer.save(flags.workdir)
    model = heads.Classifier(start.config, num_labels=len(data.labels))
    predictor = Predictor(
        model,
        mesh,
        batch_size=flags.batch_size,
        max_seq_length=flags.max_seq_length,
        pad_id=start.tokenizer.pad_id,
    )
    seconds = train(flags, model, task, data, start, predictor, mesh)
    finish(flags, task, data, predictor, seconds)


if __name__ == "__main__":
    sys.exit(errors.run(main))
