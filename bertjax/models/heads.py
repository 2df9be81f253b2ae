"""The layers that tasks put on top of an encoder, of whatever kind it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from bertjax.models import encoders, features
from bertjax.models.config import EncoderConfig
from bertjax.models.encoder_output import EncoderOutput
from bertjax.models.layers import Dropout, dense


class TaskHead(NamedTuple):
    """What a kind of task asks of its head.

    Attributes:
      per_token: it scores every position, not the pooled vector.
      num_outputs: of every scored vector; None: one for each label.
    """

    per_token: bool
    num_outputs: int | None


TASK_HEADS = {
    "classification": TaskHead(per_token=False, num_outputs=None),
    "regression": TaskHead(per_token=False, num_outputs=1),
    # One score for each choice, which is a row of its own (paper, section 4.4).
    "choice": TaskHead(per_token=False, num_outputs=1),
    "tagging": TaskHead(per_token=True, num_outputs=None),
    # Scores of being the first and the last token of the answer (paper, section 4.2).
    "span": TaskHead(per_token=True, num_outputs=2),
}


class BiLstm(nn.Module):
    """Two bidirectional LSTM layers and a linear one on frozen features (paper, section 5.3).

    Attributes:
      width: units of each direction.
    """

    config: EncoderConfig
    num_outputs: int
    width: int = 768

    @nn.compact
    def __call__(self, x: Any, lengths: Array) -> Array:
        # [B, T, F] -> [B, T, 2 W] -> [B, T, 2 W] -> [B, T, num_outputs]
        for layer in range(2):
            forward, backward = (
                nn.RNN(nn.OptimizedLSTMCell(self.width, name=f"{direction}_{layer}"))
                for direction in ("forward", "backward")
            )
            x = nn.Bidirectional(forward, backward)(x, seq_lengths=lengths)
        return dense(self.num_outputs, self.config, "output")(x)


class TaskModel(nn.Module):
    """An encoder with the head of a task.

    Attributes:
      head: a key of TASK_HEADS.
      num_outputs: scores for every pooled vector or every token.
      layers: a key of features.CHOICES, of which tokens are read; sequences are then the mean
        over their tokens. "": the last layer and the pooled vector, as in the paper.
      frozen: the encoder is not trained and has no dropout.
      bilstm: a BiLstm instead of one linear layer; for heads that score every token.
      words: the tokenizer, see encoders.build.
    """

    config: EncoderConfig
    head: str
    num_outputs: int
    layers: str = ""
    frozen: bool = False
    bilstm: bool = False
    words: Any = None

    @nn.compact
    def __call__(
        self,
        input_ids: Array,
        input_mask: Array,
        segment_ids: Array,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Returns float32 scores: [B, T, num_outputs] or, of whole sequences, [B, num_outputs]."""
        encoder = encoders.build(self.config, self.words, name="encoder")
        pooled_alone = not (self.layers or TASK_HEADS[self.head].per_token)
        encoded: EncoderOutput = encoder(
            input_ids,
            input_mask,
            segment_ids,
            deterministic=deterministic or self.frozen,
            reads=jnp.zeros((input_ids.shape[0], 0), jnp.int32) if pooled_alone else None,
        )
        if self.frozen:
            encoded = jax.lax.stop_gradient(encoded)
        read = self._read(encoded, input_mask)
        x = Dropout(self.config.hidden_dropout)(read, deterministic)
        if self.bilstm:
            scores = BiLstm(self.config, self.num_outputs, name="head")(x, input_mask.sum(axis=1))
        else:
            scores = dense(self.num_outputs, self.config, "head")(x)
        return scores.astype(jnp.float32)

    def _read(self, encoded: EncoderOutput, input_mask: Array) -> Array:
        """[B, T, F], or [B, F] for a head that scores whole sequences."""
        per_token = TASK_HEADS[self.head].per_token
        if not self.layers:
            return encoded.sequence if per_token else encoded.pooled
        if self.layers == features.MIX:
            tokens = features.LayerMix(name="mix")(encoded.layers)
        else:
            tokens = features.FIXED[self.layers](encoded.layers)
        if per_token:
            return tokens
        # [B, T, F] -> [B, F]
        real = input_mask[..., None].astype(tokens.dtype)
        return (tokens * real).sum(axis=1) / real.sum(axis=1)
