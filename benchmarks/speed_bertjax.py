"""Times bertjax's fine-tuning or predicting on given batches; of finetuning_speed.py."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import batch_files
import contest
import jax
import numpy as np

from bertjax import memory, partition, shares
from bertjax.models import objectives
from bertjax.models.heads import TaskModel
from bertjax.runs.state import init_state, with_params
from bertjax.training import optimizer, schedules
from bertjax.training.train_step import make_train_step
from bertjax.weights import pretrained


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--model", type=Path, required=True)
    flags.add_argument("--batches", type=Path, required=True)
    flags.add_argument("--what", choices=["training", "evaluation"], required=True)
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = flags.parse_args()
    memory.keep_freed_memory()
    batches = batch_files.read(options.batches)
    start = pretrained.load(options.model)
    config = dataclasses.replace(start.config, dtype=options.dtype)
    model = TaskModel(config, "classification", 2)
    mesh = partition.make_mesh()
    tx = optimizer.make_optimizer("adam2018", schedules.linear(3e-5, 0, 1000))
    train_step = make_train_step(objectives.task(model, "classification"), tx)

    def init(key: jax.Array) -> Any:
        ids = np.zeros((1, 8), np.int32)
        return model.init(key, ids, ids + 1, ids)["params"]

    state = init_state(init, tx, mesh, seed=0)
    state = with_params(state, pretrained.transplant(start, state.params)[0])
    predict = jax.jit(
        lambda params, batch: model.apply(
            {"params": params}, batch["input_ids"], batch["input_mask"], batch["segment_ids"]
        )
    )

    def run(batches: list[dict[str, np.ndarray]]) -> None:
        nonlocal state
        for batch in batches:
            placed = shares.global_batch(batch, mesh)
            if options.what == "training":
                state, metrics = train_step(state, placed)
                jax.block_until_ready(metrics)
            else:
                np.asarray(predict(state.params, placed))

    # Every shape once, so that what is timed compiles nothing.
    run(list({batch["input_ids"].shape: batch for batch in batches}.values()))
    found = contest.timed(lambda: run(batches), warmup=0, steps=1)
    examples = sum(float(batch["example_weights"].sum()) for batch in batches)
    print(json.dumps({**found, "seconds": sum(found["seconds"]), "examples": examples}))


if __name__ == "__main__":
    main()
