"""SentencePiece models with BERT's special pieces."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.whole_file import write_whole
from bertjax.text.vocabulary_files import SETTINGS_FILE, fingerprint, to_json

_SENTENCEPIECE_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}


class SentencePieceTokenizer:
    """A SentencePiece model whose pieces include [CLS], [SEP], [MASK] and [PAD] (or <s> ...)."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, name: str = "spiece.model", lowercase: bool = False) -> None:
        """`lowercase` lowers the text before the model, for models that were trained that way.

        Raises UserError, naming `name`, for a broken model or one without a special piece.
        """
        self.lowercase = lowercase
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise UserError(f"{name}: not a SentencePiece model") from None
        self._bytes = model
        self.vocab_size = self._model.get_piece_size()
        self.tokens = [self._model.id_to_piece(i) for i in range(self.vocab_size)]
        ids = {token: i for i, token in enumerate(self.tokens)}
        found = {}
        for role, names in _SENTENCEPIECE_NAMES.items():
            found[role] = next((ids[n] for n in names if n in ids), -1)
            if found[role] < 0:
                raise UserError(
                    f"{name}: no {names[0]} piece; train the model with {names[0]} as a control "
                    "symbol (bertjax's own vocabularies have it)"
                )
        self.pad_id, self.cls_id = found["pad"], found["cls"]
        self.sep_id, self.mask_id = found["sep"], found["mask"]
        self.unk_id = self._model.unk_id()
        self.never_random = self._never_random()
        self.fingerprint = fingerprint(model, self._settings())

    def _settings(self) -> dict[str, Any]:
        return {"do_lower_case": self.lowercase}

    def _never_random(self) -> np.ndarray:
        model = self._model
        checks = (model.is_control, model.is_unknown, model.is_unused, model.is_byte)
        reserved = {i for i in range(self.vocab_size) if any(check(i) for check in checks)}
        reserved |= {self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id}
        return np.array(sorted(reserved), np.int32)

    def _lower(self, text: str) -> str:
        """Lower case of the same length, so that offsets still hold."""
        if not self.lowercase:
            return text
        lower = text.lower()
        if len(lower) == len(text):
            return lower
        return "".join(char.lower()[0] for char in text)

    def encode(self, text: str) -> list[int]:
        return self._model.encode(self._lower(text))

    def encode_lines(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = self._model.encode([self._lower(line) for line in lines])
        lengths = np.array([len(ids) for ids in encoded], np.int64)
        return np.array([i for ids in encoded for i in ids], np.uint32), lengths

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = self._model.encode(self._lower(text), return_type="offset_mapping")
        offsets = []
        for begin, end in found["offsets"]:
            while begin < end and text[begin].isspace():  # the white space that ▁ stands for
                begin += 1
            offsets.append((begin, end))
        return list(found["ids"]), offsets

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self.tokens[i] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        hidden = (self.pad_id, self.cls_id, self.sep_id)
        # Not the library's decode: that one leaves out [MASK] and blurs unknown pieces.
        return "".join(self.pieces(i for i in ids if i not in hidden)).replace("▁", " ").strip()

    def starts_word(self) -> np.ndarray:
        whole = set(self.never_random.tolist())
        return np.array([t.startswith("▁") or i in whole for i, t in enumerate(self.tokens)])

    def save(self, folder: str | Path) -> None:
        write_whole(storage.path(folder) / "spiece.model", self._bytes)
        settings = {"tokenizer_class": "AlbertTokenizer", **self._settings()}
        write_whole(storage.path(folder) / SETTINGS_FILE, to_json(settings))
