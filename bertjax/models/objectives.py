"""What is minimised: sums over a batch and the counts that divide them, kept apart.

A loss is one global sum over one global count. Sums add up over microbatches and devices; a mean
of means does not. So an objective gives its sums and its counts separately, and the train step
divides once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from bertjax.models.encoder_output import Packing

Batch = dict[str, Array]
# {"masked_lm": {"loss": sum, "accuracy": sum}, ...}: every part's "loss" is minimised.
Sums = dict[str, dict[str, Array]]


class Objective(NamedTuple):
    """The two halves of a loss.

    Attributes:
      counts: batch -> {part: how many examples the part's sums run over}.
      sums: (params, batch, dropout key or None) -> {part: {"loss": sum, metric: sum, ...}}.
    """

    counts: Callable[[Batch], dict[str, Array]]
    sums: Callable[[Any, Batch, Array | None], Sums]


def cross_entropy_sums(logits: Array, labels: Array, weights: Array) -> dict[str, Array]:
    """Weighted sums of the loss (nats) and of the correct predictions over all leading axes.

    Correct is what no other score is above; a maximum is cheaper than the place of it.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    correct = (own >= logits.max(axis=-1)).astype(jnp.float32)
    return {"loss": jnp.sum(losses * weights), "accuracy": jnp.sum(correct * weights)}


def dropout(key: Array | None) -> dict[str, Any]:
    """The arguments that turn a model's dropout on, if there is a key."""
    if key is None:
        return {"deterministic": True}
    return {"deterministic": False, "rngs": {"dropout": key}}


def packing(batch: Batch) -> Packing | None:
    """Where the sequences lie, if the batch's rows are packed."""
    if "position_ids" not in batch:
        return None
    return Packing(batch["position_ids"], batch["starts"])


def _example_count(batch: Batch) -> Array:
    return jnp.sum(batch["example_weights"])


def _label_sums(logits: Array, batch: Batch) -> dict[str, Array]:
    """Logits [B, K] and labels [B] int32."""
    return cross_entropy_sums(logits, batch["labels"], batch["example_weights"])


def _value_sums(logits: Array, batch: Batch) -> dict[str, Array]:
    """Outputs [B, 1] and labels [B] float32: the squared error."""
    errors = jnp.square(logits[:, 0] - batch["labels"])
    return {"loss": jnp.sum(errors * batch["example_weights"])}


def _choice_sums(logits: Array, batch: Batch) -> dict[str, Array]:
    """Scores [B C, 1] of the choices, choice_mask [B, C] and labels [B]."""
    return _label_sums(choice_scores(logits, batch["choice_mask"]), batch)


def choice_scores(logits: Array, choice_mask: Array) -> Array:
    """[B C, 1] -> [B, C]; a choice that an example does not have cannot be chosen."""
    return jnp.where(choice_mask > 0, logits.reshape(choice_mask.shape), -1e9)


def _tag_weights(batch: Batch) -> Array:
    """[B, T]: 1 where a token has a tag, which labels [B, T] tells by not being negative."""
    return (batch["labels"] >= 0) * batch["example_weights"][:, None]


def _tag_sums(logits: Array, batch: Batch) -> dict[str, Array]:
    """Logits [B, T, K] and labels [B, T]."""
    return cross_entropy_sums(logits, jnp.maximum(batch["labels"], 0), _tag_weights(batch))


def _span_sums(logits: Array, batch: Batch) -> dict[str, Array]:
    """Scores [B, T, 2] of first and last token and their places, labels [B, 2].

    The loss is the mean of the two cross entropies, as in the 2018 code's run_squad.py; the
    accuracy that of getting both right.
    """
    # Padding cannot be an answer, so that the loss does not hang on how far a batch is padded.
    # [B, T, 2] -> [B, 2, T]
    scores = jnp.where(batch["input_mask"][:, None, :] > 0, logits.swapaxes(1, 2), -1e9)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch["labels"])
    correct = jnp.all(jnp.argmax(scores, axis=-1) == batch["labels"], axis=-1)
    weights = batch["example_weights"]
    return {
        "loss": jnp.sum(losses.mean(axis=-1) * weights),
        "accuracy": jnp.sum(correct * weights),
    }


class _TaskLoss(NamedTuple):
    counts: Callable[[Batch], Array]
    sums: Callable[[Array, Batch], dict[str, Array]]


# By the kind of head, heads.TASK_HEADS.
_TASK_LOSSES = {
    "classification": _TaskLoss(_example_count, _label_sums),
    "regression": _TaskLoss(_example_count, _value_sums),
    "choice": _TaskLoss(_example_count, _choice_sums),
    "tagging": _TaskLoss(lambda batch: jnp.sum(_tag_weights(batch)), _tag_sums),
    "span": _TaskLoss(_example_count, _span_sums),
}


def task(model: nn.Module, head: str) -> Objective:
    """The loss of a task's kind of head; rows whose example_weights are 0 only fill the batch."""
    count, task_sums = _TASK_LOSSES[head]

    def counts(batch: Batch) -> dict[str, Array]:
        return {"task": count(batch)}

    def sums(params: Any, batch: Batch, key: Array | None) -> Sums:
        logits: Any = model.apply(
            {"params": params},
            batch["input_ids"],
            batch["input_mask"],
            batch["segment_ids"],
            **dropout(key),
        )
        return {"task": task_sums(logits, batch)}

    return Objective(counts, sums)


def total_loss(sums: Sums, counts: dict[str, Array]) -> Array:
    """The scalar to minimise: every part's loss over its count, added up."""
    parts = [sums[part]["loss"] / jnp.maximum(counts[part], 1.0) for part in sums]
    return jnp.sum(jnp.stack(parts))


def averages(sums: Sums, counts: dict[str, Array]) -> dict[str, Array]:
    """{"masked_lm_loss": mean, "masked_lm_accuracy": mean, ...}."""
    return {
        f"{part}_{name}": value / jnp.maximum(counts[part], 1.0)
        for part, values in sums.items()
        for name, value in values.items()
    }


def zeros_like_sums(objective: Objective, params: Any, batch: Batch, key: Array | None) -> Sums:
    """Sums of an empty batch: where accumulation starts."""
    shapes = jax.eval_shape(objective.sums, params, batch, key)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
