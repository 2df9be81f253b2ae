"""Text becomes tokens part by part; what is dropped is counted, and keys hang on text and seed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from bertjax.data.tokenized import TextSettings, Tokenized, tokenize
from bertjax.errors import UserError
from bertjax.text import corpus, duplicate_lines
from bertjax.text.corpus import Part
from bertjax.text.tokenizer import SPECIALS, WordPieceTokenizer
from bertjax.workers import Workers

THREE = "The old farmer found a letter.\nThis river crossed the village.\nThe quiet teacher.\n"


def documents(*texts: str) -> list[Part]:
    return [Part(text.strip().encode()) for text in texts]


def sentences(done: Tokenized) -> list[list[int]]:
    ends = np.cumsum(done.parts.sentence_lengths)
    return [ids.tolist() for ids in np.split(done.parts.tokens, ends[:-1])] if len(ends) else []


# --- Tokens ---------------------------------------------------------------------------------


def test_tokens_and_lengths_are_those_of_the_sentences(
    tiny_vocabulary: Path, tiny_tokenizer: WordPieceTokenizer
) -> None:
    parts = documents(THREE, "A small garden.", "Every winter\n\n  the engine.")
    done = tokenize((TextSettings(tiny_vocabulary), parts))
    lines = [line for part in parts for line in corpus.lines(part)]
    assert sentences(done) == [tiny_tokenizer.encode(line) for line in lines]
    assert done.parts.num_sentences.tolist() == [3, 1, 2]
    own = [sum(len(tiny_tokenizer.encode(line)) for line in corpus.lines(p)) for p in parts]
    assert done.parts.num_tokens.tolist() == done.document_tokens.tolist() == own
    assert len(done.parts.tokens) == sum(own) == done.parts.sentence_lengths.sum()
    assert (done.read, done.short, done.lines) == (3, 0, 0)
    assert done.characters == sum(len(part.raw) for part in parts)
    assert done.first.tolist() == [True] * 3


def test_lines_are_split_by_the_language_or_are_sentences_already(tiny_vocabulary: Path) -> None:
    parts = documents("The old river, e.g. this. A garden.\nA bridge. The letter.")

    def lengths(language: str) -> list[int]:
        done = tokenize((TextSettings(tiny_vocabulary, language=language), parts))
        assert done.parts.num_sentences.tolist() == [len(done.parts.sentence_lengths)]
        return done.parts.sentence_lengths.tolist()

    whole, split = lengths(""), lengths("en")
    assert (len(whole), len(split)) == (2, 4)
    assert sum(whole) == sum(split)
    german = documents("Er kam am 3. Mai an. Es kostet ca. 5 Euro.")
    for language, number in (("de", 2), ("en", 3), ("", 1)):
        done = tokenize((TextSettings(tiny_vocabulary, language=language), german))
        assert done.parts.num_sentences.tolist() == [number]


@pytest.mark.parametrize(("size", "wanted"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_ids_take_the_smallest_type_that_holds_the_vocabulary(
    size: int, wanted: type, tmp_path: Path
) -> None:
    tokens = [*SPECIALS, *(f"w{number}" for number in range(size - len(SPECIALS)))]
    WordPieceTokenizer(tokens, lowercase=True).save(tmp_path)
    done = tokenize((TextSettings(tmp_path), documents(f"w0 {tokens[-1]}")))
    assert done.parts.tokens.dtype == wanted
    assert done.parts.tokens.tolist() == [len(SPECIALS), size - 1]


def test_lines_without_tokens_are_no_sentences(tiny_vocabulary: Path) -> None:
    """A soft hyphen is deleted, as in 2018."""
    done = tokenize((TextSettings(tiny_vocabulary), documents("The river.\n\u00ad\nA garden.")))
    assert done.parts.sentence_lengths.tolist() == [3, 3]


def test_text_that_cannot_be_read_is_named(tiny_vocabulary: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n\nGr\xf6\xdfe\n")
    with pytest.raises(UserError, match=r"a\.txt:3: not UTF-8"):
        tokenize((TextSettings(tiny_vocabulary), list(corpus.parts([path]))))


# --- What is dropped ------------------------------------------------------------------------


def test_whole_short_documents_are_dropped_and_counted(tiny_vocabulary: Path) -> None:
    parts = documents(
        "A river.", "A small river.", "A small old river.", "A small old bright river."
    )
    done = tokenize((TextSettings(tiny_vocabulary, min_tokens=5), parts))
    assert done.document_tokens.tolist() == [3, 4, 5, 6]
    assert done.parts.num_tokens.tolist() == [5, 6]
    assert (done.read, done.short) == (4, 2)
    same = tokenize((TextSettings(tiny_vocabulary, min_tokens=5), parts[2:]))
    assert all(map(np.array_equal, done.parts, same.parts))


def test_parts_of_long_documents_are_never_too_short(tiny_vocabulary: Path) -> None:
    long = [Part(b"A river.", b"x" * 16, 0), Part(b"A garden.", b"x" * 16, 1)]
    parts = [Part(b"A letter."), *long]
    done = tokenize((TextSettings(tiny_vocabulary, min_tokens=100), parts))
    assert done.parts.number.tolist() == [0, 1]
    assert done.short == 1
    assert done.first.tolist() == [True, True, False]


@pytest.mark.parametrize(("min_tokens", "short"), [(0, 0), (1, 1), (9, 1)])
def test_a_job_of_which_nothing_is_left_is_empty(
    min_tokens: int, short: int, tiny_vocabulary: Path
) -> None:
    settings = TextSettings(tiny_vocabulary, min_tokens=min_tokens)
    done = tokenize((settings, documents("\u00ad")))
    full = tokenize((settings, documents(THREE))).parts
    assert [(len(c), c.dtype) for c in done.parts] == [(0, column.dtype) for column in full]
    assert (done.read, done.short, done.document_tokens.tolist()) == (1, short, [0])


def test_duplicate_lines_are_dropped_and_counted(tiny_vocabulary: Path, tmp_path: Path) -> None:
    parts = documents("A river.\nThe letter.", "The garden.\nA river.\nA bridge.")
    with Workers(1) as workers:
        folder = duplicate_lines.find([parts], tmp_path / "lines", workers)
    done = tokenize((TextSettings(tiny_vocabulary, dropped_lines=folder), parts))
    assert done.lines == 1
    assert sorted(done.parts.num_sentences.tolist()) in ([1, 3], [2, 2])
    assert done.parts.num_sentences.sum() == 4


def test_a_document_whose_lines_are_all_duplicates_is_gone(
    tiny_vocabulary: Path, tmp_path: Path
) -> None:
    parts = documents("A river.", "A river. ", "A river.\nThe garden.")
    with Workers(1) as workers:
        folder = duplicate_lines.find([parts], tmp_path / "lines", workers)
    # Copies of a whole document are no concern of the lines; both keep or lose theirs.
    settings = TextSettings(tiny_vocabulary, dropped_lines=folder)
    done = [tokenize((settings, [part])) for part in parts]
    left = [one.parts.num_sentences.tolist() for one in done]
    assert left in ([[], [], [2]], [[1], [1], [1]])
    assert [one.lines for one in done] in ([1, 1, 0], [0, 0, 1])
    assert [one.short for one in done] == [int(not sentences) for sentences in left]


# --- Keys -----------------------------------------------------------------------------------


def test_keys_hang_on_seed_and_text_alone(tiny_vocabulary: Path) -> None:
    """Not on what stands around a part, nor where it comes from, nor how it is split."""
    texts = [f"The river {number}.\nA garden." for number in range(20)]
    done = tokenize((TextSettings(tiny_vocabulary, seed=3), documents(*texts)))
    keys = dict(zip(texts, zip(done.parts.key, done.parts.document, strict=True), strict=True))
    random.Random(0).shuffle(texts)
    for some in (texts[:1], texts[1:7], texts[7:]):
        parts = [Part(text.encode(), file="elsewhere.txt", offset=7) for text in some]
        again = tokenize((TextSettings(tiny_vocabulary, "", seed=3), parts)).parts
        pairs = list(zip(again.key, again.document, strict=True))
        assert pairs == [keys[text] for text in some]
    other = tokenize((TextSettings(tiny_vocabulary, seed=4), documents(*texts)))
    assert not set(other.parts.key) & {key for key, _ in keys.values()}
    assert len(set(done.parts.key)) == len(set(done.parts.document)) == len(texts)


def test_keys_are_spread_over_all_of_their_range(tiny_vocabulary: Path) -> None:
    """For shards of about one size."""
    texts = [f"a {number}" for number in range(1000)]
    keys = tokenize((TextSettings(tiny_vocabulary, ""), documents(*texts))).parts.key
    assert keys.dtype == np.uint64
    quarters = np.bincount((keys >> np.uint64(62)).astype(int), minlength=4)
    assert quarters.min() > 180


def test_equal_texts_have_equal_keys_and_the_parts_of_a_document_one_name(
    tiny_vocabulary: Path,
) -> None:
    first, second = b"1" * 16, b"2" * 16
    parts = [
        Part(b"A river.", first, 0),
        Part(b"A letter.", first, 1),
        Part(b"A river.", second, 0),
        Part(b"A letter."),
        Part(b"A letter."),
    ]
    found = tokenize((TextSettings(tiny_vocabulary), parts)).parts
    assert found.key[0] == found.key[2] and found.key[1] == found.key[3] == found.key[4]
    assert found.document[0] == found.document[1] == int.from_bytes(first[:8], "little")
    assert found.document[2] == int.from_bytes(second[:8], "little")
    assert found.document[3] == found.document[4]
    assert len(set(found.document)) == len(set(found.key)) + 1 == 3
    assert found.number.tolist() == [0, 1, 0, 0, 0]


def test_all_of_a_large_text_is_tokenized_however_it_is_grouped(
    tiny_vocabulary: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 200)
    parts = list(corpus.parts([tiny_corpus]))
    settings = TextSettings(tiny_vocabulary)
    whole = tokenize((settings, parts)).parts
    jobs = [tokenize((settings, job)).parts for job in corpus.jobs(parts, 700)]
    assert len(jobs) > 3
    for column, several in zip(whole, zip(*jobs, strict=True), strict=True):
        np.testing.assert_array_equal(column, np.concatenate(several))
