"""The vectors that any encoder has for words by themselves: those of its layer of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.models import encoders
from bertjax.models.config import BertConfig
from bertjax.weights.pretrained import Pretrained
from bertjax.weights.transplant import filled_up

_ROWS = 512


class KnownWords(NamedTuple):
    """Words of one piece, which an answer is looked for among.

    Attributes:
      ids: {word: row}; vectors: [N, D] float32.
    """

    ids: dict[str, int]
    vectors: np.ndarray


class WordLayer:
    """Looks words up: the mean over a word's pieces of the embeddings, what --layers=embeddings is.

    Each word stands alone between [CLS] and [SEP].
    """

    def __init__(self, start: Pretrained) -> None:
        self.start, self.tokenizer = start, start.tokenizer

    def _reader(self) -> Any:
        """Of the vocabulary as it is now, for it may take in new words."""
        encoder = encoders.build(self.start.config, self.tokenizer)

        def read(params: Any, ids: Any, mask: Any) -> Any:
            found: Any = encoder.apply({"params": params}, ids, mask, jnp.zeros_like(ids))
            place = jnp.arange(ids.shape[1])
            inner = (place > 0) & (place < mask.sum(axis=1, keepdims=True) - 1)
            # [B, T, D] -> [B, D]
            layer = jnp.where(inner[..., None], found.layers[0], 0).astype(jnp.float32)
            return layer.sum(axis=1) / inner.sum(axis=1)[:, None]

        return jax.jit(read)

    def encode(self, word: str) -> list[int] | None:
        """The pieces of a word; None if it is unknown.

        An entry that is this very word comes first: text is cut at signs, and loses its accents.
        """
        entries = getattr(self.tokenizer, "ids", {})
        forms = (word, word.lower()) if getattr(self.tokenizer, "lowercase", False) else (word,)
        whole = next((entries[form] for form in forms if form in entries), None)
        ids = self.tokenizer.encode(word) if whole is None else [whole]
        return None if not ids or self.tokenizer.unk_id in ids else ids

    def vectors(self, pieces: Sequence[Sequence[int]]) -> np.ndarray:
        """[N, D] of words that encode has told the pieces of."""
        length = 2 + max(map(len, pieces), default=1)
        found, read, params = [], self._reader(), self.start.params
        if isinstance(self.start.config, BertConfig):
            params = filled_up(params, self.start.config)
        placed = jax.device_put(params["encoder"])
        for first in range(0, len(pieces), _ROWS):
            some = pieces[first : first + _ROWS]
            ids = np.full((_ROWS, length), self.tokenizer.pad_id, np.int32)
            lengths = np.full(_ROWS, 3)
            ids[:, :3] = self.tokenizer.cls_id, self.tokenizer.unk_id, self.tokenizer.sep_id
            for row, own in enumerate(some):
                ids[row, : len(own) + 2] = [self.tokenizer.cls_id, *own, self.tokenizer.sep_id]
                lengths[row] = len(own) + 2
            mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
            made = read(placed, ids, mask)
            found.append(np.asarray(made)[: len(some)])
        return np.concatenate(found)

    def known(self) -> KnownWords:
        """All entries of the vocabulary that are whole words."""
        words = self.tokenizer
        ids = np.setdiff1d(np.flatnonzero(words.starts_word()), words.never_random)
        names = [name.removeprefix("▁") for name in words.pieces(ids.tolist())]
        rows = {name: row for row, name in reversed(list(enumerate(names))) if name}
        return KnownWords(rows, self.vectors([[i] for i in ids.tolist()]))
