"""The tokenizer gives the ids of the 2018 rules, exact character offsets, and refuses bad files."""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as HuggingFace
from tokenizers.models import WordPiece

from bertjax.errors import UserError
from bertjax.text import basic_words, chunk_tokenizer, tokenizer, vocab, word_counts

PIECES = re.findall(
    r"\S+",
    "un aff able ##aff ##able a ##b b ##a mask pad the cafe naive o ##δ ##ος ο σ ς Σ ##σ i "
    "istanbul İ x ##x É ##é e ##e 日 本 한 ##국 [ ] , . $ ^ ` = < ; ' ~ - ! ¿ । 1 ##1 é ß ##ß ## ό "
    "Unaff The Cafe",
)
TOKENS = list(dict.fromkeys(["[PAD]", "[unused0]", *tokenizer.SPECIALS[1:], *PIECES]))
TRICKY = [
    "unaffable UNAFFABLE Unaffable,the.cafe",
    "café cafe\u0301 CAFÉ naïve E\u0301\u0302x",
    "日本 a日b本x ㇐ \U0002b820\U0002b91f \uf900 \U0002f800",
    "한국 \u1112\u1161\u11ab",
    "[MASK] [PAD][CLS] the [mask] ##able ##",
    "a\x00b a\ufffdb a\u00adb a\u200bb a\u200db a\x0bb a\x0cb a\x1cb a\x85b \ufeffthe",
    "a\u00a0b a\u2003b a\u2028b a\u2029b a\u3000b a\tb\r\nb",
    "ΟΔΟΣ ΟΔΟΣ. Σ ΣΣ aΣ Σa όσ",
    "İstanbul İ istanbul ıİ",
    "$^`=<;~ ≠ ≮ \u037e \u1fef ¿x¡ a।b a—b 'b'",
    "x" * 200 + " " + "x" * 201 + " " + "é" * 200 + " " + "é" * 201,
    "zzz a\u0335b \u0301 \u0301a \U0001d165\u302e 1\u00b2 ß ẞ ﬁ",
    "",
    " \t\n ",
]


def reference(text: str, ids: dict[str, int], lowercase: bool) -> list[int]:
    """The rules of 2018 written anew, with a character at a time and no shortcut."""
    kept = ""
    for char in text:
        category = unicodedata.category(char)
        if char in " \t\n\r" or category == "Zs":
            kept += " "
        elif char != "\ufffd" and category not in ("Cc", "Cf"):
            name = unicodedata.name(char, "")
            kept += f" {char} " if name.startswith("CJK ") and "IDEOGRAPH" in name else char
    found = []
    for token in kept.split():
        if lowercase:
            split = unicodedata.normalize("NFD", token.lower())
            token = "".join(c for c in split if unicodedata.category(c) != "Mn")
        words = [""]
        for char in token:
            code = ord(char)
            ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96
            if ascii_sign or 123 <= code <= 126 or unicodedata.category(char)[0] == "P":
                words += [char, ""]
            else:
                words[-1] += char
        for word in filter(None, words):
            found += longest_match(word, ids)
    return found


def longest_match(word: str, ids: dict[str, int]) -> list[int]:
    found, start = [], 0
    while start < len(word):
        ends = range(len(word), start, -1)
        names = (("##" if start else "") + word[start:end] for end in ends)
        name = next((name for name in names if name in ids), None)
        if name is None or len(word) > 200:
            return [ids["[UNK]"]]
        found.append(ids[name])
        start += len(name) - (2 if start else 0)
    return found


def write(folder: Path, tokens: list[str]) -> Path:
    path = folder / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@pytest.fixture(params=[True, False], ids=["uncased", "cased"])
def wordpiece(request: pytest.FixtureRequest) -> tokenizer.WordPieceTokenizer:
    return tokenizer.WordPieceTokenizer(TOKENS, request.param)


@pytest.fixture(scope="module")
def sentencepiece() -> tokenizer.Tokenizer:
    lines = ["the quick brown fox jumps over the lazy dog", "masks and words, words and masks"] * 9
    return vocab.learn(
        word_counts.of_lines(lines), kind="sentencepiece", size=80, coverage=1.0
    ).tokenizer


def random_texts(number: int) -> list[str]:
    rng = random.Random(0)
    pool = list("".join(PIECES)) + list("".join(TRICKY)) + [" "] * 60 + list("Σσςİ\u0301\u00ad日,")
    return ["".join(rng.choices(pool, k=25)) for _ in range(number)]


def test_ids_are_those_of_the_2018_rules(wordpiece: tokenizer.WordPieceTokenizer) -> None:
    ids = {token: i for i, token in enumerate(TOKENS)}
    for text in TRICKY + random_texts(500):
        wanted = reference(text, ids, wordpiece.lowercase)
        assert wordpiece.encode(text) == wanted, text
        assert wordpiece.encode_with_offsets(text)[0] == wanted, text


def encoded_together(tokens: tokenizer.Tokenizer, texts: list[str]) -> list[list[int]]:
    ids, lengths = tokens.encode_lines(texts)
    assert ids.dtype == np.uint32
    assert lengths.sum() == len(ids)
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths))[:-1]]


def test_batch_and_memory_change_nothing(wordpiece: tokenizer.WordPieceTokenizer) -> None:
    texts = [*random_texts(50), *TRICKY, "\0", "a\0", ""]
    first = [wordpiece.encode(text) for text in texts]
    assert encoded_together(wordpiece, texts) == first  # now all from memory
    assert encoded_together(wordpiece, []) == []


def test_memory_of_chunks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_tokenizer, "_MEMO_SIZE", 10)
    fresh = tokenizer.WordPieceTokenizer(TOKENS, lowercase=True)
    texts = [" ".join(f"a{i}" for i in range(first, first + 4)) for first in range(40)]
    assert encoded_together(fresh, texts) == [fresh.encode(text) for text in texts]
    assert encoded_together(fresh, texts[:2]) == [fresh.encode(text) for text in texts[:2]]
    assert len(fresh._memo) <= 10


@pytest.mark.parametrize(
    "texts",
    [["a \uffff b", ".\uffff. a\uffff"], ["\uffff"], ["b", "\uffff a"], ["a\u2003b", "\u2003"]],
)
def test_the_sign_between_chunks_may_stand_in_text(
    texts: list[str], wordpiece: tokenizer.WordPieceTokenizer
) -> None:
    alone = [i for text in texts for chunk in text.split() for i in wordpiece.encode(chunk)]
    fresh = tokenizer.WordPieceTokenizer(wordpiece.tokens, wordpiece.lowercase)
    assert sum(encoded_together(fresh, texts), []) == alone


def test_specials_in_text_are_split_as_any_text(wordpiece: tokenizer.WordPieceTokenizer) -> None:
    ids = wordpiece.encode("[MASK] [SEP] [unused0]")
    assert not {wordpiece.mask_id, wordpiece.sep_id, TOKENS.index("[unused0]")} & set(ids)


def test_offsets_point_at_each_piece_in_the_given_text(
    wordpiece: tokenizer.WordPieceTokenizer,
) -> None:
    for text in TRICKY + random_texts(300):
        ids, offsets = wordpiece.encode_with_offsets(text)
        for piece, (begin, end) in zip(wordpiece.pieces(ids), offsets, strict=True):
            assert 0 <= begin < end <= len(text)
            if piece != "[UNK]":
                shown = basic_words.basic_words(text[begin:end], wordpiece.lowercase).strip()
                bare = piece.removeprefix("##") if len(piece) > 2 else piece
                # The last letter alone does not know that it ends a word.
                assert shown.replace("ς", "σ") == bare.replace("ς", "σ"), (text, piece)


def test_offsets_give_back_the_answer_with_its_accents() -> None:
    text = "  The\u00ad cafe\u0301, Naïve!"
    reader = tokenizer.WordPieceTokenizer(TOKENS, True)
    ids, offsets = reader.encode_with_offsets(text)
    assert reader.pieces(ids) == ["the", "cafe", ",", "naive", "!"]
    assert [text[a:b] for a, b in offsets] == ["The\u00ad", "cafe\u0301", ",", "Naïve", "!"]


def test_half_a_surrogate_pair_is_unknown(wordpiece: tokenizer.WordPieceTokenizer) -> None:
    assert wordpiece.encode("\ud83d") == [wordpiece.unk_id]


def test_word_limit_is_that_of_2018_not_of_hugging_face() -> None:
    long = "x" * 150
    ours = tokenizer.WordPieceTokenizer(TOKENS, True)
    theirs = HuggingFace(WordPiece(dict(zip(TOKENS, range(999), strict=False)), unk_token="[UNK]"))
    assert len(ours.encode(long)) == 150
    assert theirs.encode(long).ids == [ours.unk_id]
    same = tokenizer.WordPieceTokenizer(TOKENS, True, max_chars_per_word=100)
    assert same.encode(long) == [same.unk_id]


def test_tables_for_masking() -> None:
    reader = tokenizer.WordPieceTokenizer(TOKENS, True)
    assert reader.never_random.tolist() == [0, 1, 2, 3, 4, 5]  # five specials and [unused0]
    starts = reader.starts_word()
    assert starts.dtype == bool and starts.shape == (reader.vocab_size,)
    assert starts[TOKENS.index("un")] and not starts[TOKENS.index("##able")]


def test_decode_is_readable() -> None:
    reader = tokenizer.WordPieceTokenizer(TOKENS, True)
    ids = [reader.cls_id, *reader.encode("Unaffable cafe"), reader.mask_id, reader.sep_id, 0]
    assert reader.decode(ids) == "unaffable cafe [MASK]"


def test_folder_round_trip_keeps_ids_settings_and_fingerprint(
    wordpiece: tokenizer.WordPieceTokenizer, tmp_path: Path
) -> None:
    wordpiece.save(tmp_path / "new")
    again = tokenizer.load(tmp_path / "new")
    assert again.fingerprint == wordpiece.fingerprint
    assert again.encode("".join(TRICKY)) == wordpiece.encode("".join(TRICKY))
    settings = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    assert settings["do_lower_case"] is wordpiece.lowercase


def test_fingerprint_tells_vocabularies_and_settings_apart() -> None:
    make = tokenizer.WordPieceTokenizer
    different = [make(TOKENS, True), make(TOKENS, False), make(TOKENS, True, 100)]
    different.append(make(TOKENS[:-2] + TOKENS[-2:][::-1], True))
    prints = {reader.fingerprint for reader in different}
    assert len(prints) == 4
    assert all(len(p) == len(hashlib.sha256().hexdigest()) for p in prints)
    assert make(TOKENS, True).fingerprint == different[0].fingerprint


def test_case_of_a_bare_vocabulary_is_read_off_its_words(tmp_path: Path) -> None:
    path = write(tmp_path, TOKENS)
    cased = tokenizer.load(path)
    uncased = tokenizer.load(write(tmp_path, [t for t in TOKENS if t == t.lower() or t[0] == "["]))
    assert isinstance(cased, tokenizer.WordPieceTokenizer) and not cased.lowercase
    assert isinstance(uncased, tokenizer.WordPieceTokenizer) and uncased.lowercase
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert tokenizer.load(tmp_path).encode("The") != tokenizer.load(tmp_path, True).encode("The")


def test_hugging_face_folder_with_only_tokenizer_json(tmp_path: Path) -> None:
    ids = {token: i for i, token in enumerate(TOKENS)}
    model = {"type": "WordPiece", "max_input_chars_per_word": 100, "vocab": ids}
    content = {"normalizer": {"type": "BertNormalizer", "lowercase": True}, "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    read = tokenizer.load(tmp_path)
    wanted = tokenizer.WordPieceTokenizer(TOKENS, True, 100)
    assert read.fingerprint == wanted.fingerprint


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the vocabulary is empty"),
        (b"\n\n", "the vocabulary is empty"),
        (b"[PAD]\n[UNK]\n\xff\xfe\n", ":3: not UTF-8"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n", ":8: 'a' is already on line 6"),
        *[
            ("".join(f"{t}\n" for t in TOKENS if t != name).encode(), f"no {name} in")
            for name in tokenizer.SPECIALS
        ],
    ],
)
def test_bad_vocabulary_is_named(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        tokenizer.load(path)
    assert str(path) in str(error.value) and says in str(error.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"do_lower_case": true, "strip_accents": false}', "delete strip_accents there"),
        ('{"tokenize_chinese_chars": false}', "delete it there if your texts"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(
    settings: str, says: str, tmp_path: Path
) -> None:
    write(tmp_path, TOKENS)
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(UserError, match=says):
        tokenizer.load(tmp_path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such vocabulary"):
        tokenizer.load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no vocab.txt, words.txt, \*.model or tokenizer.json"):
        tokenizer.load(tmp_path)
    (tmp_path / "x.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(UserError, match="its model is BPE, not WordPiece"):
        tokenizer.load(tmp_path / "tokenizer.json")


def test_sentencepiece_offsets_are_characters_of_the_given_text(
    sentencepiece: tokenizer.Tokenizer,
) -> None:
    text = "  Thé  quick ｆox, 日 dog "
    ids, offsets = sentencepiece.encode_with_offsets(text)
    assert ids == sentencepiece.encode(text)
    for piece, (begin, end) in zip(sentencepiece.pieces(ids), offsets, strict=True):
        shown = unicodedata.normalize("NFKC", text[begin:end]).lower()
        assert piece in ("[UNK]", shown, "▁" + shown), (piece, text[begin:end])
    covered = "".join(text[begin:end] for begin, end in offsets)
    assert covered == "".join(text.split())


def test_sentencepiece_round_trip_and_tables(
    sentencepiece: tokenizer.Tokenizer, tmp_path: Path
) -> None:
    sentencepiece.save(tmp_path)
    again = tokenizer.load(tmp_path)
    assert again.fingerprint == sentencepiece.fingerprint and again.kind == "sentencepiece"
    text = "the lazy fox and words"
    assert again.decode([again.cls_id, *again.encode(text), again.sep_id]) == text
    assert encoded_together(again, [text, ""]) == [again.encode(text), []]
    assert sorted([again.pad_id, again.unk_id, again.cls_id, again.sep_id, again.mask_id]) == (
        again.never_random[:5].tolist()
    )
    starts = again.starts_word()
    pieces = again.pieces(range(again.vocab_size))
    ordinary = np.setdiff1d(np.arange(again.vocab_size), again.never_random)
    assert all(starts[i] == pieces[i].startswith("▁") for i in ordinary)
    assert again.mask_id not in again.encode("the [MASK] fox")


def test_sentencepiece_lowers_where_the_settings_say_so(
    sentencepiece: tokenizer.Tokenizer, tmp_path: Path
) -> None:
    sentencepiece.save(tmp_path)
    lowered = tokenizer.load(tmp_path, lowercase=True)
    text = "THE İ FOX"
    ids, offsets = lowered.encode_with_offsets(text)
    assert ids == lowered.encode(text)
    assert "".join(text[begin:end] for begin, end in offsets) == "THEİFOX"
    assert lowered.pieces(ids)[-1].endswith("x")
    assert lowered.fingerprint != sentencepiece.fingerprint


def test_sentencepiece_without_mask_is_refused(tmp_path: Path) -> None:
    model = vocab._train(Counter({"aab": 5, "bba": 4}), vocab_size=20, model_type="bpe", pad_id=3)
    (tmp_path / "x.model").write_bytes(model)
    with pytest.raises(UserError, match=r"x.model: no \[MASK\] piece"):
        tokenizer.load(tmp_path / "x.model")
