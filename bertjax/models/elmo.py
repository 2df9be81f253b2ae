"""ELMo: word vectors under a stack of LSTMs that read both ways (Peters et al. 2018)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from bertjax.errors import UserError
from bertjax.models import characters, softmax
from bertjax.models.encoder_output import EncoderOutput, Packing, at_places, last_places, of_places
from bertjax.models.layers import Dropout
from bertjax.models.lstm import Limits, LstmLayer

# How a word becomes a vector: from its letters, or from a table with a row for each.
WORDS = ("characters", "table")


@dataclasses.dataclass(frozen=True)
class ElmoConfig:
    """Everything that fixes the shape and arithmetic of an ELMo; the defaults are the paper's.

    Attributes:
      vocab_size: V, of the softmax; and of the table, if words are read from one.
      lstm_size, projection_size: U and P of every LSTM, see lstm.py.
      num_layers: L.
      cell_limit, projection_limit: see lstm.Limits.
      words: one of WORDS. In pretraining a word outside the vocabulary is read as the letters of
        "[UNK]", for records hold ids; the published model reads its real letters, as tasks do here.
      filters, character_size, highway_layers: of characters.CharacterCnn.
      max_characters: of a word, its two ends included; the rest is cut off.
      sampler, num_sampled: the softmax in training runs over the right word and this many others,
        see softmax.SAMPLERS; "" over all.
      hidden_dropout: of what every LSTM reads, and of what heads read.
      initializer_range: deviation of the heads' kernels at first.
      dtype: of the matrix products; states, softmax and parameters are float32.
    """

    encoder: ClassVar[str] = "elmo"
    # LSTMs read rows of any length.
    max_positions: ClassVar[int] = 2**31 - 1

    vocab_size: int
    lstm_size: int = 4096
    projection_size: int = 512
    num_layers: int = 2
    cell_limit: float = 3.0
    projection_limit: float = 3.0
    words: str = "characters"
    filters: tuple[tuple[int, int], ...] = (
        (1, 32),
        (2, 32),
        (3, 64),
        (4, 128),
        (5, 256),
        (6, 512),
        (7, 1024),
    )
    character_size: int = 16
    highway_layers: int = 2
    max_characters: int = 50
    sampler: str = ""
    num_sampled: int = 8192
    hidden_dropout: float = 0.1
    initializer_range: float = 0.02
    dtype: str = "float32"

    def __post_init__(self) -> None:
        # JSON has lists.
        object.__setattr__(self, "filters", tuple((wide, number) for wide, number in self.filters))
        if self.words not in WORDS:
            raise UserError(f"words '{self.words}' is unknown; choose one of {', '.join(WORDS)}")
        if self.sampler:
            softmax.sampler(self.sampler)
            if self.num_sampled < 1:
                raise UserError(f"model.num_sampled={self.num_sampled}: give at least 1")
        # The default cannot be told from a wish; 0 is true.
        elif self.num_sampled not in (0, ElmoConfig.num_sampled):
            raise UserError(
                f"model.num_sampled={self.num_sampled}: none are drawn without model.sampler; set "
                "model.sampler=unigram"
            )
        if self.words == "characters":
            self._check_letters()
        if not 0.0 <= self.hidden_dropout < 1.0:
            raise UserError(f"hidden_dropout {self.hidden_dropout} must be at least 0 and below 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype '{self.dtype}' is unknown; use float32 or bfloat16")

    def _check_letters(self) -> None:
        if not self.filters or min(map(min, self.filters)) < 1:
            raise UserError("filters: give pairs (characters wide, how many), of at least 1 each")
        widest = max(wide for wide, _ in self.filters)
        if self.max_characters < widest:
            raise UserError(
                f"filters of up to {widest} characters do not fit words of {self.max_characters}; "
                "set model.max_characters"
            )
        # One letter between a word's two ends.
        if self.max_characters < 3:
            raise UserError(f"model.max_characters={self.max_characters}: give at least 3")

    @property
    def hidden_size(self) -> int:
        """D: both directions side by side."""
        return 2 * self.projection_size

    @property
    def reads_letters(self) -> bool:
        return self.words == "characters"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


SIZES: dict[str, dict[str, Any]] = {
    # The published model of 93.6 million parameters.
    "original": {},
    # The published "medium" and "small", of 28.0 and 13.6 million: with the same filters, but one
    # highway layer behind them.
    "medium": {"lstm_size": 2048, "projection_size": 256, "highway_layers": 1},
    "small": {"lstm_size": 1024, "projection_size": 128, "highway_layers": 1},
    # For a laptop.
    "mini": {
        "lstm_size": 512,
        "projection_size": 128,
        "filters": ((1, 32), (2, 32), (3, 64), (4, 128)),
        "highway_layers": 1,
        "max_characters": 20,
    },
    "tiny": {
        "lstm_size": 128,
        "projection_size": 64,
        "filters": ((1, 8), (2, 8), (3, 16)),
        "character_size": 8,
        "highway_layers": 1,
        "max_characters": 12,
    },
}


class WordVectors(nn.Module):
    """Ids [B, T] -> vectors [B, T, P] that know nothing of their context."""

    config: ElmoConfig
    words: Any

    @nn.compact
    def __call__(self, input_ids: Array) -> Array:
        config = self.config
        if config.words == "table":
            table = nn.Embed(config.vocab_size, config.projection_size, name="token")
            return table(input_ids)
        cnn = characters.CharacterCnn(
            config.filters,
            config.character_size,
            config.highway_layers,
            config.projection_size,
            config.dtype,
            name="characters",
        )
        spelled = jnp.asarray(self._spelled())
        # Of a small vocabulary every entry is worked out once, of a large one the batch's tokens;
        # these, too, where the program is for batches of any size.
        size = input_ids.size
        if isinstance(size, int) and len(spelled) <= size:
            return cnn(spelled)[input_ids].astype(jnp.float32)
        return cnn(spelled[input_ids]).astype(jnp.float32)

    def _spelled(self) -> np.ndarray:
        """[V, C]; without a tokenizer, where shapes alone are wanted, there is nothing in it."""
        longest = self.config.max_characters
        if self.words is None:
            return np.zeros((self.config.vocab_size, longest), np.int16)
        return characters.table(self.words, longest)


class Elmo(nn.Module):
    """The encoder; pooled is what each direction knows at its end.

    Attributes:
      words: the tokenizer, whose entries are read letter by letter.
    """

    config: ElmoConfig
    words: Any = None

    def setup(self) -> None:
        config = self.config
        limits = Limits(config.cell_limit, config.projection_limit)
        self.embeddings = WordVectors(config, self.words)
        self.layer = [
            LstmLayer(config.lstm_size, config.projection_size, limits, config.dtype)
            for _ in range(config.num_layers)
        ]
        self.dropout = Dropout(config.hidden_dropout)

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
        """Encodes a batch; arguments as Bert's. Segments make no difference."""
        keep = _same_sequence(input_mask)
        # [B, T, P] -> [T, 2, B, P]; the second direction reads from the end.
        x = _directions(self.embeddings(input_ids))
        layers = [x]
        for number, layer in enumerate(self.layer):
            above = layer(self.dropout(x, deterministic), keep)
            # As in the published model, the words themselves are not added to the first layer.
            x = above + x if number else above
            layers.append(x)
        # [L + 1, T, 2, B, P] -> [L + 1, B, T, 2 P]
        both = jnp.stack([_side_by_side(layer) for layer in layers])
        pooled = _ends(both[-1], input_mask, packing)
        return of_places(EncoderOutput(both[-1], both, pooled), reads)


def _directions(x: Array) -> Array:
    """[B, T, ...] -> [T, 2, B, ...], forwards and backwards."""
    forward = x.swapaxes(0, 1)
    return jnp.stack([forward, forward[::-1]], axis=1)


def _side_by_side(x: Array) -> Array:
    """[T, 2, B, P] -> [B, T, 2 P], both in the order of the text."""
    return jnp.concatenate([x[:, 0], x[::-1, 1]], axis=-1).swapaxes(0, 1)


def _same_sequence(input_mask: Array) -> Array:
    """[T, 2, B, 1] float32: 1 where a token continues the sequence of the one read before.

    So states are empty where a sequence begins, also behind padding and in packed rows.
    """
    numbers = _directions(input_mask)
    same = jnp.concatenate([jnp.zeros_like(numbers[:1]), numbers[1:] == numbers[:-1]])
    return same[..., None].astype(jnp.float32)


def _ends(sequence: Array, input_mask: Array, packing: Packing | None) -> Array:
    """[B, 2 P], of packed rows [B, S, 2 P]: forwards of the last token, backwards of the first."""
    starts = jnp.zeros((sequence.shape[0], 1), jnp.int32) if packing is None else packing.starts
    last = last_places(input_mask, starts)
    half = sequence.shape[-1] // 2
    # [B, T, P] -> [B, S, P]
    forward = at_places(sequence[..., :half], last)
    backward = at_places(sequence[..., half:], starts)
    pooled = jnp.concatenate([forward, backward], axis=-1)
    return pooled[:, 0] if packing is None else pooled
