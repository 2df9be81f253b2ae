"""Tables of users' own whose columns may have other names than a task gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from bertjax.errors import UserError
from bertjax.files.tables import EXTENSIONS, TableRow, iterate_table, no_column
from bertjax.tasks.files import one_each


class OwnRow(NamedTuple):
    """A row that is asked by the task's names of columns.

    Attributes:
      yours: the task's name -> that of the file, where they differ.
    """

    row: TableRow
    yours: Mapping[str, str] = {}

    @property
    def where(self) -> str:
        return self.row.where

    def theirs(self, name: str) -> str:
        """What the file calls a column."""
        return self.yours.get(name, name)

    def has(self, name: str) -> bool:
        return self.theirs(name) in self.row.values

    def get(self, name: str) -> Any:
        """A value, None if there is no such column."""
        return self.row.values.get(self.theirs(name))

    @property
    def id(self) -> str:
        """The file's own name of the row, "" if it has none.

        Raises:
          UserError: --columns tells of one that is not there.
        """
        value = self.column("id") if "id" in self.yours else self.get("id")
        return "" if value is None else str(value)

    def column(self, *names: str) -> Any:
        """The value of the first of the columns that is there.

        Raises:
          UserError: there is none; those that there are are listed.
        """
        for name in names:
            if self.has(name):
                return self.get(name)
        wanted = " or ".join(f"'{self.theirs(name)}'" for name in names)
        raise UserError(
            f"{no_column(self.row, wanted)}; tell which is which: --columns {names[0]}=YOURS"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnTables:
    """What readers of users' tables have in common.

    Attributes:
      own_columns: patterns of the names that --columns may give others; empty for official files.
      yours: see OwnRow.
    """

    own_columns: Sequence[str] = ()
    yours: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def with_columns(self, yours: Mapping[str, str]) -> Self:
        return dataclasses.replace(self, yours=yours)

    def rows(self, path: Path) -> Iterator[OwnRow]:
        """Raises UserError: as tables.read_table does."""
        return (OwnRow(row, self.yours) for row in iterate_table(path))

    def check_no_columns(self, path: Path) -> None:
        """Raises UserError: --columns was given for a file whose columns have no names."""
        if self.yours:
            raise UserError(
                f"{path}: --columns is for tables with named columns "
                f"({', '.join(EXTENSIONS)}), which this file is not; leave it out"
            )


def find_tables(folder: Path) -> dict[str, Path]:
    """{split: file} of the tables train, dev and test in a folder.

    Raises:
      UserError: two files could be a split.
    """
    candidates = {
        split: [path for e in EXTENSIONS if (path := folder / f"{split}{e}").is_file()]
        for split in ("train", "dev", "test")
    }
    return one_each(folder, candidates)
