"""word2vec (Mikolov et al. 2013): one vector for each word, whatever stands around it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from bertjax.errors import UserError
from bertjax.models import subwords
from bertjax.models.encoder_output import EncoderOutput, Packing, of_places

METHODS = ("skip_gram", "cbow")


@dataclasses.dataclass(frozen=True)
class Word2VecConfig:
    """What fixes the vectors and how they are learnt; names and defaults are the field's.

    Attributes:
      vocab_size: V.
      hidden_size: D.
      method: "skip_gram": a word foretells each word around it; "cbow": their mean foretells it.
      window: the most words to either side; how many counts is drawn from 1 to it for every word.
      negatives: words of noise for each pair.
      subsample: words of a larger share of the text are left out at random; 0: none.
      noise_power: noise is drawn by counts to this power; 0: all words that occur alike.
      buckets: rows for the n-grams of words, see subwords.py; 0: words have no parts.
      min_gram, max_gram: how many letters n-grams have.
      max_characters: of a word, its two ends included; the n-grams of the rest have no part in it.
      update_tokens: words whose vectors are changed together; a multiple of 32. Many at once are
        faster on accelerators, and too many make the sums of frequent words overshoot.
      hidden_dropout, initializer_range, dtype: of the heads; see BertConfig.
    """

    encoder: ClassVar[str] = "word2vec"
    # No layer above the vectors, and no position is special.
    num_layers: ClassVar[int] = 0
    max_positions: ClassVar[int] = 1 << 20

    vocab_size: int
    hidden_size: int = 100
    method: str = "skip_gram"
    window: int = 5
    negatives: int = 5
    subsample: float = 1e-3
    noise_power: float = 0.75
    buckets: int = 0
    min_gram: int = 3
    max_gram: int = 6
    max_characters: int = 20
    update_tokens: int = 128
    hidden_dropout: float = 0.0
    initializer_range: float = 0.02
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"model.method={self.method}: choose one of {', '.join(METHODS)}")
        for name in ("hidden_size", "window", "negatives"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)}: give at least 1")
        if self.update_tokens < 32 or self.update_tokens % 32:
            raise UserError(f"model.update_tokens={self.update_tokens}: give a multiple of 32")
        if self.buckets < 0:
            raise UserError(f"model.buckets={self.buckets}: give 0 or more, such as 200000")
        if not 1 <= self.min_gram <= self.max_gram <= self.max_characters:
            raise UserError(
                f"model.min_gram={self.min_gram} model.max_gram={self.max_gram}: give numbers from "
                f"1 up to model.max_characters={self.max_characters}, the smaller first"
            )
        if not self.noise_power >= 0:
            raise UserError(f"model.noise_power={self.noise_power:g}: give 0 or more, such as 0.75")
        if not 0 <= self.subsample <= 1:
            raise UserError(f"model.subsample={self.subsample}: give a share from 0 to 1")

    @property
    def reads_letters(self) -> bool:
        return self.buckets > 0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


SIZES: dict[str, dict[str, int]] = {str(width): {"hidden_size": width} for width in (100, 200, 300)}


def _small(width: int) -> nn.initializers.Initializer:
    """Uniform from -1 / 2 D to 1 / 2 D, as in the C code."""

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        return nn.initializers.uniform(1.0 / width)(key, shape, dtype) - 0.5 / width

    return init


class Embeddings(nn.Module):
    """The table of the words, and behind them of their n-grams.

    Attributes:
      words: the tokenizer, whose entries have n-grams.
    """

    config: Word2VecConfig
    words: Any = None

    def setup(self) -> None:
        width = self.config.hidden_size
        rows = self.config.vocab_size + self.config.buckets
        self.token = nn.Embed(rows, width, embedding_init=_small(width))

    def __call__(self, input_ids: Array) -> Array:
        if not self.config.buckets or self.words is None:
            return self.token(input_ids)
        parts = subwords.table(self.words, self.config)
        return subwords.mean(self.token.embedding, parts, input_ids)


class Word2Vec(nn.Module):
    """The encoder: the words' vectors, and their mean.

    Attributes:
      words: the tokenizer; its special entries have no part in the mean.
    """

    config: Word2VecConfig
    words: Any = None

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config, self.words)

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
        """As Bert; layers has one entry, and pooled is the mean of the words known."""
        del segment_ids, deterministic
        # [B, T] -> [B, T, D]
        sequence = self.embeddings(input_ids).astype(self.config.dtype)
        # [B, T, S]: which sequence a word belongs to
        number = jnp.arange(1 if packing is None else packing.starts.shape[1]) + 1
        member = (input_mask[..., None] == number) & ~self._special()[input_ids][..., None]
        total = jnp.einsum("bts,btd->bsd", member.astype(sequence.dtype), sequence)
        mean = total / jnp.maximum(member.sum(axis=1), 1)[..., None].astype(sequence.dtype)
        pooled = mean[:, 0] if packing is None else mean
        return of_places(EncoderOutput(sequence, sequence[None], pooled), reads)

    def _special(self) -> Array:
        """[V] bool; of all words that the tokenizer has, also of those added to it."""
        size = self.config.vocab_size
        special = np.zeros(size if self.words is None else max(size, self.words.vocab_size), bool)
        if self.words is not None:
            special[self.words.never_random] = True
        return jnp.asarray(special)


class Word2VecTables(nn.Module):
    """The encoder with the second table, of the words as they are foretold."""

    config: Word2VecConfig
    words: Any = None

    def setup(self) -> None:
        self.encoder = Word2Vec(self.config, self.words)
        self.output = nn.Embed(
            self.config.vocab_size,
            self.config.hidden_size,
            embedding_init=nn.initializers.zeros,
        )

    def __call__(self, input_ids: Array, input_mask: Array, segment_ids: Array) -> Array:
        """Scores [B, T, T] of every word of a row to foretell every other one."""
        found = self.encoder(input_ids, input_mask, segment_ids).sequence
        return jnp.einsum("btd,bsd->bts", found, self.output(input_ids))
