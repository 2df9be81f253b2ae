"""Tables of users' own whose columns may have other names than a task gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.errors import UserError
from bertjax.files.tables import EXTENSIONS, TableRow, iterate_table, no_column
from bertjax.tasks.columns import needs_label

# The names that the tables of a folder may have.
TABLES = {split: [f"{split}{e}" for e in EXTENSIONS] for split in ("train", "dev", "test")}


class OwnRow(NamedTuple):
    """A row that is asked by the task's names of columns.

    Attributes:
      yours: the task's name -> that of the file, where they differ.
      mendable: --columns may give such names.
    """

    row: TableRow
    yours: Mapping[str, str] = {}
    mendable: bool = False

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
        """The file's own name of the row, "" if it has none."""
        return self.row.name(self.theirs("id"))

    def column(self, *names: str) -> Any:
        """The value of the first of the columns that is there.

        Raises:
          UserError: there is none; those that there are are listed.
        """
        for name in names:
            if self.has(name):
                return self.get(name)
        wanted = " or ".join(f"'{self.theirs(name)}'" for name in names)
        mend = f"; tell which is which: --columns {names[0]}=YOURS" if self.mendable else ""
        raise UserError(no_column(self.row, wanted) + mend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnTables:
    """What readers of users' tables have in common.

    Attributes:
      own_columns: patterns of the names that --columns may give others; empty for official files.
      own_labels: those that files without labels lack.
      yours: see OwnRow.
      kept: `yours` is what a finished run was trained with, not what was given for these files.
      tfds: see base.Reader.
    """

    own_columns: Sequence[str] = ()
    own_labels: Sequence[str] = ()
    yours: Mapping[str, str] = dataclasses.field(default_factory=dict)
    kept: bool = False
    tfds: str | None = None

    def is_table(self, path: Path) -> bool:
        """Whether a file has named columns; here, all that are read have."""
        return True

    def rows(self, path: Path, split: str) -> Iterator[OwnRow]:
        """Raises UserError: as tables.read_table does; a column that --columns names is nowhere in
        the file, but for labels where they may be absent."""
        rows: Iterable[TableRow] = iterate_table(path)
        if self.yours:
            rows = list(rows)
            self._check_there(path, rows, () if needs_label(split) else self.own_labels)
        return (OwnRow(row, self.yours, bool(self.own_columns)) for row in rows)

    def _check_there(self, path: Path, rows: Iterable[TableRow], optional: Sequence[str]) -> None:
        # Of JSON, a line may lack what others have.
        found = {column: None for row in rows for column in row.values}
        for name, theirs in self.yours.items():
            if theirs not in found and name not in optional:
                said = f"--columns {name}={theirs} tells of"
                if self.kept:
                    said = f"the run was trained with; give --columns {name}=YOURS"
                raise UserError(
                    f"{path}: no column '{theirs}', which {said}; there are: {', '.join(found)}"
                )

    def check_columns(self, paths: Iterable[Path]) -> None:
        """Raises UserError: --columns was given, and no file has columns with names."""
        if self.yours and not self.kept and not any(map(self.is_table, paths)):
            raise UserError(
                f"--columns: for tables with named columns ({', '.join(EXTENSIONS)}), and "
                f"here is only {' and '.join(map(str, paths))}; leave it out"
            )
