"""Words by their letters: convolutions over characters and highway layers (Peters et al. 2018).

The architecture is that of Jozefowicz et al. 2016 and Kim et al. 2016, the symbols are those of the
published model: 256 bytes of UTF-8 and six more.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

# 0 stands in the place of a token that is none; a byte b is b + 1.
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PADDING = range(257, 262)
NUM_SYMBOLS = 262


def spell(word: str, longest: int) -> list[int]:
    """A word's symbols, cut to `longest`, with its ends marked.

    >>> spell("cat", 6)
    [259, 100, 98, 117, 260, 261]
    """
    letters = [byte + 1 for byte in word.encode("utf-8", "replace")[: longest - 2]]
    return _padded([BEGIN_WORD, *letters, END_WORD], longest)


def _padded(symbols: list[int], longest: int) -> list[int]:
    return symbols + [PADDING] * (longest - len(symbols))


def table(words: Any, longest: int) -> np.ndarray:
    """[V, longest] int16: how every entry of a tokenizer's vocabulary is spelled.

    [CLS] and [SEP] are the ends of a sentence.
    """
    return _table(words, words.vocab_size, longest)


@functools.lru_cache(maxsize=4)
def _table(words: Any, size: int, longest: int) -> np.ndarray:
    """Once for a vocabulary of a size, for every program that is traced asks."""
    entries = words.pieces(range(size))
    spelled = np.array([spell(entry, longest) for entry in entries], np.int16)
    for number, symbol in ((words.cls_id, BEGIN_SENTENCE), (words.sep_id, END_SENTENCE)):
        spelled[number] = _padded([BEGIN_WORD, symbol, END_WORD], longest)
    spelled[words.pad_id] = 0
    return spelled


class CharacterCnn(nn.Module):
    """Symbols [..., C] -> vectors [..., P].

    Attributes:
      filters: (how many characters wide, how many of them) of each group.
      character_size: width of a character's vector.
      highway_layers: how many; each mixes its input with a map of it.
      width: P.
      dtype: of the products.
    """

    filters: tuple[tuple[int, int], ...]
    character_size: int
    highway_layers: int
    width: int
    dtype: str

    @nn.compact
    def __call__(self, symbols: Array) -> Array:
        embed = nn.Embed(NUM_SYMBOLS, self.character_size, embedding_init=_centred, name="symbol")
        # [..., C] -> [..., C, E]
        letters = embed(symbols).astype(self.dtype)
        found = [self._match(letters, wide, number) for wide, number in self.filters]
        # [..., F], F filters in all
        x = jnp.concatenate(found, axis=-1)
        for layer in range(self.highway_layers):
            mapped = nn.relu(self._dense(x.shape[-1], f"highway_{layer}_transform")(x))
            gate = nn.sigmoid(self._dense(x.shape[-1], f"highway_{layer}_gate", -2.0)(x))
            x = gate * mapped + (1 - gate) * x
        return self._dense(self.width, "projection")(x)

    def _match(self, letters: Array, wide: int, number: int) -> Array:
        """[..., C, E] -> [..., number]: where each filter fits best."""
        places = letters.shape[-2] - wide + 1
        # [..., C - w + 1, w E]: products of two matrices are faster than convolutions on CPUs.
        windows = [letters[..., begin : begin + places, :] for begin in range(wide)]
        fits = self._dense(number, f"filter_{wide}")(jnp.concatenate(windows, axis=-1))
        return nn.relu(fits.max(axis=-2))

    def _dense(self, features: int, name: str, bias: float = 0.0) -> nn.Dense:
        return nn.Dense(
            features, dtype=self.dtype, bias_init=nn.initializers.constant(bias), name=name
        )


def _centred(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)
