"""Times bertjax's own pretraining step in this process; a worker of train_step.py."""

from __future__ import annotations

import argparse
import json

import contest
import jax
import pretraining_batch as data

from bertjax import memory, partition, shares
from bertjax.models import encoders, masked_lm
from bertjax.models.config import BertConfig
from bertjax.runs.state import init_state
from bertjax.training import optimizer, schedules
from bertjax.training.program import init_function
from bertjax.training.train_step import make_train_step


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--size", choices=data.SIZES, required=True)
    flags.add_argument("--warmup", type=int, required=True)
    flags.add_argument("--steps", type=int, required=True)
    flags.add_argument("--dtype", default="float32")
    options = flags.parse_args()
    memory.keep_freed_memory()
    layers, width, num_heads, inner, sequences = data.SIZES[options.size]
    model = masked_lm.PretrainingModel(
        BertConfig(
            vocab_size=data.VOCABULARY,
            num_layers=layers,
            hidden_size=width,
            num_heads=num_heads,
            intermediate_size=inner,
            dtype=options.dtype,
        )
    )
    mesh = partition.make_mesh()
    tx = optimizer.make_optimizer("adam2018", schedules.linear(1e-4, 10, 1000))
    state = init_state(init_function(model, encoders.MASKED_LM.inputs), tx, mesh, seed=0)
    train_step = make_train_step(masked_lm.objective(model), tx)
    host_batch = data.batch(sequences)

    def step() -> None:
        nonlocal state
        # As the training loop does it: from host arrays, every step.
        state, metrics = train_step(state, shares.global_batch(host_batch, mesh))
        jax.block_until_ready((state, metrics))

    found = contest.timed(step, options.warmup, options.steps)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    versions = f"jax {jax.__version__}"
    print(json.dumps(found | {"versions": versions, "parameters": parameters}))


if __name__ == "__main__":
    main()
