"""Compiles a step of transformers' Flax BERT for a TPU that is not there; a worker of tpu_step.py.

Its module in bfloat16 under bertjax's optimizer: dropout with the chip's own random bits, the state
donated, the batch in parts whose gradients are added up. Its head scores the vocabulary at all
positions.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tpu_text
import transformers
from jax import Array
from jax.sharding import SingleDeviceSharding
from transformers.models.bert.modeling_flax_bert import FlaxBertForPreTrainingModule

from bertjax.models.config import SIZES
from bertjax.planner import topology
from bertjax.training import optimizer, schedules

Tree = Any


def module(size: str) -> Any:
    wanted = SIZES[size]
    config = transformers.BertConfig(
        vocab_size=tpu_text.VOCABULARY,
        num_hidden_layers=wanted["num_layers"],
        hidden_size=wanted["hidden_size"],
        num_attention_heads=wanted["num_heads"],
        intermediate_size=wanted["intermediate_size"],
    )
    return FlaxBertForPreTrainingModule(config=config, dtype=jnp.bfloat16)


def loss(model: Any, params: Tree, batch: dict[str, Array], key: Array) -> Array:
    masked_lm, next_sentence = model.apply(
        {"params": params},
        batch["input_ids"],
        batch["input_mask"],
        batch["segment_ids"],
        batch["position_ids"],
        None,
        deterministic=False,
        return_dict=False,
        rngs={"dropout": key},
    )[:2]
    entropy = optax.softmax_cross_entropy_with_integer_labels
    # Labels of positions that are not masked are negative, as in its own scripts.
    weights = (batch["labels"] >= 0).astype(jnp.float32)
    words = entropy(masked_lm.astype(jnp.float32), jnp.maximum(batch["labels"], 0)) * weights
    pairs = entropy(next_sentence.astype(jnp.float32), batch["next_sentence_labels"])
    return words.sum() / weights.sum() + pairs.mean()


def gradient(model: Any, params: Tree, batch: dict[str, Array], key: Array) -> tuple[Array, Tree]:
    """Of the mean loss of a batch's parts, [N, B/N, ...]; one part is not looped over."""
    of_part = jax.value_and_grad(lambda p, part, k: loss(model, p, part, k))
    keys = jax.random.split(key, len(batch["input_ids"]))
    if len(keys) == 1:
        return of_part(params, jax.tree.map(lambda x: x[0], batch), keys[0])

    def add(total: Any, part: Any) -> Any:
        return jax.tree.map(jnp.add, total, of_part(params, *part)), None

    empty = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, empty, (batch, keys))
    return jax.tree.map(lambda x: x / len(keys), total)


def main() -> None:
    flags = tpu_text.worker_flags(__doc__)
    flags.add_argument("--microbatches", type=int, required=True)
    options = flags.parse_args()
    jax.config.update("jax_platforms", "cpu")
    model = module(options.size)
    tx = optimizer.make_optimizer("adam2018", schedules.linear(1e-4, 10_000, 1_000_000))

    def init(key: Array) -> tuple[Tree, Tree]:
        row = jnp.zeros((1, 8), jnp.int32)
        params = model.init({"params": key, "dropout": key}, row, row, row, row, None)["params"]
        return params, tx.init(params)

    def step(state: tuple[Tree, Tree], batch: dict[str, Array], seed: Array) -> Any:
        params, opt_state = state
        value, gradients = gradient(model, params, batch, jax.random.key(seed, impl="rbg"))
        updates, opt_state = tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    (device,) = topology.devices(topology.parse(options.topology))
    place = SingleDeviceSharding(device)

    def placed(tree: Tree) -> Tree:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree
        )

    parts = options.microbatches
    # [N, B/N, T]
    rows = (parts, options.rows // parts, options.length)
    names = ("input_ids", "input_mask", "segment_ids", "position_ids", "labels")
    batch = {name: jax.ShapeDtypeStruct(rows, jnp.int32) for name in names}
    batch["next_sentence_labels"] = jax.ShapeDtypeStruct(rows[:2], jnp.int32)
    arguments = (
        jax.eval_shape(init, jax.random.key(0)),
        batch,
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    program = jax.jit(step, donate_argnums=0).lower(*placed(arguments)).compile()
    tpu_text.write(options.text, program)
    versions = f"transformers {transformers.__version__}, jax {jax.__version__}"
    print(json.dumps({"versions": versions}))


if __name__ == "__main__":
    main()
