"""BERT: embeddings, a stack of transformer layers, a pooler (Devlin et al. 2018)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from bertjax.models.config import BertConfig
from bertjax.models.dropout import drop
from bertjax.models.encoder_output import EncoderOutput, Packing, at_places, last_places
from bertjax.models.layers import EncoderLayer, LayerNorm, dense
from bertjax.models.linear import kernel_init
from bertjax.models.reach import REACHES, How


class Embeddings(nn.Module):
    """Sum of token, position and segment embeddings, normalised (paper, figure 2)."""

    config: BertConfig

    def setup(self) -> None:
        def table(rows: int) -> nn.Embed:
            return nn.Embed(rows, self.config.hidden_size, embedding_init=kernel_init(self.config))

        self.token = table(self.config.vocab_size)
        if self.config.positions == "learned":
            self.position = table(self.config.max_positions)
        self.segment = table(self.config.num_segments)
        self.norm = LayerNorm(self.config)

    def __call__(
        self,
        input_ids: Array,
        segment_ids: Array,
        position_ids: Array | None,
        rng: Array | None,
    ) -> Array:
        # [B, T] -> [B, T, D]
        summed = self.token(input_ids)
        if self.config.positions == "learned":
            table = self.position.embedding
            if position_ids is None:
                summed = summed + jax.lax.slice_in_dim(table, 0, input_ids.shape[1])
            else:
                summed = summed + table[position_ids]
        # A product with the one-hot segments has a cheap gradient, unlike a gather of two rows.
        one_hot = jax.nn.one_hot(segment_ids, self.config.num_segments, dtype=summed.dtype)
        summed = summed + one_hot @ self.segment.embedding
        normal = self.norm(summed).astype(self.config.dtype)
        return drop(normal, self.config.hidden_dropout, rng)


class Bert(nn.Module):
    """The encoder; pooled is tanh of a linear map of one position of a sequence.

    It is the first, as in the paper. Under causal attention that position sees nothing but itself,
    so it is the last.
    """

    config: BertConfig

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config)
        self.layer = [EncoderLayer(self.config) for _ in range(self.config.num_layers)]
        if self.config.residual == "pre_norm":
            self.final_norm = LayerNorm(self.config)
        self.pooler = dense(self.config.hidden_size, self.config, "pooler")

    def __call__(
        self,
        input_ids: Array,
        input_mask: Array,
        segment_ids: Array,
        *,
        packing: Packing | None = None,
        deterministic: bool = True,
        reads: Array | None = None,
    ) -> EncoderOutput:
        """Encodes a batch.

        Args:
          input_ids: [B, T] int32 token ids, T at most config.max_positions.
          input_mask: [B, T], 1 for real tokens and 0 for padding.
          segment_ids: [B, T], 0 for the first segment and 1 for the second.
          packing: for rows of several sequences; input_mask then numbers these from 1.
          deterministic: False turns dropout on; the "dropout" random stream is then needed.
          reads: [B, P] int32, the only places of the last layer that are read. It is then computed
            for these and the pooled ones alone, and the output is as of encoder_output.of_places.
        """
        config, number = self.config, len(self.layer)
        rngs: list[Array | None] = [None] * (1 + number)
        if not deterministic:
            # One key for the embeddings, three for every layer, all split off at once.
            split = jax.random.split(self.make_rng("dropout"), (1 + number, 3))
            rngs = [split[0, 0], *split[1:]]
        positions = packing and packing.position_ids
        embedded = self.embeddings(input_ids, segment_ids, positions, rngs[0])
        rate = 0.0 if deterministic else config.attention_dropout
        # [B, T, D] -> [B T, D], and back at the end
        x = embedded.reshape(-1, embedded.shape[-1])
        layers = [embedded]
        pooled_at = self._pooled_places(input_mask, packing)
        wanted = None if reads is None else jnp.concatenate([pooled_at, reads], axis=1)
        for place, (layer, rng) in enumerate(zip(self.layer, rngs[1:], strict=True)):
            reach = REACHES[config.attention](config, place)
            how = How(config.num_heads, packing is not None, reach, rate)
            x = layer(x, input_mask, how, rng, wanted if place == number - 1 else None)
            layers.append(x.reshape(embedded.shape[0], -1, x.shape[-1]))
        if self.config.residual == "pre_norm":
            layers[-1] = self.final_norm(layers[-1])
        last, count = layers[-1], pooled_at.shape[1]
        if reads is None:
            summary = at_places(last, pooled_at)
        else:
            summary, last = last[:, :count], last[:, count:]
        # [B, S, D], of which there is one where rows are not packed
        pooled = jnp.tanh(self.pooler(summary if packing is not None else summary[:, 0]))
        kept = layers if reads is None else layers[:-1]
        return EncoderOutput(sequence=last, layers=jnp.stack(kept), pooled=pooled)

    def _pooled_places(self, input_mask: Array, packing: Packing | None) -> Array:
        """[B, S]; of rows that are not packed [B, 1]."""
        rows = input_mask.shape[0]
        starts = jnp.zeros((rows, 1), jnp.int32) if packing is None else packing.starts
        causal = self.config.attention == "causal"
        return last_places(input_mask, starts) if causal else starts

    def token_table(self) -> Array:
        """[V, D], which the masked-LM head shares with the input (paper, appendix A.2)."""
        return self.embeddings.token.embedding
