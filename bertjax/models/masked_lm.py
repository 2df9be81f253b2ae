"""BERT's pretraining: masked LM and next sentence, their heads and their loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig
from bertjax.models.encoder_output import Packing
from bertjax.models.layers import FUNCTIONS, LayerNorm, dense, gelu
from bertjax.models.linear import scores
from bertjax.models.objectives import (
    Batch,
    Objective,
    Sums,
    cross_entropy_sums,
    dropout,
    packing,
)


class PretrainingOutput(NamedTuple):
    """Logits, float32: masked_lm [B, P, V]; next_sentence [B, 2], or [B, S, 2] of packed rows.

    Index 1 is a second segment that does not belong there.
    """

    masked_lm: Array
    next_sentence: Array


class MaskedLM(nn.Module):
    """Transform, GELU or what else the layers have for it, normalisation, then the token table
    transposed plus a bias."""

    config: BertConfig

    def setup(self) -> None:
        self.transform = dense(self.config.hidden_size, self.config, "transform")
        self.norm = LayerNorm(self.config)
        self.bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))

    def states(self, x: Array) -> Array:
        """[..., D] -> [..., D], what the token table is multiplied with."""
        # Gated layers have nothing that could stand here.
        function = FUNCTIONS.get(self.config.feed_forward, gelu)
        return self.norm(function(self.transform(x)))

    def __call__(self, chosen: Array, token_table: Array) -> Array:
        # [B, P, D] -> [B P, D]
        x = self.states(chosen.reshape(-1, chosen.shape[-1]))
        # [B P, D] x [V, D] -> [B P, V] -> [B, P, V]
        return scores(x, token_table, self.bias).reshape(*chosen.shape[:2], -1)


class PretrainingModel(nn.Module):
    """BERT with its two pretraining heads (paper, section 3.1)."""

    config: BertConfig

    def setup(self) -> None:
        self.encoder = Bert(self.config)
        self.masked_lm = MaskedLM(self.config)
        self.next_sentence = dense(2, self.config, "next_sentence")

    def __call__(
        self,
        input_ids: Array,
        input_mask: Array,
        segment_ids: Array,
        masked_lm_positions: Array,
        *,
        packing: Packing | None = None,
        deterministic: bool = True,
    ) -> PretrainingOutput:
        """Scores the vocabulary at masked_lm_positions [B, P], and the pairs of segments."""
        # Only masked positions are worth the last layer and a product with the vocabulary.
        encoded = self.encoder(
            input_ids,
            input_mask,
            segment_ids,
            packing=packing,
            deterministic=deterministic,
            reads=masked_lm_positions,
        )
        return PretrainingOutput(
            masked_lm=self.masked_lm(encoded.sequence, self.encoder.token_table()),
            next_sentence=self.next_sentence(encoded.pooled).astype(jnp.float32),
        )


def objective(model: nn.Module, *, next_sentence: bool = True) -> Objective:
    """Masked LM plus next sentence, the sum of the two mean losses (paper, appendix A.2).

    Batches hold the features of the records; of packed rows also position_ids [B, T], starts and
    next_sentence_weights [B, S]. In evaluation example_weights [B] is 0 for rows that only fill the
    last batch.

    Args:
      next_sentence: False for segments without a label.
    """

    def pair_weights(batch: Batch) -> Array:
        labels = batch["next_sentence_labels"]
        weights = batch.get("next_sentence_weights", jnp.ones(labels.shape, jnp.float32))
        rows = batch.get("example_weights", jnp.ones(len(labels), jnp.float32))
        return (weights * rows[:, None]).reshape(-1)

    def counts(batch: Batch) -> dict[str, Array]:
        found = {"masked_lm": jnp.sum(batch["masked_lm_weights"])}
        if next_sentence:
            found["next_sentence"] = jnp.sum(pair_weights(batch))
        return found

    def sums(params: Any, batch: Batch, key: Array | None) -> Sums:
        output: Any = model.apply(
            {"params": params},
            batch["input_ids"],
            batch["input_mask"],
            batch["segment_ids"],
            batch["masked_lm_positions"],
            packing=packing(batch),
            **dropout(key),
        )
        found = {
            # [B, P, V] -> [B P, V], as it was multiplied out: P is no multiple of TPUs' tiles.
            "masked_lm": cross_entropy_sums(
                output.masked_lm.reshape(-1, output.masked_lm.shape[-1]),
                batch["masked_lm_ids"].reshape(-1),
                batch["masked_lm_weights"].reshape(-1),
            )
        }
        if next_sentence:
            # [B, 2] or [B, S, 2] -> [B S, 2]
            logits = output.next_sentence.reshape(-1, 2)
            labels = batch["next_sentence_labels"].reshape(-1)
            found["next_sentence"] = cross_entropy_sums(logits, labels, pair_weights(batch))
        return found

    return Objective(counts, sums)
