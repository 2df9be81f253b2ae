"""Learns a vocabulary of WordPiece, SentencePiece or words from counts of words, or extends one.

SentencePiece's trainer learns from the counts alone, so learning takes as long for 1 GB as for
100 GB of text.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sentencepiece

from bertjax.errors import UserError
from bertjax.text import tokenizer
from bertjax.text.chunk_tokenizer import SPECIALS, ChunkTokenizer
from bertjax.text.word_counts import by_frequency, in_chunks

KINDS = ("wordpiece", "sentencepiece", "words")
# For the user's own symbols later. With them, as in the files of 2018, [PAD] is 0, [UNK] 100,
# [CLS] 101, [SEP] 102, [MASK] 103.
_UNUSED = 99
# SentencePiece marks the begin of a word and an unknown character with these two.
_SPACE, _RESERVED = "▁", frozenset("▁▅")
_THREADS = 8  # fixed, because the order of the sums, and so the vocabulary, hangs on it


@dataclass(frozen=True)
class Learned:
    """A vocabulary and how it came about; `learned.tokenizer.save(folder)` writes its files."""

    tokenizer: tokenizer.Tokenizer
    note: str  # what the user should know, or ""


def learn(
    counts: Counter[str],
    *,
    kind: str = "wordpiece",
    size: int = 30_522,
    lowercase: bool = True,
    coverage: float = 0.9999,
    model: str = "unigram",
    min_count: int = 1,
) -> Learned:
    """Learns a vocabulary; the same counts give the same bytes on any machine.

    Args:
      counts: how often each white-space-delimited chunk stands in the text.
      kind: "wordpiece", "sentencepiece" or "words".
      size: entries wanted; rounded up to a multiple of 8, which accelerators like, with unused
        entries. With too little text the vocabulary is smaller and `note` says so.
      coverage: share of all characters in the text whose letters must be in the vocabulary; the
        letters beyond it become [UNK], so that a few stray signs do not fill the vocabulary.
      model: "unigram" or "bpe", for SentencePiece.
      min_count: words that are rarer are [UNK]; for words.

    Raises:
      UserError: no text, or a size below the special symbols and the alphabet.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of vocabulary {kind!r}; known: {', '.join(KINDS)}")
    if not counts:
        raise UserError("no text to learn a vocabulary from: every line is empty")
    wanted = -(-size // 8) * 8
    if kind == "wordpiece":
        made = _wordpiece(counts, wanted, lowercase, coverage)
    elif kind == "words":
        made = _words(counts, wanted, lowercase, min_count)
    else:
        made = _sentencepiece(counts, wanted, lowercase, coverage, model)
    note = ""
    if made.vocab_size < wanted and kind != "words":
        note = (
            f"the text is too short for {size} entries; the vocabulary has {made.vocab_size}. "
            "Give more text or a smaller size"
        )
    return Learned(made, note)


def extend(counts: Counter[str], base: tokenizer.Tokenizer, number: int) -> Learned:
    """Adds the words of a text that save most pieces to a vocabulary, behind its own.

    To one of words, those that are [UNK] most often.

    Args:
      number: how many words; a few more are added so that the size is a multiple of 8.

    Raises:
      UserError: a SentencePiece vocabulary.
    """
    if not isinstance(base, ChunkTokenizer):
        raise UserError(
            "only a vocabulary of WordPiece or words can be extended, not SentencePiece"
        )
    words = in_chunks(counts, base.lowercase)
    known, saved = set(base.tokens), Counter[str]()
    for word, count in words.items():
        # A word of one letter that is [UNK] saves no piece, but is worth an entry.
        pieces = len(base.encode(word)) - (base.unk_id not in base.encode(word))
        if pieces and count > 1 and word not in known and len(word) <= base.max_chars_per_word:
            saved[word] = count * pieces
    wanted = number + -(base.vocab_size + number) % 8
    new = [word for word, _ in by_frequency(saved)[:wanted]]
    note = ""
    if len(new) < number:
        note = f"only {len(new)} words of the text are not single pieces already and occur twice"
    # Some vocabularies count their unused entries from 0, some from 1.
    unused = (name for i in itertools.count() if (name := f"[unused{i}]") not in known)
    tokens = [*base.tokens, *new, *itertools.islice(unused, -(base.vocab_size + len(new)) % 8)]
    return Learned(type(base)(tokens, base.lowercase, base.max_chars_per_word), note)


# --- WordPiece ------------------------------------------------------------------------------


def _wordpiece(
    counts: Counter[str], size: int, lowercase: bool, coverage: float
) -> tokenizer.Tokenizer:
    """Byte-pair encoding over the words that the WordPiece tokenizer itself will see."""
    words = in_chunks(counts, lowercase)
    letters = alphabet(words, coverage)
    head = ["[PAD]", *(f"[unused{i}]" for i in range(_UNUSED)), *SPECIALS[1:]]
    tokens = head + letters + ["##" + letter for letter in letters]
    if size < len(tokens):
        raise UserError(
            f"a vocabulary of {size} is too small: {len(head)} special and unused entries and the "
            f"{len(letters)} letters of this text, each in two forms, need {len(tokens)}; "
            "give a larger size"
        )
    known = set(letters)
    kept = Counter({w: n for w, n in words.items() if known.issuperset(w)})
    merges = size - len(tokens) + len(letters)  # ▁a is a merge there, and a letter here
    pieces = _train(
        kept,
        model_type="bpe",
        vocab_size=2 + len(letters) + merges,
        character_coverage=1.0,
        normalization_rule_name="identity",
        max_sentencepiece_length=24,
        unk_id=0,
        pad_id=-1,
        bos_id=-1,
        eos_id=-1,
    )
    reader = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    merged = map(reader.id_to_piece, range(1, reader.get_piece_size()))
    # SentencePiece gives merges in the order they were made, the most useful first.
    tokens += [_as_wordpiece(piece) for piece in merged if piece != _SPACE]
    tokens = list(dict.fromkeys(tokens))[:size]
    room = -len(tokens) % 8
    tokens += [f"[unused{i}]" for i in range(_UNUSED, _UNUSED + room)]
    return tokenizer.WordPieceTokenizer(tokens, lowercase)


def _as_wordpiece(piece: str) -> str:
    return piece[1:] if piece.startswith(_SPACE) else "##" + piece


def alphabet(words: Counter[str], coverage: float) -> list[str]:
    """The commonest letters, which together make up `coverage` of all characters, sorted."""
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    left = coverage * sum(letters.values())
    kept = []
    for letter, count in by_frequency(letters):
        if left <= 0:
            break
        kept.append(letter)
        left -= count
    return sorted(set(kept) - _RESERVED)


# --- Words ----------------------------------------------------------------------------------


def _words(counts: Counter[str], size: int, lowercase: bool, min_count: int) -> tokenizer.Tokenizer:
    """The most frequent words, in that order; counts may be of chunks or of words already."""
    words = by_frequency(in_chunks(counts, lowercase))
    kept = [word for word, count in words if count >= min_count][: max(size - len(SPECIALS), 0)]
    if not kept:
        raise UserError(
            f"no words for a vocabulary: none of {len(words):,} stands {min_count} times in the "
            f"text, or {size} entries are too few; give more text, a smaller --min_count or a "
            "larger --vocab_size"
        )
    tokens = [*SPECIALS, *kept]
    tokens += [f"[unused{i}]" for i in range(-len(tokens) % 8)]
    return tokenizer.WordTokenizer(tokens, lowercase)


# --- SentencePiece --------------------------------------------------------------------------


def _sentencepiece(
    counts: Counter[str], size: int, lowercase: bool, coverage: float, model: str
) -> tokenizer.Tokenizer:
    """A SentencePiece model with BERT's five symbols, which text itself can never produce."""
    if model not in ("unigram", "bpe"):
        raise UserError(f"unknown SentencePiece model {model!r}; known: unigram, bpe")
    settings: dict[str, Any] = dict(
        model_type=model,
        vocab_size=size,
        character_coverage=coverage,
        normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
    )
    for role, (number, name) in zip(
        ("pad", "unk", "bos", "eos"), enumerate(SPECIALS), strict=False
    ):
        settings |= {f"{role}_id": number, f"{role}_piece": name}
    made = tokenizer.SentencePieceTokenizer(_train(counts, **settings, control_symbols="[MASK]"))
    if room := -made.vocab_size % 8:  # too little text for the size
        symbols = ["[MASK]", *(f"[unused{i}]" for i in range(room))]
        settings |= {"vocab_size": made.vocab_size + room, "control_symbols": symbols}
        made = tokenizer.SentencePieceTokenizer(_train(counts, **settings))
    return made


def _train(counts: Counter[str], **settings: Any) -> bytes:
    """SentencePiece's trainer on word counts; the bytes of its model."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_rows(counts)),
            input_format="tsv",
            model_writer=model,
            hard_vocab_limit=False,
            num_threads=_THREADS,
            minloglevel=4,
            **settings,
        )
    except RuntimeError as error:
        raise UserError(f"SentencePiece cannot learn from this text: {error}") from None
    return model.getvalue()


def _rows(counts: Counter[str]) -> Iterable[str]:
    """The trainer's rows, text<TAB>count, in which every word counts as often as it does.

    The unigram trainer takes a string for a possible piece if it occurs with different characters
    after it. In the text a frequent word does; to do so here it stands once before another word.
    """
    usable = [row for row in by_frequency(counts) if _RESERVED.isdisjoint(row[0])]
    repeated = [row for row in usable if row[1] > 1]
    for (word, count), (following, _) in zip(repeated, repeated[1:] + repeated[:1], strict=True):
        yield f"{word} {following}\t1"
        if count > 2:
            yield f"{word}\t{count - 2}"
    for word, _ in usable[len(repeated) :]:
        yield f"{word}\t1"
