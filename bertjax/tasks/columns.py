"""Examples of texts and pairs from rows with named columns: files' and tensorflow-datasets'."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from bertjax.errors import UserError
from bertjax.files.tables import TableRow, no_column
from bertjax.tasks.sentences import Example


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns are called. Where there are alternatives, the first that is there counts.

    Attributes:
      texts: alternatives, each the name of one column or the names of two.
      labels: alternatives.
      is_number: the label is a number, not a name.
      ids: alternatives; the file's own names of its rows, which it may lack.
      mend: what to do where a column is missing, for messages.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] = ("label",)
    is_number: bool = False
    ids: tuple[str, ...] = ()
    mend: str = ""

    def find_texts(self, row: TableRow) -> tuple[str, str | None]:
        """Raises UserError: a missing column, or one that holds no text."""
        names = next((names for names in self.texts if row.values.keys() >= set(names)), None)
        if names is None:
            wanted = " or ".join(" and ".join(f"'{name}'" for name in two) for two in self.texts)
            raise UserError(no_column(row, wanted) + self.mend)
        first, *second = (_text(row, name) for name in names)
        return first, second[0] if second else None

    def example(self, row: TableRow, needs_label: bool) -> Example:
        """Raises UserError: a missing column or label, a text or number that is none."""
        text_a, text_b = self.find_texts(row)
        label = next((name for name in self.labels if name in row.values), None)
        if needs_label and label is None:
            wanted = " or ".join(f"'{name}'" for name in self.labels)
            raise UserError(no_column(row, wanted) + self.mend)
        value = None if label is None else row.values[label]
        gold = None if value in (None, "") else self._gold(value, row.where, str(label))
        if needs_label and gold is None:
            raise UserError(
                f"{row.where}: column '{label}' is empty; only test files may lack labels"
            )
        return Example(text_a, text_b, gold, row.where, row.name(*self.ids))

    def _gold(self, value: Any, where: str, column: str) -> str | float:
        if not self.is_number:
            return _label_name(value, where, column)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{where}: column '{column}' holds '{value}'; it must be a number")
        return number


def _text(row: TableRow, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise UserError(f"{row.where}: column '{column}' holds {value!r}; it must be a text")
    return value


def _label_name(value: Any, where: str, column: str) -> str:
    """A label as text; JSON's true is "true", and its 1 and 1.0 are "1", as they stand in a table.

    Raises:
      UserError: a list or an object.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise UserError(f"{where}: column '{column}' holds {value!r}; a label is a text or a number")


def needs_label(split: str) -> bool:
    """Only what is trained on or chosen by must have labels."""
    return split == "train" or split.startswith("dev")
