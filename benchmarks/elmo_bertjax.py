"""Times bertjax's own ELMo step in this process; a worker of elmo.py."""

from __future__ import annotations

import argparse
import json
import time

import contest
import elmo_shapes as shapes
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import memory, partition, shares
from bertjax.models import encoders
from bertjax.runs.state import init_state
from bertjax.text.chunk_tokenizer import SPECIALS
from bertjax.text.words import WordTokenizer
from bertjax.training import optimizer, schedules
from bertjax.training.program import init_function
from bertjax.training.train_step import make_train_step


def ceiling() -> float:
    """Operations a second of one large product."""
    square = jnp.ones((2048, 2048))
    product = jax.jit(lambda x: x @ x)
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        jax.block_until_ready(product(square))
        seconds.append(time.perf_counter() - begin)
    return 2 * 2048**3 / min(seconds)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--words", choices=["characters", "table"], required=True)
    flags.add_argument("--sampled", type=int, required=True, help="0: all words")
    flags.add_argument("--warmup", type=int, required=True)
    flags.add_argument("--steps", type=int, required=True)
    options = flags.parse_args()
    memory.keep_freed_memory()
    names = [f"word{number}" for number in range(shapes.VOCABULARY - len(SPECIALS))]
    words = WordTokenizer([*SPECIALS, *names], lowercase=True)
    settings = {"size": "mini", "words": options.words, "num_sampled": options.sampled}
    settings["sampler"] = "log_uniform" if options.sampled else ""
    wanted = ConfigDict({"encoder": "elmo", "model": settings})
    config = encoders.from_settings(wanted, words.vocab_size)
    pretraining = encoders.pretraining(config)
    text = encoders.Text(labels=False, counts=lambda: np.ones(words.vocab_size))
    model = pretraining.model(config, words, text)
    mesh = partition.make_mesh()
    tx = optimizer.make_optimizer("adamw", schedules.linear(1e-4, 10, 1000))
    state = init_state(init_function(model, pretraining.inputs), tx, mesh, seed=0)
    train_step = make_train_step(pretraining.objective(model, text), tx)
    ids = shapes.ids()
    batch = {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}

    def step() -> None:
        nonlocal state
        state, metrics = train_step(state, shares.global_batch(batch, mesh))
        jax.block_until_ready((state, metrics))

    found = contest.timed(step, options.warmup, options.steps)
    found |= {"ceiling": ceiling(), "versions": f"jax {jax.__version__}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
