"""The layers put on top of an encoder: pretraining's two heads, and the tasks' heads."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig
from bertjax.models.layers import Dropout, LayerNorm, dense


class PretrainingOutput(NamedTuple):
    """masked_lm: [B, P, V] float32 logits; next_sentence: [B, 2] float32, index 1 = random."""

    masked_lm: Array
    next_sentence: Array


class MaskedLM(nn.Module):
    """Transform, GELU, normalisation, then the token table transposed plus a bias."""

    config: BertConfig

    @nn.compact
    def __call__(self, sequence: Array, positions: Array, token_table: Array) -> Array:
        # [B, T, D] -> [B, P, D]: only masked positions are worth a product with the vocabulary.
        chosen = jnp.take_along_axis(sequence, positions[..., None], axis=1)
        # [B, P, D] -> [B P, D]
        x = chosen.reshape(-1, chosen.shape[-1])
        x = dense(self.config.hidden_size, self.config, "transform")(x)
        x = LayerNorm(self.config, name="norm")(nn.gelu(x, approximate=False))
        bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))
        # [B P, D] x [V, D] -> [B P, V] -> [B, P, V]
        logits = jnp.einsum(
            "nd,vd->nv", x, token_table.astype(x.dtype), preferred_element_type=jnp.float32
        )
        return (logits + bias).reshape(*positions.shape, -1)


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
        deterministic: bool = True,
    ) -> PretrainingOutput:
        """Scores the vocabulary at masked_lm_positions [B, P], and the pair of segments."""
        encoded = self.encoder(input_ids, input_mask, segment_ids, deterministic=deterministic)
        return PretrainingOutput(
            masked_lm=self.masked_lm(
                encoded.sequence, masked_lm_positions, self.encoder.token_table()
            ),
            next_sentence=self.next_sentence(encoded.pooled).astype(jnp.float32),
        )


class Classifier(nn.Module):
    """Dropout and one linear layer on the pooled first position (paper, section 4.1)."""

    config: BertConfig
    num_labels: int

    def setup(self) -> None:
        self.encoder = Bert(self.config)
        self.dropout = Dropout(self.config.hidden_dropout)
        self.head = dense(self.num_labels, self.config, "head")

    def __call__(
        self,
        input_ids: Array,
        input_mask: Array,
        segment_ids: Array,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Returns [B, num_labels] float32 logits."""
        encoded = self.encoder(input_ids, input_mask, segment_ids, deterministic=deterministic)
        pooled = self.dropout(encoded.pooled, deterministic)
        return self.head(pooled).astype(jnp.float32)
