"""Tests of word vectors: pairs of words that people have rated, and analogies in sections."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.errors import UserError
from bertjax.files.tables import numbered_lines

# Columns with the rating, in the files that have a header; case does not matter.
_RATINGS = ("simlex999", "human (mean)", "similarity", "score", "rating")


class Pair(NamedTuple):
    """Two words and how alike people find them."""

    first: str
    second: str
    rating: float


class Analogy(NamedTuple):
    """a is to b as c is to d."""

    section: str
    words: tuple[str, str, str, str]


def read_pairs(path: Path) -> list[Pair]:
    """WordSim-353's and SimLex-999's files: two words and a number, by tabs, commas or spaces.

    A first line is a header if it calls a column behind the words SimLex999, Human (mean),
    similarity, score or rating: the ratings stand there.

    Raises:
      UserError: a line that is none of this; file and line are named. No pairs.
    """
    pairs, column = [], 2
    for number, line in _filled(path):
        cells = re.split(r"\t|,", line) if re.search(r"\t|,", line) else line.split()
        cells = [cell.strip() for cell in cells]
        if number == 1 and (named := _rating_column(cells)):
            column = named
            continue
        if len(cells) <= column or not all(cells[:2]):
            raise UserError(f"{path}:{number}: write two words and their rating, not {line!r}")
        if not _is_number(cells[column]):
            hint = f"; a header names it: {', '.join(_RATINGS)}" if number == 1 else ""
            raise UserError(
                f"{path}:{number}: the rating {cells[column]!r} is not a finite number{hint}"
            )
        pairs.append(Pair(cells[0], cells[1], float(cells[column])))
    if not pairs:
        raise UserError(f"{path}: no pairs of words in it")
    return pairs


def _rating_column(cells: list[str]) -> int:
    """Where a header has it, behind the two words; 0 of other lines."""
    named = (place for place, cell in enumerate(cells) if place > 1 and cell.lower() in _RATINGS)
    return next(named, 0)


def read_analogies(path: Path) -> list[Analogy]:
    """The format of Google's questions-words.txt: ": section", then four words a line.

    Raises:
      UserError: a line that is neither; file and line are named. No questions.
    """
    found, section = [], ""
    for number, line in _filled(path):
        words = line.split()
        if words[0].startswith(":"):
            section = line.lstrip(": ")
            if not section:
                raise UserError(f"{path}:{number}: a section without a name; write ': capitals'")
        elif len(words) == 4:
            found.append(Analogy(section, (words[0], words[1], words[2], words[3])))
        else:
            raise UserError(
                f"{path}:{number}: {len(words)} words; write four, or ': SECTION', not {line!r}"
            )
    if not found:
        raise UserError(f"{path}: no questions in it")
    return found


def _filled(path: Path) -> list[tuple[int, str]]:
    if not path.is_file():
        raise UserError(f"{path}: not found")
    return [(number, line.strip()) for number, line in numbered_lines(path) if line.strip()]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


class WordTask(NamedTuple):
    """A test that only evaluates.

    Attributes:
      read: file -> items.
      files: which files of a folder are its own: {name: pattern}.
      primary: the score by which runs are compared.
      source: what a folder holds, for messages.
    """

    read: Callable[[Path], list[Any]]
    files: dict[str, str]
    primary: str
    source: str


WORD_TASKS = {
    "similarity": WordTask(
        read_pairs,
        {"WordSim-353": r"(ws|wordsim).*353|combined\.(csv|tab)", "SimLex-999": r"simlex.*999"},
        "spearman",
        "WordSim-353's combined.csv or SimLex-999.txt",
    ),
    "analogy": WordTask(
        read_analogies,
        {"Google analogies": r"questions-words"},
        "accuracy",
        "questions-words.txt",
    ),
}


def find(name: str, folder: Path) -> dict[str, Path]:
    """{test: file} of what a folder holds.

    Raises:
      UserError: no such folder, or none of the task's files in it.
    """
    task = WORD_TASKS[name]
    if not folder.is_dir():
        raise UserError(f"--data_dir={folder}: no such folder; give one with {task.source}")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found: dict[str, Path] = {}
    for test, pattern in task.files.items():
        for path in files:
            if re.search(pattern, path.name, re.IGNORECASE):
                found.setdefault(test, path)
    if not found:
        raise UserError(f"--data_dir={folder}: no file of --task={name}; it takes {task.source}")
    return found
