"""Documents come out of the user's files whole and in order; what cannot be read is named."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from bertjax import text
from bertjax.errors import UserError


def put(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    path.write_bytes(lzma.compress(data) if path.suffix == ".xz" else data)
    return path


def test_blank_lines_and_file_ends_are_document_borders(tmp_path: Path) -> None:
    a = put(tmp_path / "a.txt", "\n\none\n two \n\n \n\nthree")
    b = put(tmp_path / "b.txt", "four\r\n\r\nfive\n\n")
    wanted = [["one", "two"], ["three"], ["four"], ["five"]]
    assert list(text.documents([a, b])) == wanted


@pytest.mark.parametrize("extension", text.EXTENSIONS)
def test_compressed_files_read_the_same(extension: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"a{extension}", "Größe\n\n日本")
    assert list(text.documents([path])) == [["Größe"], ["日本"]]


def test_folders_and_globs_are_sorted_and_inputs_keep_their_order(tmp_path: Path) -> None:
    for name in ("f/z.txt", "f/b/y.txt.gz", "f/b/x.txt", "f/notes.md", "f/.hidden.txt", "g/2.txt"):
        put(tmp_path / name, name)
    put(tmp_path / "g/1.txt", "g/1.txt")
    found = text.files([str(tmp_path / "g/*.txt"), tmp_path / "f"])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["g/1.txt", "g/2.txt", "f/b/x.txt", "f/b/y.txt.gz", "f/z.txt"]
    assert text.files([str(tmp_path / "**/x.txt")]) == [tmp_path / "f/b/x.txt"]


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    path = put(tmp_path / "a[1].txt", "one")
    assert text.files([path]) == [path]


def test_blocks_bound_the_memory_and_join_to_the_documents(tmp_path: Path) -> None:
    lines = [f"line {i} of the book" for i in range(100)]
    path = put(tmp_path / "a.txt", "short\n\n" + "\n".join(lines) + "\n\nend")
    blocks = list(text.blocks([path], block_chars=200))
    assert max(sum(map(len, block.lines)) for block in blocks) < 200 + len(lines[0]) + 2
    assert [block.document for block in blocks if block.starts] == [0, 1, 2]
    assert sum((b.lines for b in blocks if b.document == 1), []) == lines
    assert list(text.documents([path])) == [["short"], lines, ["end"]]


def test_a_block_that_ends_with_its_document_starts_the_next(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", "aaaa\nbbbb\n\ncccc\ndddd\n")
    blocks = list(text.blocks([path], block_chars=4))
    assert [(b.document, b.starts) for b in blocks] == [
        (0, True),
        (0, False),
        (1, True),
        (1, False),
    ]


@pytest.mark.parametrize("word", ["word ", "日本語", "x"])
def test_endless_lines_are_cut_without_loss(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 64)
    path = put(tmp_path / "a.txt", word * 100 + "\nlast")
    (document,) = text.documents([path])
    assert max(len(line.encode()) for line in document) <= 64
    if " " in word:
        assert {w for line in document for w in line.split()} == {"word", "last"}
    assert "".join("".join(document).split()) == (word * 100 + "last").replace(" ", "")


def test_sentences_are_split_and_no_text_is_lost(tmp_path: Path) -> None:
    running = "Mr. Smith went to Washington.  He met Dr. Jones! Did he? Yes, at 3.5 p.m. exactly…"
    path = put(tmp_path / "a.txt", running)
    (document,) = text.documents([path], split_sentences=True)
    assert document[:3] == ["Mr. Smith went to Washington.", "He met Dr. Jones!", "Did he?"]
    assert "".join("".join(document).split()) == "".join(running.split())
    assert list(text.documents([path])) == [[running]]


def test_the_language_decides_where_a_sentence_ends() -> None:
    line = "Das ist z.B. gut. Es kostet ca. 5 Euro."
    assert text.sentences(line, "de") == ["Das ist z.B. gut.", "Es kostet ca. 5 Euro."]
    assert text.sentences("これは本です。あれは猫です。", "ja") == [
        "これは本です。",
        "あれは猫です。",
    ]


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert list(text.documents([put(tmp_path / "a.txt", "\ufeffone")])) == [["one"]]


def read(*inputs: str | Path) -> str:
    with pytest.raises(UserError) as error:
        list(text.documents(list(inputs)))
    return str(error.value)


def test_not_utf8_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\nfine\nGr\xf6\xdfe\n")
    assert read(path).startswith(f"{path}:3: not UTF-8")


@pytest.mark.parametrize("extension", [".txt.gz", ".txt.xz"])
def test_cut_or_damaged_archives_are_named(extension: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"a{extension}", "\n".join(str(i * 7919) for i in range(9999)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path}: the compressed file is cut short" in read(path)
    path.write_bytes(b"not an archive")
    assert "damaged" in read(path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    blank = put(tmp_path / "blank.txt", "\n \n")
    assert "no input" in read()
    assert "no such file" in read(tmp_path / "nothing.txt")
    assert "no file matches" in read(str(tmp_path / "*.gz"))
    assert "file in this folder" in read(tmp_path / "empty")
    assert "unknown extension" in read(put(tmp_path / "a.pdf", "x"))
    assert f"no text in {blank}" in read(blank)


def test_mistakes_show_before_the_first_document(tmp_path: Path) -> None:
    good = put(tmp_path / "a.txt", "one")
    with pytest.raises(UserError, match="no such file"):
        next(text.documents([good, tmp_path / "missing.txt"]))
