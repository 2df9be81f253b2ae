"""A learned vocabulary is deterministic, has the wanted size, and covers its text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjax import tokenizer, vocab
from bertjax.errors import UserError

SYLLABLES = ["ba", "ke", "lo", "mi", "nu", "ra", "so", "té", "vi", "zü"]


def make_lines(number: int = 400, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(300)]
    return [" ".join(rng.choices(words, k=8)).capitalize() + "." for _ in range(number)]


LINES = make_lines()


def pieces(learned: vocab.Learned) -> list[str]:
    return learned.tokenizer.pieces(range(learned.tokenizer.vocab_size))


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_same_lines_in_any_order_give_the_same_vocabulary(kind: str) -> None:
    first = vocab.learn(LINES, kind=kind, size=200)
    again = vocab.learn(LINES[::-1], kind=kind, size=200)
    assert first.tokenizer.fingerprint == again.tokenizer.fingerprint


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
@pytest.mark.parametrize("size", [200, 203, 232])
def test_size_is_exact_and_a_multiple_of_eight(kind: str, size: int) -> None:
    learned = vocab.learn(LINES, kind=kind, size=size)
    assert learned.tokenizer.vocab_size == -(-size // 8) * 8
    assert learned.note == ""


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_too_little_text_says_so_and_stays_a_multiple_of_eight(kind: str) -> None:
    learned = vocab.learn(["one two one"], kind=kind, size=4000)
    assert learned.tokenizer.vocab_size < 4000 and learned.tokenizer.vocab_size % 8 == 0
    assert "too short for 4000" in learned.note
    assert "[UNK]" not in learned.tokenizer.pieces(learned.tokenizer.encode("one two"))


def test_layout_of_the_2018_files() -> None:
    names = pieces(vocab.learn(LINES, size=400))
    assert names[0] == "[PAD]"
    assert names[100:104] == ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert names[1:100] == [f"[unused{i}]" for i in range(99)]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_every_word_of_the_text_has_ids(kind: str, lowercase: bool) -> None:
    learned = vocab.learn(LINES, kind=kind, size=240, lowercase=lowercase, coverage=1.0)
    for line in LINES:
        assert learned.tokenizer.unk_id not in learned.tokenizer.encode(line)


def test_alphabet_stands_in_both_forms_and_new_words_are_spelled() -> None:
    learned = vocab.learn(LINES, size=240, lowercase=False, coverage=1.0)
    names = set(pieces(learned))
    letters = set("".join(LINES)) - {" "}
    assert letters <= names and {"##" + letter for letter in letters} <= names
    assert learned.tokenizer.unk_id not in learned.tokenizer.encode("".join(sorted(letters)))


def test_rare_letters_do_not_fill_the_vocabulary() -> None:
    stray = [chr(code) for code in range(0x4E00, 0x4E00 + 50)]
    learned = vocab.learn([*LINES * 20, *stray], size=240, coverage=0.9995)
    assert not set(stray) & set(pieces(learned))
    assert learned.tokenizer.encode(stray[0]) == [learned.tokenizer.unk_id]


@pytest.mark.parametrize(
    ("kind", "piece"), [("wordpiece", "frequently"), ("sentencepiece", "▁frequently")]
)
def test_frequent_words_become_one_piece(kind: str, piece: str) -> None:
    """Also where the word is a single row of the counts."""
    learned = vocab.learn([*LINES, *["frequently written"] * 500], kind=kind, size=400)
    assert learned.tokenizer.pieces(learned.tokenizer.encode("frequently")) == [piece]


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_counts_teach_the_same_as_the_text(kind: str) -> None:
    """One word a line, in another order, has the same counts and must give the same result."""
    words = [word for line in LINES for word in line.split()]
    random.Random(1).shuffle(words)
    whole = vocab.learn(LINES, kind=kind, size=240, model="bpe")
    single = vocab.learn(words, kind=kind, size=240, model="bpe")
    assert whole.tokenizer.fingerprint == single.tokenizer.fingerprint


def test_memory_is_bounded_and_pruning_keeps_the_frequent() -> None:
    def endless() -> Iterator[str]:
        for i in range(5000):
            yield f"common frequent word{i}"

    counts, dropped = vocab.count_chunks(endless(), limit=100)
    assert len(counts) <= 100 and dropped > 4800
    for number in range(90, 310, 10):
        part, _ = vocab.count_chunks((f"w{i}" for i in range(number)), limit=100)
        assert len(part) <= 100
    assert counts["common"] == counts["frequent"] == 5000
    assert vocab.count_chunks(endless(), limit=100) == (counts, dropped)
    learned = vocab.learn(LINES * 3, size=240, max_words=50)
    assert learned.words <= 50 and learned.dropped > 0


def test_learned_words_are_split_as_the_tokenizer_splits_them() -> None:
    """No piece joins what the tokenizer sets apart: punctuation, accents, capitals."""
    lines = ["don't café, CAFÉ! 日本"] * 50
    learned = vocab.learn(lines, size=160)
    words = {"don", "'", "t", "cafe", ",", "!", "日", "本"}
    ordinary = [p for p in pieces(learned) if not p.startswith("[")]
    assert all(any(p.removeprefix("##") in word for word in words) for p in ordinary)
    assert learned.tokenizer.pieces(learned.tokenizer.encode("Café")) == ["cafe"]


def test_signs_that_sentencepiece_reserves_do_no_harm() -> None:
    learned = vocab.learn([*LINES, "a▁b ▁ ▅ c▅"], size=240, coverage=1.0)
    assert "[UNK]" in pieces(learned) and "▁" not in pieces(learned)


def test_progress_counts_characters() -> None:
    seen: list[int] = []
    vocab.count_chunks(["a " * (1 << 20)] * 5, 10, seen.append)
    assert seen == [2 * 2 * (1 << 20), 4 * 2 * (1 << 20)]


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(UserError, match="no text"):
        vocab.learn(["", "  "], size=100)
    with pytest.raises(UserError, match="a vocabulary of 112 is too small"):
        vocab.learn(LINES, size=110)
    with pytest.raises(UserError, match="unknown kind"):
        vocab.learn(LINES, kind="morphemes")
    with pytest.raises(UserError, match="unknown SentencePiece model"):
        vocab.learn(LINES, kind="sentencepiece", model="words")
    with pytest.raises(UserError, match="SentencePiece cannot learn"):
        vocab.learn(LINES, kind="sentencepiece", size=8)


def test_alphabet_stops_at_the_coverage() -> None:
    words = Counter({"aaaa": 10, "b": 9, "c": 1})
    assert vocab.alphabet(words, 0.9) == ["a", "b"]
    assert vocab.alphabet(words, 1.0) == ["a", "b", "c"]


def test_saved_files_read_back(tmp_path: Path) -> None:
    learned = vocab.learn(LINES, size=240)
    learned.tokenizer.save(tmp_path)
    assert tokenizer.load(tmp_path).fingerprint == learned.tokenizer.fingerprint
