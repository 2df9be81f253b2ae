"""The tokenizer files of a Hugging Face folder, such that transformers gives our ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as HuggingFaceTokenizer

from bertjax.errors import UserError
from bertjax.files.json_file import read_json, write_json
from bertjax.text.chunk_tokenizer import ChunkTokenizer
from bertjax.text.tokenizer import SentencePieceTokenizer, Tokenizer, WordPieceTokenizer

ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_seq_length: int) -> None:
    """Our own files, and tokenizer.json, which transformers runs word for word.

    transformers' BertTokenizer would ignore max_chars_per_word, so the class is the plain one.
    Unlike our tokenizers it reads "[MASK]" and the like in a text as that symbol.

    Raises:
      UserError: a tokenizer without a counterpart.
    """
    tokenizer.save(folder)
    if isinstance(tokenizer, ChunkTokenizer):
        described = _chunks_json(tokenizer)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        described = _sentencepiece_json(tokenizer, (folder / "spiece.model").read_bytes())
    else:
        raise UserError(f"a {tokenizer.kind} tokenizer has no counterpart in transformers")
    ids = {role: getattr(tokenizer, role.replace("_token", "_id")) for role in ROLES}
    names = dict(zip(ids, tokenizer.pieces(ids.values()), strict=True))
    described.add_special_tokens(list(names.values()))
    cls, sep = names["cls_token"], names["sep_token"]
    described.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, ids["cls_token"]), (sep, ids["sep_token"])],
    )
    described.save(str(folder / "tokenizer.json"))
    write_json(folder / "special_tokens_map.json", names)
    settings = read_json(folder / "tokenizer_config.json")
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": max_seq_length,
    }
    write_json(folder / "tokenizer_config.json", settings | names)


def _chunks_json(tokenizer: ChunkTokenizer) -> HuggingFaceTokenizer:
    unknown = tokenizer.tokens[tokenizer.unk_id]
    model: Any = models.WordLevel(tokenizer.ids, unk_token=unknown)
    if isinstance(tokenizer, WordPieceTokenizer):
        limit = tokenizer.max_chars_per_word
        model = models.WordPiece(tokenizer.ids, unk_token=unknown, max_input_chars_per_word=limit)
    described = HuggingFaceTokenizer(model)
    described.normalizer = normalizers.BertNormalizer(lowercase=tokenizer.lowercase)
    described.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    described.decoder = decoders.WordPiece(prefix="##")
    return described


def _sentencepiece_json(tokenizer: SentencePieceTokenizer, data: bytes) -> HuggingFaceTokenizer:
    messages: Any = sentencepiece_model_pb2  # made at import, so type checkers see nothing in it
    proto = messages.ModelProto.FromString(data)
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type != trainer.UNIGRAM:
        raise UserError("only SentencePiece's unigram models have a counterpart in transformers")
    described = HuggingFaceTokenizer(
        models.Unigram(
            [(piece.piece, piece.score) for piece in proto.pieces],
            unk_id=tokenizer.unk_id,
            byte_fallback=trainer.byte_fallback,
        )
    )
    steps: list[Any] = [normalizers.Lowercase()] if tokenizer.lowercase else []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    described.normalizer = normalizers.Sequence(steps)
    prepend: Any = "always" if rules.add_dummy_prefix else "never"
    described.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    described.decoder = decoders.Metaspace(prepend_scheme=prepend)
    return described
