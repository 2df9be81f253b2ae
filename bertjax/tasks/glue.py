"""Sentence and sentence-pair classification from GLUE's tab-separated files, and from your own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bertjax import metrics
from bertjax.data.examples import Example
from bertjax.errors import UserError
from bertjax.tasks.base import Task


def read_tsv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a file with tabs between columns and no quoting, as GLUE's are.

    Raises:
      UserError: missing, empty or not UTF-8, or a row with another number of columns (line named).
    """
    if not path.is_file():
        raise UserError(f"{path}: not found; --data_dir must hold train.tsv and dev.tsv")
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8; convert it: iconv -t UTF-8") from error
    header, *rows = (line.rstrip("\r").split("\t") for line in lines)
    if not rows:
        raise UserError(f"{path}: no examples; it needs a header line and rows below it")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(
                f"{path}:{number}: {len(row)} columns, the header has {len(header)} "
                f"({', '.join(header)}); check for missing or stray tabs"
            )
    return header, rows


def _column(path: Path, header: list[str], name: str) -> int:
    if name not in header:
        raise UserError(f"{path}:1: no column '{name}'; the header has: {', '.join(header)}")
    return header.index(name)


def tsv_reader(*texts: str) -> Callable[[Path, str], list[Example]]:
    """A reader of <split>.tsv with these text columns (one or two) and a column "label".

    Only a file named test.tsv may lack the labels.
    """

    def read(folder: Path, split: str) -> list[Example]:
        path = folder / f"{split}.tsv"
        header, rows = read_tsv(path)
        columns = [_column(path, header, text) for text in texts]
        unlabelled = split == "test" and "label" not in header
        label = None if unlabelled else _column(path, header, "label")
        return [
            Example(
                text_a=row[columns[0]],
                text_b=row[columns[1]] if len(columns) == 2 else None,
                label=None if label is None else row[label],
                where=f"{path}:{number}",
            )
            for number, row in enumerate(rows, start=2)
        ]

    return read


def _task(name: str, *texts: str, labels: tuple[str, ...] | None = None) -> Task:
    return Task(
        name=name,
        read=tsv_reader(*texts),
        score=metrics.accuracy_and_f1,
        primary="accuracy",
        labels=labels,
    )


TASKS = {
    task.name: task
    for task in (
        _task("sst2", "sentence", labels=("0", "1")),
        _task("rte", "sentence1", "sentence2", labels=("entailment", "not_entailment")),
        _task("qnli", "question", "sentence", labels=("entailment", "not_entailment")),
        # Your own files: train.tsv, dev.tsv and, if you like, test.tsv.
        _task("classify", "sentence"),
        _task("pair", "sentence1", "sentence2"),
    )
}
