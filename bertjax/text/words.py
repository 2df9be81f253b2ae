"""Whole words as the vocabulary: a word that is not in it is [UNK], or is added to it.

What word2vec and ELMo take; words are cut by the rules of 2018, so punctuation stands alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bertjax.text.chunk_tokenizer import ChunkTokenizer


class WordTokenizer(ChunkTokenizer):
    """One id for each word."""

    kind, file, tokenizer_class = "words", "words.txt", "WordTokenizer"

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "vocabulary": self.kind}

    def _match_word(self, word: str) -> list[tuple[int, int]]:
        known = len(word) <= self.max_chars_per_word
        return [(self.ids.get(word, self.unk_id) if known else self.unk_id, len(word))]

    def decode(self, ids: Iterable[int]) -> str:
        hidden = (self.pad_id, self.cls_id, self.sep_id)
        return " ".join(self.pieces(i for i in ids if i not in hidden))

    def starts_word(self) -> np.ndarray:
        return np.ones(self.vocab_size, bool)


class OpenWords(WordTokenizer):
    """Words to which each new one is added when it is met, for encoders that read its letters.

    Ids do not change; what is saved, and the fingerprint, are those of the first vocabulary.

    Attributes:
      first: the words as they were, to which none is added.
    """

    def __init__(self, words: WordTokenizer) -> None:
        self.first = words
        super().__init__(list(words.tokens), words.lowercase, words.max_chars_per_word)

    def _match_word(self, word: str) -> list[tuple[int, int]]:
        if word not in self.ids and len(word) <= self.max_chars_per_word:
            self.ids[word] = len(self.tokens)
            self.tokens.append(word)
            self.vocab_size = len(self.tokens)
        return super()._match_word(word)

    def _vocabulary(self) -> bytes:
        return self.first._vocabulary()
