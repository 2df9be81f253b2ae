"""word2vec's two formats: byte for byte what the C code writes; refusals name the place."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.weights import word_vectors
from bertjax.weights.word_vectors import WordVectors

WORDS = ["the", "café", "new_york"]
NUMBERS = [[0.5, -1.0], [1e-7, 3.0], [0.1, 2.0]]
FOUND = WordVectors(WORDS, np.array(NUMBERS, np.float32))
# By hand, as the C code writes them: in text with a space at the end of a line.
TEXT = "3 2\nthe 0.5 -1 \ncafé 1e-07 3 \nnew_york 0.1 2 \n".encode()
BINARY = b"3 2\n" + b"".join(
    word.encode() + b" " + struct.pack("<2f", *numbers) + b"\n"
    for word, numbers in zip(WORDS, NUMBERS, strict=True)
)


def read(folder: Path, content: bytes) -> WordVectors:
    path = folder / "vectors"
    path.write_bytes(content)
    return word_vectors.read(path)


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        TEXT.replace(b" \n", b"\n"),  # gensim's
        TEXT.replace(b" \n", b"\r\n"),
        BINARY,
        BINARY.replace(b"\n", b"").replace(b"3 2", b"3 2\n", 1),  # without line breaks
    ],
    ids=["text", "gensim's text", "text of Windows", "binary", "binary without breaks"],
)
def test_both_formats_are_read(content: bytes, tmp_path: Path) -> None:
    found = read(tmp_path, content)
    assert found.words == WORDS
    np.testing.assert_array_equal(found.vectors, FOUND.vectors)
    assert found.vectors.dtype == np.float32


def test_a_vocabulary_is_no_file_of_vectors(tmp_path: Path) -> None:
    path = tmp_path / "file"
    headless = TEXT.partition(b"\n")[2]  # as GloVe's, which is refused for what it lacks
    files = ((TEXT, True), (BINARY, True), (headless, True), (b"3\n" + headless, True))
    for content, wanted in (*files, (b"[PAD]\n[UNK]\n", False), (b"", False)):
        path.write_bytes(content)
        assert word_vectors.is_vectors(path) is wanted
    assert not word_vectors.is_vectors(tmp_path) and not word_vectors.is_vectors(tmp_path / "none")


def test_what_is_written_is_these_bytes(tmp_path: Path) -> None:
    word_vectors.write_binary(tmp_path / "new" / "a.bin", FOUND)
    assert (tmp_path / "new" / "a.bin").read_bytes() == BINARY
    word_vectors.write_text(tmp_path / "a.txt", FOUND)
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert lines[:2] == ["3 2", "the 0.5 -1"]


def test_every_number_survives_either_format(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 7)).astype(np.float32) * 10.0 ** rng.integers(-30, 30, (300, 1))
    found = WordVectors([f"w{i}" for i in range(300)], vectors.astype(np.float32))
    for write in (word_vectors.write_text, word_vectors.write_binary):
        write(tmp_path / "v", found)
        again = word_vectors.read(tmp_path / "v")
        assert again.words == found.words
        np.testing.assert_array_equal(again.vectors, found.vectors)


def test_vectors_larger_than_a_block_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_vectors, "_BLOCK", 5)
    assert read(tmp_path, BINARY).words == WORDS


def test_a_word_that_is_there_twice_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read(tmp_path, b"3 1\na 1\nb 2\na 3\n")
    assert found.words == ["a", "b"] and found.vectors.tolist() == [[1.0], [2.0]]
    assert "1 words stand there twice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 0.5 -1\ncat 1 2\n", r"vectors:1: 'the 0.5 -1' is not the first line"),
        (b"", r"vectors:1: '' is not the first line"),
        (b"0 2\n", r"vectors:1: '0 2' is not the first line"),
        (b"4 2\n" + TEXT[4:], r"vectors:1: says 4 words, but there are 3"),
        (b"2 2\n" + TEXT[4:], r"vectors:1: says 2 words, but more follow"),
        (b"999999999999 300\n" + TEXT[4:], r"vectors:1: says 999999999999 words, for which"),
        (b"2 2\na 1 2\nb 1\n", r"vectors:3: 'b' has 1 numbers, line 1 says 2"),
        (b"2 2\na 1 2\nb 1 two\n", r"vectors:3: 'two' in the vector of 'b' is no number"),
        (b"2 2\na 1 2\nb 1 nan\n", r"vectors: the vector of 'b' holds a number that is not finite"),
        (b"2 2\na 1 2\nb\xff 1 2\n", r"vectors:3: not UTF-8"),
        (BINARY[:-8], r"vectors: cut short in word 3 of 3, behind café"),
        (BINARY + b"x" * 9, r"vectors:1: says 3 words, but more follow"),
        (BINARY.replace(b"3 2", b"3 1"), r"vectors(:1)?: "),
        (BINARY.replace(b"caf", b"c\xff\xff"), r"vectors: word 2, behind 'the', is not UTF-8"),
    ],
)
def test_broken_files_are_refused_with_their_place(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    broken = WordVectors(["a", "\ud800"], np.zeros((2, 1), np.float32))
    with pytest.raises(UnicodeEncodeError):
        word_vectors.write_text(tmp_path / "a.txt", broken)
    assert not list(tmp_path.iterdir())
