"""Questions about a context: SQuAD 1.1 and 2.0 (paper, sections 4.2 and 4.3), and your own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files.json_file import read_json
from bertjax.files.tables import EXTENSIONS
from bertjax.tasks import question_tables
from bertjax.tasks.base import Recipe, Task
from bertjax.tasks.columns import needs_label
from bertjax.tasks.files import one_each
from bertjax.tasks.own_tables import OwnTables
from bertjax.tasks.question_tables import Question
from bertjax.tasks.spans import Spans
from bertjax.tasks.windows import Example, nearest

_OFFICIAL_NAME = re.compile(r"(train|dev)-v[0-9.]+\.json")
_ANSWERS = 'a list of {"text": ..., "answer_start": ...}'


def _member(fields: Any, name: str, kind: type, where: str) -> Any:
    """A member of an object of JSON; raises UserError if it is not there or of another kind."""
    value = fields.get(name) if isinstance(fields, Mapping) else None
    if not isinstance(value, kind):
        what = "a text" if kind is str else "a list"
        raise UserError(f'{where}: no "{name}" ({what}); is this a file of questions as SQuAD\'s?')
    return value


def _answers(answers: Any, where: str) -> tuple[tuple[str, int], ...]:
    """Texts and their first characters, of a list of objects or of an object of two lists."""
    try:
        if isinstance(answers, Mapping):
            pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in answers]
    except (KeyError, TypeError, ValueError):
        raise UserError(f'{where}: "answers" must be {_ANSWERS}') from None
    for text, start in pairs:
        if not isinstance(text, str) or not text or not isinstance(start, Integral):
            raise UserError(
                f'{where}: an answer needs a "text" that is not empty and the number of its first '
                'character as "answer_start"; where there is no answer, "answers" is []'
            )
    return tuple((text, int(start)) for text, start in pairs)


def _gold(
    fields: Mapping[str, Any], unanswerable: bool, where: str
) -> tuple[tuple[str, int], ...] | None:
    """() if there is no answer, None if it is to be predicted.

    Without answers "is_impossible" decides. Where that is absent, an empty list means that there
    is no answer, but for a task that knows no such questions.
    """
    if fields.get("is_impossible"):
        return ()
    given = fields.get("answers")
    answers = () if given is None else _answers(given, where)
    unknown = given is None or not unanswerable or "is_impossible" in fields
    return answers or (None if unknown else ())


def _example(fields: Mapping[str, Any], unanswerable: bool, where: str, name: str) -> Example:
    return Example(
        id=name,
        question=_member(fields, "question", str, where),
        context=_member(fields, "context", str, where),
        gold=_gold(fields, unanswerable, where),
        where=where,
    )


def _questions_of_json(path: Path) -> Iterator[Question]:
    for i, article in enumerate(_member(read_json(path), "data", list, str(path))):
        place = f"{path}: data[{i}]"
        for j, paragraph in enumerate(_member(article, "paragraphs", list, place)):
            inner = f"{place}.paragraphs[{j}]"
            context = _member(paragraph, "context", str, inner)
            for k, question in enumerate(_member(paragraph, "qas", list, inner)):
                where = f"{inner}.qas[{k}]"
                name = _member(question, "id", str, where)
                if not name:
                    raise UserError(f"{where}: the id is empty; answers are told apart by it")
                yield Question({**question, "context": context}, where, name)


def _check_gold(examples: Sequence[Example]) -> None:
    for example in examples:
        if example.gold is None:
            raise UserError(
                f"{example.where}: no answers; only test files may lack them (to squad2 and span, "
                '"answers": [] says that there is none)'
            )


def _is_in_context(example: Example) -> bool:
    """Whether the answer that is trained on can be, as far as there is one."""
    return not example.gold or nearest(example.context, *example.gold[0]) is not None


@dataclasses.dataclass(frozen=True)
class Squad(OwnTables):
    """Files of questions.

    Attributes:
      unanswerable: some may have no answer.
      official: split -> name that is taken before others.
      suffixes: of the other files; their names begin with the split's.
    """

    unanswerable: bool
    source: str
    official: Mapping[str, str] = dataclasses.field(default_factory=dict)
    suffixes: tuple[str, ...] = (".json",)
    tfds_splits: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"train": "train", "dev": "validation"}
    )

    def find(self, folder: Path, given: Collection[str] = ()) -> dict[str, Path]:
        """Raises UserError: several files could be a split."""
        candidates = {}
        for split in ("train", "dev", "test"):
            named = [p for s in self.suffixes for p in sorted(folder.glob(f"{split}*{s}"))]
            paths = [path for path in named if path.is_file()]
            official = [path for path in paths if path.name == self.official.get(split)]
            if self.official:
                # Those of another version are no files of this task.
                paths = [path for path in paths if not _OFFICIAL_NAME.fullmatch(path.name)]
            candidates[split] = official or paths
        return one_each(folder, candidates, given)

    def read(self, path: Path, split: str) -> list[Example]:
        """Raises UserError: a file of another shape, or no answers in train or dev."""
        examples = [
            _example(fields, self.unanswerable, where, name)
            for fields, where, name in self._questions(path, split)
        ]
        if needs_label(split):
            _check_gold(examples)
        return self.usable(examples, split, str(path))

    def is_table(self, path: Path) -> bool:
        """All but SQuAD's own JSON."""
        return path.suffix in EXTENSIONS

    def _questions(self, path: Path, split: str) -> Iterator[Question]:
        if self.is_table(path):
            return map(question_tables.read, self.rows(path, split))
        return _questions_of_json(path)

    def from_tfds(self, record: Mapping[str, Any], names: Mapping[str, Any], where: str) -> Example:
        return _example(record, self.unanswerable, where, str(record["id"]))

    def usable(self, examples: list[Example], split: str, source: str) -> list[Example]:
        """Questions with answers that their contexts do not hold are left out of train, aloud."""
        lost = [e for e in examples if split == "train" and not _is_in_context(e)]
        if lost:
            print(
                f"{source}: left out {len(lost):,} of {len(examples):,} questions, their answers "
                f"are not in the context; the first is {lost[0].where}"
            )
        left_out = {example.where for example in lost}
        return [example for example in examples if example.where not in left_out]


def _task(name: str, reader: Squad, recipe: Recipe, paper: Mapping[str, str] | None = None) -> Task:
    return Task(
        name=name,
        reader=reader,
        family=Spans(reader.unanswerable),
        primary="f1",
        perfect=100.0,
        labels=(),
        recipe=recipe,
        paper=paper or {},
    )


def _official(version: str, unanswerable: bool) -> Squad:
    files = {split: f"{split}-v{version}.json" for split in ("train", "dev")}
    return Squad(
        tfds=f"squad/v{version}",
        unanswerable=unanswerable,
        source=f"https://rajpurkar.github.io/SQuAD-explorer: {files['train']} and {files['dev']}",
        official=files,
    )


SQUAD = {
    task.name: task
    for task in (
        _task(
            "squad",
            _official("1.1", unanswerable=False),
            Recipe(batch_size=32, learning_rate=5e-5, epochs=3, max_seq_length=384),
            {"BERT-base": "80.8 EM, 88.5 F1 (dev)", "BERT-large": "84.1 EM, 90.9 F1 (dev)"},
        ),
        _task(
            "squad2",
            _official("2.0", unanswerable=True),
            Recipe(batch_size=48, learning_rate=5e-5, epochs=2, max_seq_length=384),
            {"BERT-large": "78.7 EM, 81.9 F1 (dev)"},
        ),
        # Your own files: train and dev, and test if you like, each as .json or a table.
        _task(
            "span",
            Squad(
                unanswerable=True,
                source=(
                    "your own train and dev and, if you like, test: .csv or .tsv with columns "
                    "question, context, answer (empty: there is none) and, if you like, "
                    f'answer_start and id; .jsonl with such or "answers", {_ANSWERS}; or .json '
                    "files as SQuAD's"
                ),
                suffixes=(".json", *EXTENSIONS),
                own_columns=question_tables.COLUMNS,
                own_labels=question_tables.LABELS,
            ),
            Recipe(batch_size=32, learning_rate=5e-5, epochs=3, max_seq_length=384),
        ),
    )
}
