"""Multiple choice from SWAG's official files (paper, section 4.4), and from your own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files.tables import EXTENSIONS
from bertjax.tasks.base import Recipe, Task
from bertjax.tasks.choice import Choice, Example
from bertjax.tasks.columns import needs_label
from bertjax.tasks.files import one_of_names
from bertjax.tasks.own_tables import TABLES, OwnRow, OwnTables

_ENDINGS = tuple(f"ending{number}" for number in range(4))
_CONTEXTS = ("context", "sentence", "question")
# A context, what all choices begin with, and the choices.
_Texts = tuple[str, str, tuple[str, ...]]


def _swag_texts(row: OwnRow) -> _Texts:
    texts = [row.column(name) for name in ("sent1", "sent2", *_ENDINGS)]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{row.where}: sent1, sent2 and the endings must be texts")
    return texts[0], texts[1], tuple(texts[2:])


def _own_choices(row: OwnRow) -> Any:
    """The list in one column, or the columns choice0, choice1, ... up to the last that is filled.

    Raises:
      UserError: neither is there.
    """
    names = itertools.takewhile(row.has, (f"choice{number}" for number in itertools.count()))
    cells = [row.get(name) for name in names]
    while cells and cells[-1] in (None, ""):
        cells.pop()
    return cells or row.column("choices", "choice0")


def _own_texts(row: OwnRow) -> _Texts:
    """A question beside a context is a part of every choice."""
    context, choices = row.column(*_CONTEXTS), _own_choices(row)
    name = next(filter(row.has, _CONTEXTS))
    question = row.get("question") if name != "question" and row.has("question") else ""
    texts = [context, question, *(choices if isinstance(choices, list) else [None])]
    if not all(isinstance(text, str) for text in texts) or len(choices) < 2:
        raise UserError(
            f"{row.where}: '{row.theirs(name)}' must be a text and 'choices' a list of two or more "
            "texts (in .csv and .tsv: columns choice0, choice1, ...)"
        )
    return context, question, tuple(choices)


def _number(label: Any, choices: tuple[str, ...], where: str) -> int:
    """A label that is a choice's text or its number, from 0.

    Raises:
      UserError: it is neither, or the text of one choice and the number of another.
    """
    text = str(label)
    number = int(text) if text.isdecimal() and int(text) < len(choices) else None
    place = choices.index(label) if label in choices else number
    if place is None:
        raise UserError(
            f"{where}: label '{label}' is neither the text of a choice nor a number from 0 to "
            f"{len(choices) - 1}"
        )
    # JSON's numbers are no texts.
    if number not in (None, place):
        raise UserError(
            f"{where}: label '{label}' is the number of one choice and the text of another; "
            f'write .jsonl with the number, not as a text: "label": {number} or {place}'
        )
    return place


@dataclasses.dataclass(frozen=True)
class ChoiceReader(OwnTables):
    """Tables with one example a row.

    Attributes:
      texts: what a row holds.
      files: split -> the names that its file may have.
    """

    texts: Callable[[OwnRow], _Texts]
    files: Mapping[str, Sequence[str]]
    source: str

    def find(self, folder: Path, given: Collection[str] = ()) -> dict[str, Path]:
        """Raises UserError: two files that could be a split."""
        return one_of_names(folder, self.files, given)

    def read(self, path: Path, split: str) -> list[Example]:
        """Raises UserError: as tables.read_table does, and for a row that is not of this kind."""
        examples = list(map(self._example, self.rows(path, split)))
        for example in examples:
            if example.gold is None and needs_label(split):
                raise UserError(f"{example.where}: no label; only test files may lack labels")
        return examples

    def _example(self, row: OwnRow) -> Example:
        context, beginning, choices = self.texts(row)
        label = row.get("label")
        return Example(
            context=context,
            choices=tuple(f"{beginning} {choice}" for choice in choices) if beginning else choices,
            gold=None if label in (None, "") else _number(label, choices, row.where),
            where=row.where,
            id=row.id,
        )


SWAG = {
    task.name: task
    for task in (
        Task(
            name="swag",
            reader=ChoiceReader(
                texts=_swag_texts,
                files={"train": ("train.csv",), "dev": ("val.csv",), "test": ("test.csv",)},
                source="https://github.com/rowanz/swagaf: its data/ with train.csv, val.csv, "
                "test.csv",
            ),
            family=Choice(),
            primary="accuracy",
            labels=(),
            recipe=Recipe(batch_size=16, learning_rate=2e-5, epochs=3, max_seq_length=128),
            paper={"BERT-base": "81.6 (dev)", "BERT-large": "86.6 (dev)"},
        ),
        # Your own files: any number of choices.
        Task(
            name="choice",
            reader=ChoiceReader(
                texts=_own_texts,
                files=TABLES,
                source=f"your own train and dev and, if you like, test: {', '.join(EXTENSIONS)} "
                "with columns context, choice0, choice1, ... (in .jsonl also choices, a list), "
                "label (the right one's number, from 0, or its text); if you like, question, id",
                own_columns=(*_CONTEXTS, "choices", "choice[0-9]+", "label", "id"),
                own_labels=("label",),
            ),
            family=Choice(),
            primary="accuracy",
            labels=(),
            recipe=Recipe(batch_size=16, learning_rate=2e-5, epochs=3, max_seq_length=128),
        ),
    )
}
