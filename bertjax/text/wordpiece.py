"""WordPiece by the rules of the 2018 release (google-research/bert, tokenization.py).

Words as basic_words cuts them, then greedy longest match.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tokenizers.models import WordPiece as GreedyMatch

from bertjax.text.chunk_tokenizer import ChunkTokenizer
from bertjax.text.vocabulary_files import MAX_CHARS_PER_WORD


class WordPieceTokenizer(ChunkTokenizer):
    """Pieces of words; all but the first one of a word begin with ##."""

    kind, file, tokenizer_class = "wordpiece", "vocab.txt", "BertTokenizer"

    def __init__(
        self, tokens: list[str], lowercase: bool, max_chars_per_word: int = MAX_CHARS_PER_WORD
    ) -> None:
        super().__init__(tokens, lowercase, max_chars_per_word)
        self._match = GreedyMatch(
            self.ids, unk_token="[UNK]", max_input_chars_per_word=max_chars_per_word
        )
        # The longest match of a word that is an entry itself needs no search.
        self._whole = {t: i for t, i in self.ids.items() if len(t) <= max_chars_per_word}

    def _match_word(self, word: str) -> list[tuple[int, int]]:
        """(id, characters covered) of each piece of a word."""
        if (whole := self._whole.get(word)) is not None:
            return [(whole, len(word))]
        try:
            found = self._match.tokenize(word)
        except UnicodeEncodeError:  # half of a surrogate pair: no vocabulary has that
            return [(self.unk_id, len(word))]
        if len(found) == 1:
            return [(found[0].id, len(word))]
        return [(t.id, len(t.value) - 2 * (i > 0)) for i, t in enumerate(found)]

    def decode(self, ids: Iterable[int]) -> str:
        hidden = (self.pad_id, self.cls_id, self.sep_id)
        return " ".join(self.pieces(i for i in ids if i not in hidden)).replace(" ##", "")

    def starts_word(self) -> np.ndarray:
        return np.array([not token.startswith("##") for token in self.tokens])
