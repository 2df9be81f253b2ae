"""Whole words: cut by the rules of 2018, the most frequent ones kept, everything else [UNK]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import transformers

from bertjax import prepare
from bertjax.data.input import eval_batches
from bertjax.data.records import Records
from bertjax.errors import UserError
from bertjax.text import tokenizer, vocab, word_counts
from bertjax.text.basic_words import basic_words
from bertjax.text.corpus import Part
from bertjax.text.tokenizer import SPECIALS, WordPieceTokenizer, WordTokenizer
from bertjax.text.word_counts import merged
from bertjax.weights.huggingface_tokenizer import write_tokenizer

Command = Callable[..., int]
WORDS = ["the", "cat", "cafe", ",", "日", "sat", "'", "t", "don"]
TEXTS = [
    "The cat, the CAFÉ: don't!",
    "a日cat  cafe\u0301\u0301 [MASK] [unused0] sat\u00a0sat",
    "c\u00adat\u200b sat\x00the",
    "the " * 3 + "x" * 300,
    "",
]


@pytest.fixture(scope="module")
def words() -> WordTokenizer:
    return WordTokenizer([*SPECIALS, *WORDS, "[unused0]", "[unused1]"], lowercase=True)


def test_a_word_is_its_id_and_every_other_is_unknown(words: WordTokenizer) -> None:
    for text in TEXTS:
        cut = basic_words(text.replace("\0", ""), True).split()
        known = [word if word in WORDS else "[UNK]" for word in cut]
        assert words.pieces(words.encode(text)) == known, text
    ids, lengths = words.encode_lines(TEXTS)
    assert ids.tolist() == [i for text in TEXTS for i in words.encode(text)]
    assert lengths.tolist() == [len(words.encode(text)) for text in TEXTS]


def test_offsets_are_the_places_of_the_words(words: WordTokenizer) -> None:
    text = "The cat, the CAFÉ: café\u0301 zebra"
    ids, offsets = words.encode_with_offsets(text)
    assert ids == words.encode(text)
    found = [text[begin:end] for begin, end in offsets]
    assert found == ["The", "cat", ",", "the", "CAFÉ", ":", "café\u0301", "zebra"]


def test_special_tokens_never_come_from_text(words: WordTokenizer) -> None:
    ids = words.encode("[PAD] [UNK] [CLS] [SEP] [MASK] [unused0]")
    assert set(ids) == {words.unk_id}
    assert words.never_random.tolist() == [0, 1, 2, 3, 4, 14, 15]
    assert words.starts_word().all()
    assert words.decode([words.cls_id, 5, words.mask_id, words.sep_id, 0]) == "the [MASK]"


def test_what_is_saved_is_loaded(words: WordTokenizer, tmp_path: Path) -> None:
    words.save(tmp_path)
    again = tokenizer.load(tmp_path)
    assert again.kind == "words" and again.fingerprint == words.fingerprint
    assert again.encode(TEXTS[0]) == words.encode(TEXTS[0])
    # The same list as pieces, or with case, is another tokenizer.
    assert words.fingerprint != WordPieceTokenizer(words.tokens, lowercase=True).fingerprint
    assert words.fingerprint != tokenizer.load(tmp_path, lowercase=False).fingerprint


def test_the_most_frequent_words_are_kept_in_that_order() -> None:
    counts = word_counts.of_lines(["B, a. b c! a b", "d, d, é"])
    learned = vocab.learn(counts, kind="words", size=word_counts.LIMIT, min_count=2)
    # By hand: three b and three commas, of equals the first in the alphabet.
    assert learned.tokenizer.pieces(range(9)) == [*SPECIALS, ",", "b", "a", "d"]
    assert learned.tokenizer.pieces(range(9, learned.tokenizer.vocab_size)) == [
        f"[unused{i}]" for i in range(7)
    ]
    assert learned.note == ""
    fewer = vocab.learn(counts, kind="words", size=8, min_count=1).tokenizer
    assert fewer.pieces(range(fewer.vocab_size)) == [*SPECIALS, ",", "b", "a"]
    cased = vocab.learn(counts, kind="words", size=99, lowercase=False).tokenizer
    assert {"B", "b", "é"} <= set(cased.pieces(range(cased.vocab_size)))
    with pytest.raises(UserError, match="none of 8 stands 4 times"):
        vocab.learn(counts, kind="words", size=99, min_count=4)


def test_words_of_parts_are_those_of_their_chunks() -> None:
    parts = [Part(b"Don't stop, cat.\nstop"), Part(b"cat!")]
    counted = word_counts.words_of_parts(True, parts)
    assert counted == Counter(["don", "'", "t", "stop", ",", "cat", ".", "stop", "cat", "!"])
    assert counted == word_counts.in_chunks(word_counts.of_parts(parts), True)


def test_an_extended_vocabulary_gets_the_commonest_unknown_words(words: WordTokenizer) -> None:
    counts = word_counts.of_lines(["the dog dog DOG, a a the cat once"])
    more = vocab.extend(counts, words, 2).tokenizer
    assert more.kind == "words"
    new = more.pieces(range(words.vocab_size, more.vocab_size))
    assert new[:2] == ["dog", "a"] and more.vocab_size % 8 == 0
    assert more.pieces(range(words.vocab_size)) == words.tokens


def test_transformers_tokenizes_as_we_do(words: WordTokenizer, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, words, 64)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        if "[" not in text:  # which it reads as a symbol
            assert theirs.encode(text, add_special_tokens=False) == words.encode(text), text


def test_prepare_learns_words_and_makes_records_of_them(
    command: Command, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """README: the records of --vocab_kind=words hold all words that occur --min_count times."""
    flags = ["--vocab_kind=words", "--masking=dynamic", "--packed", "--segments=doc_sentences"]
    flags += ["--min_count=20", "--keep_lines", "--workers=1", "--dupe_factor=1"]
    assert command(prepare, f"--input={tiny_corpus}", f"--output={tmp_path}", *flags) == 0
    made = tokenizer.load(tmp_path)
    counts = Counter(basic_words(tiny_corpus.read_text().replace("\n", " "), True).split())
    wanted = {word for word, count in counts.items() if count >= 20}
    assert set(made.pieces(range(made.vocab_size))) - {*SPECIALS} >= wanted
    assert counts.total() - sum(counts[w] for w in wanted) > 0
    records = Records(tmp_path)
    ids = np.concatenate([b["input_ids"].ravel() for b in eval_batches(records, batch_size=1)])
    found = Counter(made.pieces(ids.tolist()))
    assert {word: found[word] for word in wanted} == {word: counts[word] for word in wanted}
    assert found["[UNK]"] == counts.total() - sum(counts[word] for word in wanted)
    # The counts stand in the manifest, too.
    kept = records.manifest.piece_counts()
    assert {word: kept[made.encode(word)[0]] for word in wanted} == {w: counts[w] for w in wanted}
    assert "reusing" not in capsys.readouterr().out
    assert command(prepare, f"--input={tiny_corpus}", f"--output={tmp_path}", *flags) == 0
    assert "reusing" in capsys.readouterr().out


def test_prepare_tells_of_words_that_memory_had_no_room_for(
    command: Command,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    different = len(set(basic_words(tiny_corpus.read_text().replace("\n", " "), True).split()))
    flags = [f"--input={tiny_corpus}", "--vocab_kind=words", "--min_count=1", "--workers=1"]
    for limit, told in ((different, 0), (different - 1, 1)):
        monkeypatch.setattr(word_counts, "merged", partial(merged, limit=limit))
        assert command(prepare, *flags, f"--output={tmp_path / str(limit)}") == 0
        lines = capsys.readouterr().out.splitlines()
        notes = [line for line in lines if line.startswith("note: at most 500,000 different")]
        assert len(notes) == told
    dropped = different - (different - 1) // 2
    assert notes[0].endswith(f"what was rare so far was dropped {dropped:,} times")
