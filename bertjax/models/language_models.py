"""Pretraining by the next word: from left to right, or in both directions apart from each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from bertjax.models import softmax
from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig
from bertjax.models.elmo import Elmo, ElmoConfig
from bertjax.models.encoder_output import Packing
from bertjax.models.masked_lm import MaskedLM
from bertjax.models.objectives import Batch, Objective, Sums, dropout, packing


class Prediction(NamedTuple):
    """What words are predicted from.

    Attributes:
      states: {part: [B, T, P]}; "forward_lm" is to name the word behind, "backward_lm" the one
        before.
      table: [V, P] and bias: [V], of the softmax.
    """

    states: dict[str, Array]
    table: Array
    bias: Array


# The part of the objective -> where its word stands.
_PLACES = {"forward_lm": 1, "backward_lm": -1}


class Softmax(nn.Module):
    """The table and the bias of a softmax that does not share the words' vectors.

    The table starts as in the published code, from numbers of deviation 1 / sqrt(P): from BERT's
    0.02 narrow LSTMs learn nothing but the frequencies of words for thousands of steps.

    Attributes:
      log_probs: gives [V], what the bias starts from, which is how often words are drawn: a rare
        one is drawn too seldom to be told so. None: zeros, as published.
    """

    config: ElmoConfig
    log_probs: Callable[[], np.ndarray] | None = None

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        rows, width = self.config.vocab_size, self.config.projection_size
        start = nn.initializers.normal(width**-0.5)
        table = self.param("embedding", start, (rows, width))
        return table, self.param("bias", self._bias, (rows,))

    def _bias(self, key: Array, shape: tuple[int]) -> Array:
        start = np.zeros(shape) if self.log_probs is None else self.log_probs()
        return jnp.asarray(start, jnp.float32)


class LeftToRightModel(nn.Module):
    """BERT under causal attention, with the masked LM's head on every position.

    The paper's ablation "LTR & no NSP" (section 5.1), which trains as GPT does.
    """

    config: BertConfig

    def setup(self) -> None:
        self.encoder = Bert(self.config)
        self.next_token = MaskedLM(self.config)

    def __call__(
        self,
        input_ids: Array,
        input_mask: Array,
        segment_ids: Array,
        *,
        packing: Packing | None = None,
        deterministic: bool = True,
    ) -> Prediction:
        """From input_ids, input_mask and segment_ids [B, T]: states [B, T, D] of "forward_lm"."""
        encoded = self.encoder(
            input_ids, input_mask, segment_ids, packing=packing, deterministic=deterministic
        )
        states = {"forward_lm": self.next_token.states(encoded.sequence)}
        return Prediction(states, self.encoder.token_table(), self.next_token.bias)


class BidirectionalModel(nn.Module):
    """ELMo with the one softmax of both its language models (Peters et al. 2018, section 3.1).

    Attributes:
      words: as of Elmo; log_probs: as of Softmax.
    """

    config: ElmoConfig
    words: Any = None
    log_probs: Callable[[], np.ndarray] | None = None

    def setup(self) -> None:
        self.encoder = Elmo(self.config, self.words)
        self.softmax = Softmax(self.config, self.log_probs)

    def __call__(
        self,
        input_ids: Array,
        input_mask: Array,
        segment_ids: Array,
        *,
        packing: Packing | None = None,
        deterministic: bool = True,
    ) -> Prediction:
        """From input_ids, input_mask and segment_ids [B, T]: states [B, T, P] of both parts."""
        encoded = self.encoder(
            input_ids, input_mask, segment_ids, packing=packing, deterministic=deterministic
        )
        forward, backward = jnp.split(encoded.sequence, 2, axis=-1)
        table, bias = self.softmax()
        return Prediction({"forward_lm": forward, "backward_lm": backward}, table, bias)


def _neighbours(batch: Batch, step: int) -> tuple[Array, Array]:
    """[B, T] words `step` places on, and 1 where there is one of the same sequence, else 0."""
    ids, numbers = batch["input_ids"], batch["input_mask"]
    words, other = jnp.roll(ids, -step, axis=1), jnp.roll(numbers, -step, axis=1)
    place = jnp.arange(ids.shape[1]) + step
    there = (numbers > 0) & (numbers == other) & (place >= 0) & (place < ids.shape[1])
    rows = batch.get("example_weights", jnp.ones(len(ids), jnp.float32))
    return words, there * rows[:, None]


def objective(
    model: nn.Module,
    parts: tuple[str, ...],
    log_probs: np.ndarray | None = None,
    num_sampled: int = 0,
) -> Objective:
    """The sum of the mean losses of all parts, each over all words but a sequence's first or last.

    Every [CLS] counts as a word that is before the first, every [SEP] as one behind the last.

    Args:
      parts: of Prediction.states.
      log_probs: [V], to draw num_sampled words from in training, see softmax.sampled; None: all
        words are candidates, as they always are in evaluation.
    """

    def counts(batch: Batch) -> dict[str, Array]:
        return {part: jnp.sum(_neighbours(batch, _PLACES[part])[1]) for part in parts}

    def sums(params: Any, batch: Batch, key: Array | None) -> Sums:
        found: Any = model.apply(
            {"params": params},
            batch["input_ids"],
            batch["input_mask"],
            batch["segment_ids"],
            packing=packing(batch),
            **dropout(key),
        )
        given = [_neighbours(batch, _PLACES[part]) for part in parts]
        # All parts' rows together: one product with the table. [B, T, P] -> [parts B T, P]
        x = jnp.concatenate(
            [found.states[part].reshape(-1, found.table.shape[1]) for part in parts]
        )
        labels = jnp.concatenate([words.reshape(-1) for words, _ in given])
        values: dict[str, Array]
        if key is None or log_probs is None:
            losses, best = softmax.full(x, found.table, found.bias, labels)
            values = {"loss": losses, "accuracy": best.astype(jnp.float32)}
        else:
            draw = jax.random.fold_in(key, 1)
            losses = softmax.sampled(
                x, found.table, found.bias, labels, jnp.asarray(log_probs), num_sampled, draw
            )
            values = {"loss": losses}
        weights = [there.reshape(-1) for _, there in given]
        return {
            part: {
                name: jnp.sum(jnp.split(value, len(parts))[place] * weights[place])
                for name, value in values.items()
            }
            for place, part in enumerate(parts)
        }

    return Objective(counts, sums)
