"""A learned or extended vocabulary is deterministic, has the wanted size, and covers its text."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.text import tokenizer, vocab
from bertjax.text.tokenizer import SPECIALS, WordPieceTokenizer
from bertjax.text.word_counts import of_lines

SYLLABLES = ["ba", "ke", "lo", "mi", "nu", "ra", "so", "té", "vi", "zü"]


def make_lines(number: int = 400, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(300)]
    return [" ".join(rng.choices(words, k=8)).capitalize() + "." for _ in range(number)]


LINES = make_lines()
COUNTS = of_lines(LINES)


def pieces(learned: vocab.Learned) -> list[str]:
    return learned.tokenizer.pieces(range(learned.tokenizer.vocab_size))


# --- Learning -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_same_counts_in_any_order_give_the_same_vocabulary(kind: str) -> None:
    first = vocab.learn(COUNTS, kind=kind, size=200)
    again = vocab.learn(of_lines(LINES[::-1]), kind=kind, size=200)
    assert first.tokenizer.fingerprint == again.tokenizer.fingerprint


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
@pytest.mark.parametrize("size", [200, 203, 232])
def test_size_is_exact_and_a_multiple_of_eight(kind: str, size: int) -> None:
    learned = vocab.learn(COUNTS, kind=kind, size=size)
    assert learned.tokenizer.vocab_size == -(-size // 8) * 8
    assert learned.note == ""


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_too_little_text_says_so_and_stays_a_multiple_of_eight(kind: str) -> None:
    learned = vocab.learn(Counter({"one": 2, "two": 1}), kind=kind, size=4000)
    assert learned.tokenizer.vocab_size < 4000 and learned.tokenizer.vocab_size % 8 == 0
    assert "too short for 4000" in learned.note
    assert "[UNK]" not in learned.tokenizer.pieces(learned.tokenizer.encode("one two"))


def test_layout_of_the_2018_files() -> None:
    names = pieces(vocab.learn(COUNTS, size=400))
    assert names[0] == "[PAD]"
    assert names[100:104] == ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert names[1:100] == [f"[unused{i}]" for i in range(99)]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_every_word_of_the_text_has_ids(kind: str, lowercase: bool) -> None:
    learned = vocab.learn(COUNTS, kind=kind, size=240, lowercase=lowercase, coverage=1.0)
    for line in LINES:
        assert learned.tokenizer.unk_id not in learned.tokenizer.encode(line)


def test_alphabet_stands_in_both_forms_and_new_words_are_spelled() -> None:
    learned = vocab.learn(COUNTS, size=240, lowercase=False, coverage=1.0)
    names = set(pieces(learned))
    letters = set("".join(LINES)) - {" "}
    assert letters <= names and {"##" + letter for letter in letters} <= names
    assert learned.tokenizer.unk_id not in learned.tokenizer.encode("".join(sorted(letters)))


def test_rare_letters_do_not_fill_the_vocabulary() -> None:
    stray = [chr(code) for code in range(0x4E00, 0x4E00 + 50)]
    learned = vocab.learn(of_lines([*LINES * 20, *stray]), size=240, coverage=0.9995)
    assert not set(stray) & set(pieces(learned))
    assert learned.tokenizer.encode(stray[0]) == [learned.tokenizer.unk_id]


@pytest.mark.parametrize(
    ("kind", "piece"), [("wordpiece", "frequently"), ("sentencepiece", "▁frequently")]
)
def test_frequent_words_become_one_piece(kind: str, piece: str) -> None:
    """Also where the word is a single row of the counts."""
    counts = COUNTS + Counter({"frequently": 500, "written": 500})
    learned = vocab.learn(counts, kind=kind, size=400)
    assert learned.tokenizer.pieces(learned.tokenizer.encode("frequently")) == [piece]


def test_learned_words_are_split_as_the_tokenizer_splits_them() -> None:
    """No piece joins what the tokenizer sets apart: punctuation, accents, capitals."""
    learned = vocab.learn(of_lines(["don't café, CAFÉ! 日本"] * 50), size=160)
    words = {"don", "'", "t", "cafe", ",", "!", "日", "本"}
    ordinary = [p for p in pieces(learned) if not p.startswith("[")]
    assert all(any(p.removeprefix("##") in word for word in words) for p in ordinary)
    assert learned.tokenizer.pieces(learned.tokenizer.encode("Café")) == ["cafe"]


def test_signs_that_sentencepiece_reserves_do_no_harm() -> None:
    learned = vocab.learn(of_lines([*LINES, "a▁b ▁ ▅ c▅"]), size=240, coverage=1.0)
    assert "[UNK]" in pieces(learned) and "▁" not in pieces(learned)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(UserError, match="no text"):
        vocab.learn(of_lines(["", "  "]), size=100)
    with pytest.raises(UserError, match="a vocabulary of 112 is too small"):
        vocab.learn(COUNTS, size=110)
    with pytest.raises(UserError, match="unknown kind"):
        vocab.learn(COUNTS, kind="morphemes")
    with pytest.raises(UserError, match="unknown SentencePiece model"):
        vocab.learn(COUNTS, kind="sentencepiece", model="words")
    with pytest.raises(UserError, match="SentencePiece cannot learn"):
        vocab.learn(COUNTS, kind="sentencepiece", size=8)


def test_alphabet_stops_at_the_coverage() -> None:
    words = Counter({"aaaa": 10, "b": 9, "c": 1})
    assert vocab.alphabet(words, 0.9) == ["a", "b"]
    assert vocab.alphabet(words, 1.0) == ["a", "b", "c"]


def test_saved_files_read_back(tmp_path: Path) -> None:
    learned = vocab.learn(COUNTS, size=240)
    learned.tokenizer.save(tmp_path)
    assert tokenizer.load(tmp_path).fingerprint == learned.tokenizer.fingerprint


# --- Extending ------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_base(*more: str, lowercase: bool = True) -> WordPieceTokenizer:
    """The specials, letters in both forms, and some more: spelled words have a piece a letter."""
    spelled = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return WordPieceTokenizer([*SPECIALS, *spelled, *more], lowercase)


def added(learned: vocab.Learned, base: WordPieceTokenizer) -> list[str]:
    """What stands behind the old entries, all of which must have kept their ids."""
    names = pieces(learned)
    assert names[: base.vocab_size] == base.tokens
    assert len(set(names)) == len(names) and len(names) % 8 == 0
    return names[base.vocab_size :]


def test_the_words_that_save_most_pieces_are_added_behind_the_old_ones() -> None:
    base = make_base("the", "##ing")
    counts = Counter({"the": 99, "a": 99, "go": 30, "river": 8, "rivers": 6, "seeking": 9})
    counts |= Counter({f"x{letter}": 2 for letter in LETTERS})
    learned = vocab.extend(counts, base, 4)
    # Pieces saved: 9 * 4 (s e e k ing), 8 * 4, 30 * 1, 6 * 5, and 2 for the last, which fills up.
    assert added(learned, base) == ["seeking", "river", "go", "rivers", "xa"]
    assert learned.tokenizer.vocab_size == 64 and learned.note == ""
    for word in counts - Counter({f"x{letter}": 2 for letter in LETTERS}):
        assert learned.tokenizer.pieces(learned.tokenizer.encode(word)) == [word]
    assert learned.tokenizer.encode("the king") == base.encode("the king")


@pytest.mark.parametrize("number", [1, 3, 8, 20])
def test_the_size_is_rounded_up_with_more_words(number: int) -> None:
    base = make_base()
    learned = vocab.extend(Counter(dict(COUNTS)), base, number)
    new = added(learned, base)
    assert number <= len(new) < number + 8
    assert not any(word.startswith("[unused") for word in new)
    assert learned.note == ""


def test_the_extension_hangs_on_the_counts_alone() -> None:
    base = make_base()
    shuffled = Counter(dict(sorted(COUNTS.items())))
    first = vocab.extend(COUNTS, base, 20)
    assert vocab.extend(shuffled, base, 20).tokenizer.fingerprint == first.tokenizer.fingerprint
    tied = Counter(dict.fromkeys(["zz", "yy", "xx"], 2))
    assert added(vocab.extend(tied, base, 1), base)[:3] == ["xx", "yy", "zz"]


def test_words_are_added_as_the_tokenizer_sees_them() -> None:
    """Case, accents and punctuation fall where they do in the text."""
    counts = Counter({"River,": 2, "(river": 3, "RIVÉR": 4, "[MASK]": 2, "##ing": 2, "日本": 2})
    uncased = added(vocab.extend(counts, make_base(), 30), make_base())
    assert uncased[:4] == ["river", "mask", "#", "ing"]  # 9 * 4, 2 * 3, 4 * 1, 2 * 2
    assert set(uncased[4:]) >= {"日", "本", ",", "(", "[", "]"}
    base = make_base(lowercase=False)
    cased = added(vocab.extend(counts, base, 30), base)
    assert {"River", "river", "RIVÉR", "MASK"} <= set(cased)


def test_unknown_words_are_worth_an_entry_and_rare_ones_are_not() -> None:
    base = make_base(lowercase=False)
    counts = Counter({"語": 3, "größe": 2, "once": 1, "x" * 201: 9})
    new = added(vocab.extend(counts, base, 30), base)
    assert new[:2] == ["語", "größe"]  # each of them is one [UNK]
    assert all(word.startswith("[unused") for word in new[2:])


@pytest.mark.parametrize("unused", [["[unused0]", "[unused1]"], ["[unused1]", "[unused2]"]])
def test_too_few_words_are_said_and_the_rest_is_unused(unused: list[str]) -> None:
    """Google's cased vocabulary counts its unused entries from 1, the uncased from 0."""
    base = make_base(*unused)
    learned = vocab.extend(Counter({"river": 5}), base, 3)
    new = added(learned, base)
    assert new[0] == "river" and len(new) == 5
    assert all(word.startswith("[unused") for word in new[1:])
    assert learned.note == "only 1 words of the text are not single pieces already and occur twice"
    assert {base.vocab_size + i for i in range(1, 5)} <= set(learned.tokenizer.never_random)


def test_as_many_words_as_wanted_need_no_note() -> None:
    base = make_base()
    learned = vocab.extend(Counter({"river": 5}), base, 1)
    assert added(learned, base)[0] == "river"
    assert learned.note == ""


def test_an_extended_vocabulary_is_saved_and_read_back(tmp_path: Path) -> None:
    base = make_base("[unused1]", lowercase=False)
    learned = vocab.extend(COUNTS, base, 9)
    learned.tokenizer.save(tmp_path)
    again = tokenizer.load(tmp_path)
    assert again.fingerprint == learned.tokenizer.fingerprint
    assert again.encode(LINES[0]) == learned.tokenizer.encode(LINES[0])


def test_a_sentencepiece_vocabulary_is_not_extended() -> None:
    base = vocab.learn(COUNTS, kind="sentencepiece", size=200).tokenizer
    assert base.kind == "sentencepiece"
    with pytest.raises(UserError, match="only a vocabulary of WordPiece or words can be extended"):
        vocab.extend(COUNTS, base, 8)
