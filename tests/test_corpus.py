"""Documents come out of every source whole, in order and cut by their own text alone."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
import zstandard

from bertjax.errors import UserError
from bertjax.files import packings, text_files
from bertjax.text import corpus
from bertjax.text.corpus import Part

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def put(path: Path, content: str | bytes) -> Path:
    """Writes a file, packed as its name says."""
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(PACK[text_files.packing(path)](raw))
    return path


def put_json(path: Path, *documents: str) -> Path:
    return put(path, "".join(json.dumps({"text": text}) + "\n" for text in documents))


def documents(*sources: str | Path, field: str = "text") -> list[list[str]]:
    """The lines of each document, its parts joined."""
    found: list[list[str]] = []
    for part in corpus.parts(sources, field):
        if part.number == 0:
            found.append([])
        found[-1] += corpus.lines(part)
    return found


def message(*sources: str | Path, field: str = "text") -> str:
    """What is said of sources that cannot be read."""
    with pytest.raises(UserError) as error:
        documents(*sources, field=field)
    return str(error.value)


@pytest.fixture()
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 40)
    monkeypatch.setattr(corpus, "MAX_LINE_BYTES", 30)


# --- Documents ------------------------------------------------------------------------------


def test_blank_lines_and_file_ends_are_document_borders(tmp_path: Path) -> None:
    a = put(tmp_path / "a.txt", "\n\none\n two \n\n \n\nthree")
    b = put(tmp_path / "b.txt", "four\r\n\r\nfive\n\t\nsix\n\n")
    assert documents(a, b) == [["one", "two"], ["three"], ["four"], ["five"], ["six"]]


@pytest.mark.parametrize("extension", text_files.EXTENSIONS)
def test_every_kind_of_file_holds_the_same_documents(extension: str, tmp_path: Path) -> None:
    texts = ["Größe\nzwei", "日本 \U0001f600"]
    path = tmp_path / f"a{extension}"
    if text_files.is_jsonl(path):
        put_json(path, *texts)
    else:
        put(path, "\n\n".join(texts))
    assert documents(path) == [["Größe", "zwei"], ["日本 \U0001f600"]]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert documents(put(tmp_path / "a.txt", "\ufeffone")) == [["one"]]
    assert documents(put(tmp_path / "a.jsonl", '\ufeff{"text": "one"}')) == [["one"]]


def test_a_json_document_may_hold_empty_lines(tmp_path: Path) -> None:
    path = put_json(tmp_path / "a.jsonl", "\n one\n\ntwo\r\n", "  ", "three")
    put(path, path.read_text().replace("\n", "\n\n"))  # lines may be empty, too
    assert documents(path) == [["one", "two"], ["three"]]


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"id": 1, "text": null, "body": "one"}')
    assert documents(path, field="body") == [["one"]]


def test_what_json_can_say_but_no_text_can_hold_does_no_harm(tmp_path: Path) -> None:
    """Half a surrogate pair has no UTF-8, and the rules of 2018 delete NUL."""
    path = put(tmp_path / "a.jsonl", r'{"text": "a\ud83db \u0000c\u0000d"}')
    assert documents(path) == [["a?b cd"]]


def test_a_document_of_one_part_needs_no_identity(tmp_path: Path, small_parts: None) -> None:
    path = put(tmp_path / "a.txt", "short\n\n" + "one line of the book\n" * 9 + "\nend")
    first, *long, last = corpus.parts([path])
    assert first == Part(b"short", b"", 0, str(path), 0)
    assert (last.raw, last.document, last.is_whole) == (b"end", b"", True)
    assert {part.document for part in long} == {corpus.identity(long[0].raw)}
    assert [part.number for part in long] == list(range(len(long)))
    assert not any(part.is_whole for part in long)


def test_parts_say_where_they_stand(tmp_path: Path, small_parts: None) -> None:
    raw = b"\n \n short\n\n\n" + b"  one line of the book \n" * 9 + b"\nend" + b"x" * 200
    for part in corpus.parts([put(tmp_path / "a.txt.gz", raw)]):
        assert raw[part.offset : part.offset + len(part.raw)] == part.raw


def test_jobs_are_consecutive_parts_of_about_one_size() -> None:
    parts = [Part(b"x" * size) for size in (4, 5, 1, 10, 30, 3)]
    jobs = list(corpus.jobs(parts, 10))
    assert [[len(part.raw) for part in job] for job in jobs] == [[4, 5, 1], [10], [30], [3]]


# --- Cutting --------------------------------------------------------------------------------

_LETTERS = ["a", "b", "ß", "語", "\U0001f600"]


def random_text(rng: random.Random) -> str:
    """Some lines of words; a word may be longer than any part."""

    def word() -> str:
        return "".join(rng.choices(_LETTERS, k=rng.choice([1, 2, 5, 5, 60])))

    def line() -> str:
        return " ".join(word() for _ in range(rng.choice([1, 3, 10])))

    return "\n".join(line() for _ in range(rng.choice([1, 2, 9])))


def random_separator(rng: random.Random) -> str:
    return "\n" + "".join(rng.choice(["\n", " \n", "\r\n", "\t \n"]) for _ in range(3))


def triples(sources: Sequence[str | Path]) -> list[tuple[bytes, bytes, int]]:
    return [(part.raw, part.document, part.number) for part in corpus.parts(sources)]


@pytest.mark.parametrize("seed", range(30))
def test_parts_hang_on_the_text_of_their_document_alone(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None
) -> None:
    rng = random.Random(seed)
    texts = [random_text(rng) for _ in range(rng.randint(2, 8))]
    wanted = triples([put_json(tmp_path / "all.jsonl", *texts)])
    monkeypatch.setattr(packings, "_BLOCK", rng.choice([64, 100, 130, 1000]))

    def joined(some: list[str]) -> str:
        front, end = random_separator(rng)[1:], rng.choice(["", "\n", random_separator(rng)])
        return front + "".join(t + random_separator(rng) for t in some[:-1]) + some[-1] + end

    one = put(tmp_path / f"one.txt{rng.choice(list(PACK))}", joined(texts))
    assert triples([one]) == wanted
    middle = rng.randint(1, len(texts) - 1)
    several = [
        put(tmp_path / "a.txt", joined(texts[:middle])),
        put_json(tmp_path / "b.jsonl.xz", *texts[middle : middle + 1]),
    ]
    if texts[middle + 1 :]:
        several.append(put(tmp_path / "c.txt", joined(texts[middle + 1 :])))
    assert triples(several) == wanted
    monkeypatch.setattr(packings, "_BLOCK", rng.randint(1, 9))
    assert triples([put(tmp_path / "bytes.txt", joined(texts))]) == wanted


@pytest.mark.parametrize("seed", range(10))
def test_no_text_is_lost_and_no_part_is_too_large(
    seed: int, tmp_path: Path, small_parts: None
) -> None:
    rng = random.Random(seed)
    texts = [random_text(rng) for _ in range(6)]
    found: list[str] = []
    for part in corpus.parts([put_json(tmp_path / "a.jsonl", *texts)]):
        assert 0 < len(part.raw) <= 40 + 30
        if part.number == 0:
            found.append("")
        found[-1] += part.raw.decode()
    # What may go is white space where it was cut.
    assert ["".join(text.split()) for text in found] == ["".join(text.split()) for text in texts]


def test_a_part_ends_with_the_line_that_reaches_its_size(tmp_path: Path, small_parts: None) -> None:
    lines = [f"line {number} of the book" for number in range(10, 30)]
    parts = list(corpus.parts([put(tmp_path / "a.txt", "\n".join(lines))]))
    assert [line for part in parts for line in corpus.lines(part)] == lines
    # Two lines and the break between them have 39 bytes, so three are needed.
    assert {len(corpus.lines(part)) for part in parts[:-1]} == {3}


def test_an_endless_line_is_cut_at_a_space(tmp_path: Path, small_parts: None) -> None:
    words = [f"word{number}" for number in range(1000)]
    parts = list(corpus.parts([put(tmp_path / "a.txt", " ".join(words))]))
    assert len(parts) > 10 and max(len(part.raw) for part in parts) <= 70
    assert [word for part in parts for word in part.raw.decode().split()] == words


@pytest.mark.parametrize("letter", ["x", "ß", "語", "\U0001f600"])
def test_an_endless_word_is_cut_at_the_border_of_a_character(
    letter: str, tmp_path: Path, small_parts: None
) -> None:
    for shift in ("", "x", "xx", "xxx"):
        parts = list(corpus.parts([put(tmp_path / "a.txt", shift + letter * 500)]))
        assert "".join(part.raw.decode() for part in parts) == shift + letter * 500
        assert all(60 < len(part.raw) <= 70 for part in parts[:-1])


def test_bytes_that_are_no_characters_are_cut_into_large_parts_too(
    tmp_path: Path, small_parts: None
) -> None:
    parts = list(corpus.parts([put(tmp_path / "a.txt", b"\x80" * 500)]))
    assert all(60 < len(part.raw) <= 70 for part in parts[:-1])


def test_white_space_in_front_changes_no_document(tmp_path: Path, small_parts: None) -> None:
    """However much of it there is, it is no part of its own, least of all the first."""
    text = "\n".join(["one line of the book"] * 9)
    wanted = triples([put(tmp_path / "a.txt", text)])
    for front in ("\n" * 200, " " * 200, " \n\t\n" * 50):
        assert triples([put_json(tmp_path / "a.jsonl", front + text)]) == wanted
        assert triples([put(tmp_path / "b.txt", front + text)]) == wanted


def test_endless_blank_lines_need_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    cut = corpus._cut

    def watched(raw: bytes, *more: Any, **names: Any) -> Any:
        seen.append(len(raw))
        return cut(raw, *more, **names)

    monkeypatch.setattr(corpus, "_cut", watched)
    monkeypatch.setattr(packings, "_BLOCK", 100)
    path = put(tmp_path / "a.txt", "one" + "\n" * 10_000 + "two" + " \n" * 5000)
    assert documents(path) == [["one"], ["two"]]
    assert max(seen) <= 200


def test_lines_of_a_large_file_are_read_in_real_blocks(tmp_path: Path) -> None:
    """With the sizes that are in use: several parts and blocks, and a line longer than a block."""
    lines = [f"line {number} of the book" for number in range(60_000)]
    lines[30_000] = "endless " * 300_000
    raw = "\n".join(lines).encode()
    assert len(raw) > 3 * packings._BLOCK
    parts = list(corpus.parts([put(tmp_path / "a.txt", raw)]))
    assert b"".join(b"".join(part.raw.split()) for part in parts) == b"".join(raw.split())
    assert all(len(part.raw) >= corpus.PART_BYTES for part in parts[:-1])
    assert max(len(part.raw) for part in parts) > packings._BLOCK


# --- Sentences ------------------------------------------------------------------------------


def test_sentences_are_split_and_no_text_is_lost() -> None:
    running = "Mr. Smith went to Washington.  He met Dr. Jones! Did he? Yes, at 3.5 p.m. exactly…"
    found = corpus.sentences(running)
    assert found[:3] == ["Mr. Smith went to Washington.", "He met Dr. Jones!", "Did he?"]
    assert "".join("".join(found).split()) == "".join(running.split())


def test_the_language_decides_where_a_sentence_ends() -> None:
    line = "Er kam am 3. Mai an. Es kostet ca. 5 Euro."
    assert corpus.sentences(line, "de") == ["Er kam am 3. Mai an.", "Es kostet ca. 5 Euro."]
    assert len(corpus.sentences(line, "en")) == 3
    assert corpus.sentences("これは本です。あれは猫です。", "ja") == [
        "これは本です。",
        "あれは猫です。",
    ]


# --- What cannot be read --------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACK)
def test_text_that_is_not_utf8_names_file_and_line(packing: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"a.txt{packing}", b"fine\n\n fine\n Gr\xf6\xdfe\n")
    assert message(path) == (
        f"{path}:4: not UTF-8; convert it (iconv -t UTF-8) or leave the file out"
    )


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("bad", [b"Gr\xf6\xdfe", b"a\0b"])
def test_the_line_is_right_deep_in_a_file(
    bad: bytes, packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None
) -> None:
    """Behind several blocks, a byte order mark, blank lines, and parts of the same document."""
    monkeypatch.setattr(packings, "_BLOCK", 128)
    for number in (1, 2, 99, 100):
        lines = [b"fine"] * 50 + [b""] * 5 + [b"  a line of the book"] * 45
        lines[number - 1] = bad
        path = put(tmp_path / f"a.txt{packing}", b"\xef\xbb\xbf" + b"\r\n".join(lines))
        assert message(path).startswith(f"{path}:{number}: ")


def test_a_binary_file_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", b"fine\nfine\n\0\0\0")
    assert message(path) == f"{path}:3: a NUL byte, not a text file; leave it out"


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl.gz", '{"text": "one"}')
    path.write_bytes(path.read_bytes()[:-3])
    assert message(path).startswith(f"{path}: the compressed file is cut short or damaged")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"text": "a', "not valid JSON (Unterminated string"),
        ("one", "not valid JSON (Expecting value"),
        ("[" * 100_000, "not valid JSON ("),
        (b'{"text": "Gr\xf6\xdfe"}', "not valid JSON ('utf-8' codec can't decode"),
        ("[1, 2]", "no text in a field 'text' (found: no object); name it with --text_field"),
        ('"one"', "no text in a field 'text' (found: no object)"),
        ('{"id": 1, "body": "b"}', "no text in a field 'text' (found: id, body); name it with"),
        ('{"text": 3}', "no text in a field 'text' (found: text)"),
        ('{"text": null}', "no text in a field 'text' (found: text)"),
    ],
)
def test_a_line_that_is_no_json_with_the_field_is_named(
    line: str | bytes, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = line.encode() if isinstance(line, str) else line
    monkeypatch.setattr(packings, "_BLOCK", 64)
    for number in (0, 9):
        for packing in ("", ".zst"):
            content = b'{"text": "one"}\n\n\n' * (number // 3) + raw
            path = put(tmp_path / f"a.jsonl{packing}", content)
            assert message(path).startswith(f"{path}:{number + 1}: {wanted}")


def test_a_json_line_without_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MAX_JSON_BYTES", 1 << 20)
    monkeypatch.setattr(packings, "_BLOCK", 1 << 10)
    path = put(tmp_path / "a.jsonl", '{"text": "one"}\n[' + "1," * (1 << 20))
    assert message(path).startswith(f"{path}:2: a line of more than 1 MB; JSON lines hold one")


def test_what_holds_no_text_is_said(tmp_path: Path) -> None:
    blank = put(tmp_path / "blank.txt", "\n \n")
    empty = put_json(tmp_path / "empty.jsonl", "", "\n ")
    assert message() == "no input: give text files, folders, globs or tfds:NAME"
    assert message(blank, empty) == f"no text in {blank}, {empty}: only empty lines"
    assert documents(blank, put(tmp_path / "a.txt", "one")) == [["one"]]


def test_mistakes_show_before_the_first_document(tmp_path: Path) -> None:
    good = put(tmp_path / "a.txt", "one")
    with pytest.raises(UserError, match="no such file"):
        next(corpus.parts([good, tmp_path / "missing.txt"]))


# --- tensorflow-datasets --------------------------------------------------------------------


def mocked(*examples: str, asked: list[str] | None = None) -> Any:
    """A patch: every split of every data set has these examples; what is asked for is noted."""

    def as_dataset(self: Any, split: str, **_: object) -> tf.data.Dataset:
        (asked if asked is not None else []).append(f"{self.info.full_name} {split}")
        texts = [text.encode() for text in examples]
        columns = {"text": texts, "label": np.zeros(len(texts), np.int64)}
        return tf.data.Dataset.from_tensor_slices(columns)

    return tfds.testing.mock_data(as_dataset_fn=as_dataset)


def test_the_examples_of_a_data_set_are_documents(tmp_path: Path, small_parts: None) -> None:
    texts = ["one\n\ntwo", "Größe " * 50, " ", "a\0b"]
    asked: list[str] = []
    with mocked(*texts, asked=asked):
        found = list(corpus.parts(["tfds:imdb_reviews"]))
        list(corpus.parts(["tfds:imdb_reviews/plain_text:1.0.0@test[:50%]"]))
    same = corpus.parts([put_json(tmp_path / "a.jsonl", *texts)])
    assert [part[:3] for part in found] == [part[:3] for part in same]
    assert {part.file for part in found} == {""}
    name = "imdb_reviews/plain_text/1.0.0"
    assert asked == [f"{name} train", f"{name} test[:50%]"]


def test_data_sets_and_files_keep_their_order(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a.txt", "a"), put(tmp_path / "b.txt", "b")
    with mocked("one", "two"):
        assert documents(b, "tfds:imdb_reviews", a) == [["b"], ["one"], ["two"], ["a"]]
    assert corpus.resolve([tmp_path, "tfds:x@y"]) == [a, b, "tfds:x@y"]


def test_an_unknown_field_of_a_data_set_is_named_with_those_that_are_there() -> None:
    with mocked("one"):
        assert message("tfds:imdb_reviews", field="body") == (
            "tfds:imdb_reviews: no field 'body'; name one of text, label with --text_field"
        )
        assert message("tfds:imdb_reviews", field="label") == (
            "tfds:imdb_reviews: the field 'label' holds no text; name another with --text_field"
        )


def test_an_unknown_data_set_is_named() -> None:
    with tfds.testing.mock_data():
        told = message("tfds:no_such_data_set")
    assert told.startswith("tfds:no_such_data_set: tensorflow-datasets cannot give it (")
    assert "\n" not in told


def test_a_data_set_that_cannot_be_fetched_is_named(no_data_sets: Path) -> None:
    told = message("tfds:imdb_reviews")
    assert told.startswith("tfds:imdb_reviews: tensorflow-datasets cannot give it (")
    assert "\n" not in told
