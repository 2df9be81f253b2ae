"""Questions about a context from tables: an answer a row, or a list of answers in JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bertjax.errors import UserError
from bertjax.tasks.own_tables import OwnRow

LABELS = ("answer", "answer_start", "answers")
_FIELDS = ("question", "context", *LABELS)
COLUMNS = (*_FIELDS, "id")


class Question(NamedTuple):
    """A question as SQuAD's members name it, where it stands, and its id, else its line's."""

    fields: Mapping[str, Any]
    where: str
    id: str


def read(row: OwnRow) -> Question:
    """A row's question; in place of "answers" there may be "answer" and "answer_start".

    Raises:
      UserError: no question, no context, a place that is no number.
    """
    for name in ("question", "context"):
        row.column(name)
    fields = {name: row.get(name) for name in _FIELDS if row.has(name)}
    if "answers" not in fields and fields.get("answer") is not None:
        fields["answers"] = _one_answer(fields, row.where)
    impossible = row.get("is_impossible")
    # Of a table it is a text, and "False" is not empty; there an empty answer tells it.
    if impossible is not None and not isinstance(impossible, str):
        fields["is_impossible"] = impossible
    return Question(fields, row.where, row.id or row.where.rpartition(":")[2])


def _one_answer(fields: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Without its place it is the first such text in the context; empty: there is no answer."""
    text, start = fields["answer"], fields.get("answer_start")
    if text == "":
        return []
    if start in (None, ""):
        start = max(str(fields["context"]).find(str(text)), 0)
    elif isinstance(start, str):
        if not start.isdecimal():
            raise UserError(f"{where}: answer_start '{start}' is not the number of a character")
        start = int(start)
    return [{"text": text, "answer_start": start}]
