"""Times bertjax's fine-tuning on given batches, or its evaluation; of finetuning_speed.py."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import batch_files
import contest
import jax
import numpy as np
from finetuning_speed import BATCH, encode
from jax.sharding import Mesh

from bertjax import memory, partition, shares
from bertjax.finetuning.predictor import Predictor, row_shape
from bertjax.models import objectives
from bertjax.models.heads import TaskModel
from bertjax.runs.state import TrainState, init_state
from bertjax.training import optimizer, schedules
from bertjax.training.train_step import make_train_step
from bertjax.weights import pretrained
from bertjax.weights.transplant import transplant

OPTIMIZER = optimizer.make_optimizer("adam2018", schedules.linear(3e-5, 0, 1000))
# What is timed, and its number of examples.
Work = tuple[Callable[[], object], float]


def begin(options: argparse.Namespace, mesh: Mesh) -> tuple[TaskModel, TrainState]:
    start = pretrained.load(options.model)
    config = dataclasses.replace(start.config, dtype=options.dtype)
    model = TaskModel(config, "classification", 2)

    def init(key: jax.Array) -> Any:
        ids = np.zeros((1, 8), np.int32)
        return model.init(key, ids, ids + 1, ids)["params"]

    state = init_state(init, OPTIMIZER, mesh, seed=0)
    params = partition.placed(transplant(start, state.params)[0], mesh)
    return model, state.replace(params=params)


def training(options: argparse.Namespace, model: TaskModel, state: TrainState, mesh: Mesh) -> Work:
    batches = batch_files.read(options.batches)
    train_step = make_train_step(objectives.task(model, "classification"), OPTIMIZER)

    def run(batches: list[dict[str, np.ndarray]]) -> None:
        nonlocal state
        for batch in batches:
            state, metrics = train_step(state, shares.global_batch(batch, mesh))
            jax.block_until_ready(metrics)

    # Every shape once, so that what is timed compiles nothing.
    run(list({batch["input_ids"].shape: batch for batch in batches}.values()))
    return lambda: run(batches), sum(float(batch["example_weights"].sum()) for batch in batches)


def evaluation(
    options: argparse.Namespace, model: TaskModel, state: TrainState, mesh: Mesh
) -> Work:
    """All of dev, as bertjax.finetune predicts it after each epoch."""
    data = Path(os.environ["BERTJAX_DATA"])
    encoded, context = encode(options.task, "dev", data, options.model)
    predictor, shape = Predictor(model, mesh), row_shape(model, state.params, context, BATCH)

    def run() -> None:
        predictor(state.params, encoded, shape)

    run()
    return run, len(encoded.rows)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--model", type=Path, required=True)
    flags.add_argument("--task", required=True)
    flags.add_argument("--batches", type=Path, required=True)
    flags.add_argument("--what", choices=["training", "evaluation"], required=True)
    flags.add_argument("--passes", type=int, required=True)
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = flags.parse_args()
    memory.keep_freed_memory()
    mesh = partition.make_mesh()
    work = training if options.what == "training" else evaluation
    run, examples = work(options, *begin(options, mesh), mesh)
    contest.time_passes(run, options.passes, examples)


if __name__ == "__main__":
    main()
