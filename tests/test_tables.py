"""Tables: GLUE's tabs without quoting, RFC 4180, JSON lines; what is wrong names file and line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjax.errors import UserError
from bertjax.files import tables
from bertjax.files.tables import TableRow, read_table
from bertjax.reporting import results

Put = Callable[[str, str | bytes], Path]
# Separators that only str.splitlines takes for line breaks: U+2028, U+0085, form feed.
ODD = "one\u2028two\x85three\x0cfour"


@pytest.fixture()
def put(tmp_path: Path) -> Put:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def values(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [row.values for row in read_table(path, **options)]


# --- Formats --------------------------------------------------------------------------------


def test_tabs_are_all_that_glue_knows(put: Put) -> None:
    path = put("dev.tsv", f'text\tlabel\n"an "open quote\t1\n{ODD}\t\n, and " \\\t0\n')
    assert values(path) == [
        {"text": '"an "open quote', "label": "1"},
        {"text": ODD, "label": ""},
        {"text": ', and " \\', "label": "0"},
    ]


def test_csv_is_rfc_4180(put: Put) -> None:
    path = put("dev.csv", f'text,label\r\n"a ""b"", c\r\nd",1\r\n{ODD},"x,y"\r\nlast,\r\n')
    assert values(path) == [
        {"text": 'a "b", c\r\nd', "label": "1"},
        {"text": ODD, "label": "x,y"},
        {"text": "last", "label": ""},
    ]
    # A row is where it begins, however many lines the one before has.
    assert [row.where for row in read_table(path)] == [f"{path}:{n}" for n in (2, 4, 5)]


def test_json_lines_keep_their_types(put: Put) -> None:
    path = put("dev.jsonl", f'{{"text": "{ODD[:8]}", "label": 1.5}}\n{{"label": true, "n": null}}')
    assert values(path) == [{"text": ODD[:8], "label": 1.5}, {"label": True, "n": None}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "text\tlabel\na b\t1\n"),
        ("a.csv", "text,label\na b,1\n"),
        ("a.jsonl", '{"text": "a b", "label": "1"}\n'),
    ],
)
@pytest.mark.parametrize(
    "changed",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content.removesuffix(b"\n"),
        lambda content: content + b"\n\r\n\n",
    ],
    ids=["byte order mark", "CRLF", "no line break at the end", "blank lines at the end"],
)
def test_what_does_not_matter(
    put: Put, name: str, content: str, changed: Callable[[bytes], bytes]
) -> None:
    path = put(name, changed(content.encode()))
    assert read_table(path) == [
        TableRow({"text": "a b", "label": "1"}, f"{path}:{1 if name == 'a.jsonl' else 2}")
    ]


def test_a_field_may_be_longer_than_the_csv_module_likes(put: Put) -> None:
    text = "word " * 100_000
    assert values(put("a.csv", f'text\n"{text}"\n')) == [{"text": text}]


def test_an_empty_text_in_the_only_column_is_a_row(put: Put) -> None:
    assert values(put("a.tsv", "text\n\nb\n\n")) == [{"text": ""}, {"text": "b"}]


def test_another_extension_can_be_asked_for(put: Put) -> None:
    assert values(put("a.txt", "x\ty\n1\t2\n"), extension=".tsv") == [{"x": "1", "y": "2"}]


# --- Names of columns -----------------------------------------------------------------------


def test_columns_of_a_file_without_header_are_named_by_the_caller(put: Put) -> None:
    path = put("a.tsv", "one\t1\ntwo\t2\n")
    assert read_table(path, names=("text", "label")) == [
        TableRow({"text": "one", "label": "1"}, f"{path}:1"),
        TableRow({"text": "two", "label": "2"}, f"{path}:2"),
    ]


def test_a_header_is_noticed_nevertheless(put: Put) -> None:
    path = put("a.tsv", "index\ttext\n0\tone\n")
    assert values(path, names=("label", "text")) == [{"index": "0", "text": "one"}]


def test_a_missing_column_is_named_beside_those_there_are(put: Put) -> None:
    (row,) = read_table(put("a.tsv", "text\tlabel\na\t1\n"))
    assert row.column("text") == "a"
    with pytest.raises(UserError, match=r"a\.tsv:1: no column 'gold'; .* has: text, label$"):
        row.column("gold")
    _, second = read_table(put("a.jsonl", '{"a": 1}\n{"b": 1, "c": 2}\n'))
    with pytest.raises(UserError, match=r"a\.jsonl:2: no column 'a'; .* has: b, c$"):
        second.column("a")


# --- What is wrong --------------------------------------------------------------------------

WRONG: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("a.tsv", "", "a.tsv: no examples; it needs a header line"),
    "only a header": ("a.csv", "text,label\n", "a.csv: no examples; it needs a header line"),
    "no object": ("a.jsonl", "\n\n", "a.jsonl: no examples; it needs one JSON object a line"),
    "unknown extension": ("a.xlsx", "x", "a.xlsx: unknown extension; a table ends in .tsv, .csv"),
    "not UTF-8": ("a.tsv", b"x\ty\na\t1\nr\xed\t2\n", "a.tsv:3: not UTF-8; convert it: iconv"),
    "UTF-16": ("a.csv", "x,y\na,1\n".encode("utf-16"), "a.csv:1: not UTF-8"),
    "a column twice": ("a.tsv", "x\ty\tx\n1\t2\t3\n", "a.tsv:1: two columns are named 'x'"),
    "too few columns": ("a.tsv", "x\ty\n1\t2\n3\n", "a.tsv:3: 1 columns, the header has 2 (x, y)"),
    "too many columns": ("a.csv", "x,y\n1,2,3\n", "a.csv:2: 3 columns, the header has 2 (x, y)"),
    "a blank line": ("a.tsv", "x\ty\n\n1\t2\n", "a.tsv:2: 1 columns, the header has 2"),
    "an open quote": ("a.csv", 'x,y\n1,2\n3,"4\n5,6\n', "a.csv:3: malformed CSV"),
    "old Mac lines": ("a.csv", "x,y\r1,2\r3,4\r", "a.csv:1: malformed CSV (new-line character"),
    "text after a quote": ("a.csv", 'x,y\n"1"2,3\n', "a.csv:2: malformed CSV"),
    "malformed JSON": ("a.jsonl", '{"x": 1}\n{"x": \n', "a.jsonl:2: not valid JSON"),
    "half a character": ("a.jsonl", '{"x": "\\ud800"}\n', "a.jsonl:1: not valid JSON"),
    "much nested": ("a.jsonl", "[" * 100_000 + "\n", "a.jsonl:1: not valid JSON"),
    "not an object": ("a.jsonl", '{"x": 1}\n[1]\n', "a.jsonl:2: not a JSON object; write"),
}


@pytest.mark.parametrize(("name", "content", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_in_one_line(put: Put, name: str, content: str, message: str) -> None:
    path = put(name, content)
    with pytest.raises(UserError) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path.parent}/{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "mend"),
    [
        ("a.csv", "x,y\r1,2\r", r"; look for a line that ends in \r alone, as on old Macs"),
        ("a.csv", 'x,y\n"1', "; look for a quote that is not closed or not doubled"),
        ("a.tsv", 'x\ty\n"1\t2"\t3\n', "stray tabs; quotes hold no cell together in .tsv"),
    ],
)
def test_a_broken_row_is_told_with_the_mend(put: Put, name: str, content: str, mend: str) -> None:
    with pytest.raises(UserError) as error:
        read_table(put(name, content))
    assert mend in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dev\.tsv: not found"):
        read_table(tmp_path / "dev.tsv")


def test_broken_rows_are_counted_where_the_caller_asks_for_it(put: Put) -> None:
    path = put("a.tsv", "x\ty\n1\t2\n3\n4\t5\t6\n7\t8\n")
    skipped: list[str] = []
    assert values(path, skipped=skipped) == [{"x": "1", "y": "2"}, {"x": "7", "y": "8"}]
    assert skipped == [f"{path}:3", f"{path}:4"]


# --- Written --------------------------------------------------------------------------------


def test_what_is_written_is_read_back_with_all_its_line_breaks(tmp_path: Path) -> None:
    texts = ["a\rb", "a\nb", "a\r\nb", 'a\t"b"', "", ODD]
    columns = {"prediction": [f"p{i}" for i in range(len(texts))], "text": texts}
    written = tables.as_tsv(columns)
    lines = csv.reader(io.StringIO(written, newline=""), delimiter="\t")
    assert list(lines) == [["prediction", "text"], *map(list, zip(*columns.values(), strict=True))]
    assert written.startswith('prediction\ttext\np0\t"a\rb"\np1\t')
    (tmp_path / "predictions-test.tsv").write_bytes(written.encode())
    assert results.read_answers(tmp_path, "test") == columns["prediction"]
