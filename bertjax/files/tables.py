"""Tables with named columns: read from .tsv as GLUE writes it, .csv (RFC 4180) and .jsonl."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.errors import UserError

EXTENSIONS = (".tsv", ".csv", ".jsonl")
# The largest that the csv module takes everywhere; its own limit is 131,072 characters.
CSV_FIELD_LIMIT = 2**31 - 1


class TableRow(NamedTuple):
    """One row: its values by column, text but for .jsonl; `where` ("dev.tsv:17") is its line."""

    values: dict[str, Any]
    where: str

    def column(self, name: str) -> Any:
        """A value. Raises UserError: there is no such column; those that there are are listed."""
        if name not in self.values:
            raise UserError(no_column(self, f"'{name}'"))
        return self.values[name]

    def name(self, *columns: str) -> str:
        """What it is called by the first of the columns that is there, "" if there is none."""
        value = next((self.values[column] for column in columns if column in self.values), None)
        return "" if value is None else str(value)


def no_column(row: TableRow, wanted: str) -> str:
    """The message for a missing column; a .jsonl line names its own columns, a table's header
    those of all rows."""
    path, _, _ = row.where.rpartition(":")
    own = Path(path).suffix == ".jsonl"
    place, holder = (row.where, "line") if own else (f"{path}:1", "header")
    return f"{place}: no column {wanted}; the {holder} has: {', '.join(row.values)}"


def read_table(
    path: Path,
    *,
    extension: str = "",
    names: Sequence[str] = (),
    skipped: list[str] | None = None,
) -> list[TableRow]:
    """The rows of a file; a byte order mark, \\r\\n and blank lines at the end do not matter.

    Args:
      extension: read it as if its name ended so, ".tsv", ".csv" or ".jsonl".
      names: the columns of a file without header; a first line that holds one of them is a header
        nevertheless.
      skipped: where it is given, rows with a wrong number of columns are left out and their
        places ("train.tsv:83") put here.

    Raises:
      UserError: missing, without rows, not UTF-8, an unknown extension, a column named twice, a
        wrong number of columns, malformed CSV or JSON; file and line are named.
    """
    return list(iterate_table(path, extension=extension, names=names, skipped=skipped))


def iterate_table(
    path: Path,
    *,
    extension: str = "",
    names: Sequence[str] = (),
    skipped: list[str] | None = None,
) -> Iterator[TableRow]:
    """As read_table, one row at a time."""
    if not path.is_file():
        raise UserError(f"{path}: not found")
    extension = extension or path.suffix
    if extension == ".jsonl":
        rows = _objects(path)
    elif extension in _CELLS:
        rows = _table(path, extension, names, skipped)
    else:
        raise UserError(f"{path}: unknown extension; a table ends in {', '.join(EXTENSIONS)}")
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        need = "one JSON object a line" if extension == ".jsonl" else "a header line and rows below"
        raise UserError(f"{path}: no examples; it needs {need}")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends; only \\n ends one, text may hold all other separators."""
    blank: list[tuple[int, str]] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{path}:{number}: not UTF-8; convert it: iconv -t UTF-8") from None
            blank.append((number, line))
            if line.strip("\r\n"):
                yield from blank
                blank.clear()


def _tsv_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in numbered_lines(path):
        yield number, line.removesuffix("\n").removesuffix("\r").split("\t")


def _csv_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """A quoted cell may go over several lines; the number is that of the first one."""
    csv.field_size_limit(CSV_FIELD_LIMIT)
    reader = csv.reader((line for _, line in numbered_lines(path)), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            mend = "look for a quote that is not closed or not doubled"
            if "new-line" in str(error):
                mend = "look for a line that ends in \\r alone, as on old Macs; it must be \\n"
            raise UserError(f"{path}:{number}: malformed CSV ({error}); {mend}") from None
        if cells is None:
            return
        yield number, cells


_CELLS = {".tsv": _tsv_cells, ".csv": _csv_cells}
# What to look for where a row has too few columns or too many.
_STRAY = {
    ".tsv": "tabs; quotes hold no cell together in .tsv, write .csv for that",
    ".csv": "commas and quotes",
}


def _table(
    path: Path, extension: str, names: Sequence[str], skipped: list[str] | None
) -> Iterator[TableRow]:
    header = list(names)
    for number, cells in _CELLS[extension](path):
        if number == 1 and (not names or set(cells) & set(names)):
            header = cells
            _check_names(path, header)
        elif len(cells) == len(header):
            yield TableRow(dict(zip(header, cells, strict=True)), f"{path}:{number}")
        elif skipped is not None:
            skipped.append(f"{path}:{number}")
        else:
            raise UserError(
                f"{path}:{number}: {len(cells)} columns, the header has {len(header)} "
                f"({', '.join(header)}); check for missing or stray {_STRAY[extension]}"
            )


def _check_names(path: Path, header: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"{path}:1: two columns are named '{name}'; rename one of them")


def _objects(path: Path) -> Iterator[TableRow]:
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        try:
            values = json.loads(line)
            # A lone surrogate, "\ud800", is no text: it cannot be written again.
            json.dumps(values, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not valid JSON ({error})") from None
        if not isinstance(values, dict):
            raise UserError(f'{where}: not a JSON object; write {{"column": value, ...}}')
        yield TableRow(values, where)


def as_tsv(columns: Mapping[str, Iterable[Any]]) -> str:
    """Tabs between columns; what holds a tab, a line break or a quote is quoted as in CSV."""
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    return "".join(map(_tsv_line, rows))


def _tsv_line(cells: Sequence[Any]) -> str:
    content = io.StringIO()
    # Of line breaks, Python 3.11 quotes those alone that are in its own.
    csv.writer(content, delimiter="\t", lineterminator="\r\n").writerow(cells)
    return content.getvalue().removesuffix("\r\n") + "\n"
