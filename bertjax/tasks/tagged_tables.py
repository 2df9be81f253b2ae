"""Words and their tags from tables: lists in JSON lines, and cells with spaces between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files.tables import numbered_lines
from bertjax.tasks.own_tables import OwnRow
from bertjax.tasks.tagging import Example

COLUMNS = ("tokens", "tags", "id")


def is_table(path: Path, yours: Mapping[str, str]) -> bool:
    """Whether a file has named columns; others have a word and its tag a line.

    A .tsv may be either: it is a table if its first line names the columns.

    Args:
      yours: see OwnRow; such a name is no word by chance, whatever stands beside it.
    """
    if path.suffix != ".tsv" or not path.is_file():
        return path.suffix in (".csv", ".jsonl")
    _, first = next(numbered_lines(path), (1, ""))
    found = set(first.rstrip("\r\n").split("\t"))
    theirs = [yours.get(name, name) for name in COLUMNS]
    if yours and theirs[0] in found:
        return True
    tokens, tags, _ = COLUMNS
    return tokens in found and (tags in found or found <= {*COLUMNS})


def read(rows: Iterable[OwnRow], is_json: bool) -> Iterator[Example]:
    """A sentence a row; the tags may be absent.

    Raises:
      UserError: no tokens, values of another kind, not as many tags as tokens.
    """
    for row in rows:
        row.column("tokens")
        tags = row.get("tags")
        words = _texts(row, "tokens", is_json)
        gold = None if tags is None or (tags == "" and words) else _texts(row, "tags", is_json)
        if gold is not None and len(gold) != len(words):
            raise UserError(f"{row.where}: {len(words)} tokens, but {len(gold)} tags")
        yield Example(words, gold, document=None, where=row.where, id=row.id)


def _texts(row: OwnRow, name: str, is_json: bool) -> list[str]:
    value: Any = row.get(name)
    if not is_json:
        # Not all white space parts words: a no-break space may be one.
        return [text for text in value.split(" ") if text]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f'{row.where}: "{row.theirs(name)}" must be a list of strings')
    return value
