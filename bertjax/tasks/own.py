"""Your own texts: classify one, classify a pair, or give a number; .tsv, .csv or .jsonl files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bertjax.errors import UserError
from bertjax.files.tables import EXTENSIONS
from bertjax.scores import metrics
from bertjax.tasks.base import Task
from bertjax.tasks.columns import Columns, needs_label
from bertjax.tasks.files import one_of_names
from bertjax.tasks.own_tables import TABLES, OwnTables
from bertjax.tasks.sentences import Classification, Example, Regression

_OWN_TASKS = "--task=classify, pair, regress, tag, choice, span"


@dataclasses.dataclass(frozen=True)
class OwnReader(OwnTables):
    """Files train, dev and test with one of the extensions, in any folder.

    Attributes:
      columns: by the task's own names.
    """

    columns: Columns
    source: str

    def find(self, folder: Path, given: Collection[str] = ()) -> dict[str, Path]:
        """Raises UserError: two files that could be a split."""
        return one_of_names(folder, TABLES, given)

    def read(self, path: Path, split: str) -> list[Example]:
        """Raises UserError: as OwnTables.rows and Columns.example do."""
        columns, needed = _renamed(self.columns, self.yours), needs_label(split)
        return [columns.example(row.row, needed) for row in self.rows(path, split)]


def with_columns(task: Task, given: Sequence[str], kept: bool = False) -> Task:
    """The task for files whose columns have other names.

    Args:
      given: what --columns was, such as ["sentence=review", "label=stars"].
      kept: it was given for the training of a finished run; files whose columns have no names may
        be predicted all the same.

    Raises:
      UserError: not of the form NAME=YOURS, a name that the task does not have, a task that is
        not for own files.
    """
    if not given:
        return task
    reader = task.reader
    if not isinstance(reader, OwnTables) or not reader.own_columns:
        raise UserError(f"--columns: for your own files ({_OWN_TASKS}), not {task.name}")
    yours: dict[str, str] = {}
    for item in given:
        name, _, column = item.partition("=")
        known = any(re.fullmatch(pattern, name) for pattern in reader.own_columns)
        if not known or not column or name in yours:
            raise UserError(
                f"--columns {item}: write NAME=YOURS, each once; NAME is "
                f"{', '.join(reader.own_columns)}"
            )
        yours[name] = column
    return dataclasses.replace(task, reader=dataclasses.replace(reader, yours=yours, kept=kept))


def _renamed(columns: Columns, yours: Mapping[str, str]) -> Columns:
    """Of alternatives only those are left in which a name was given."""

    def rename(alternatives: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
        meant = [names for names in alternatives if yours.keys() & set(names)] or alternatives
        return tuple(tuple(yours.get(name, name) for name in names) for names in meant)

    labels, ids = (rename([(name,) for name in names]) for names in (columns.labels, columns.ids))
    return dataclasses.replace(
        columns,
        texts=rename(columns.texts),
        labels=tuple(label for (label,) in labels),
        ids=tuple(name for (name,) in ids),
    )


def _reader(texts: Sequence[tuple[str, ...]], *labels: str) -> OwnReader:
    said = " or ".join(" and ".join(names) for names in texts)
    example = " ".join(f"{name}=YOURS" for name in (*texts[0], labels[0]))
    names = (name for names in texts for name in names)
    return OwnReader(
        Columns(
            tuple(texts),
            labels,
            is_number="score" in labels,
            ids=("id",),
            mend=f"; tell which is which: --columns {example}",
        ),
        source=(
            f"your own train and dev and, if you like, test: {', '.join(EXTENSIONS)} with columns "
            f"{said}, {' or '.join(labels)} and, if you like, id"
        ),
        own_columns=(*names, *labels, "id"),
        own_labels=labels,
    )


OWN = {
    task.name: task
    for task in (
        Task(
            name="classify",
            reader=_reader((("sentence",), ("text",)), "label"),
            family=Classification(metrics.accuracy_and_f1),
            primary="accuracy",
        ),
        Task(
            name="pair",
            reader=_reader((("sentence1", "sentence2"),), "label"),
            family=Classification(metrics.accuracy_and_f1),
            primary="accuracy",
        ),
        Task(
            name="regress",
            reader=_reader(
                (("sentence",), ("text",), ("sentence1", "sentence2")), "label", "score"
            ),
            family=Regression(),
            primary="spearman",
            labels=(),
        ),
    )
}
