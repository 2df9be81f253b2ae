"""Words and their tags: columns as in CoNLL's shared tasks, or tables; the tasks of such."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files.tables import numbered_lines
from bertjax.tasks import tagged_tables
from bertjax.tasks.base import Recipe, Task
from bertjax.tasks.columns import needs_label
from bertjax.tasks.files import one_each
from bertjax.tasks.own_tables import OwnTables
from bertjax.tasks.tagging import Example, Tagging

_DOCUMENT = "-DOCSTART-"
# Not all white space is blank: a no-break space may be a word.
_BLANK = " \t\r"
# Files that have no lines with a word and its tag, though their names may be given.
_FOREIGN = (".json", ".xml", ".parquet", ".xlsx", ".gz", ".bz2", ".xz", ".zst", ".zip")


def to_bio2(tags: Sequence[str]) -> list[str]:
    """Every entity begins with B-; which entities there are, to conlleval, stays the same.

    CoNLL-2003's own files are in IOB1, where B- only parts entities of one type that touch.
    """
    return [
        f"B-{tag[2:]}" if tag.startswith("I-") and before[2:] != tag[2:] else tag
        for before, tag in zip(["O", *tags], tags, strict=False)
    ]


# --- Columns --------------------------------------------------------------------------------


def _check_columns(path: Path, numbered: Sequence[tuple[int, list[str]]], number: int) -> None:
    """Raises UserError: a line with another number of columns, or without a tag."""
    for line, fields in numbered:
        if len(fields) != number:
            raise UserError(
                f"{path}:{line}: {len(fields)} columns, the first line has {number}; columns are "
                "set apart by tabs or, where no line has one, by spaces"
            )
        if number > 1 and not fields[-1]:
            raise UserError(f"{path}:{line}: the tag, in the last column, is missing")


def read_columns(path: Path) -> Iterator[Example]:
    """Sentences of a file with a word and its columns a line, blank lines between sentences.

    The first column is the word, the last one the tag; a single column is words to be tagged.
    Lines that begin with -DOCSTART- begin documents; a file without them tells of none. No line is
    a comment: "#" is a word.
    """
    lines = [line.removesuffix("\n") for _, line in numbered_lines(path)]
    in_documents = any(line.startswith(_DOCUMENT) for line in lines)
    tabs = any("\t" in line for line in lines if line.strip(_BLANK))
    separator = re.compile(" *\t *" if tabs else " +")
    document = number = 0
    for is_sentence, group in groupby(
        enumerate(lines, start=1),
        lambda item: bool(item[1].strip(_BLANK)) and not item[1].startswith(_DOCUMENT),
    ):
        numbered = [(line, separator.split(text.strip(" \r"))) for line, text in group]
        if not is_sentence:
            document += any(fields[0].startswith(_DOCUMENT) for _, fields in numbered)
            continue
        number = number or len(numbered[0][1])
        _check_columns(path, numbered, number)
        yield Example(
            words=[fields[0] for _, fields in numbered],
            gold=[fields[-1] for _, fields in numbered] if number > 1 else None,
            document=document if in_documents else None,
            where=f"{path}:{numbered[0][0]}",
        )


# --- Readers --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tagged(OwnTables):
    """Files of tagged sentences.

    Attributes:
      names: split -> pattern of the whole name of its file, in small letters.
      bio2: tags are turned into BIO2.
    """

    source: str
    names: Mapping[str, str]
    bio2: bool = False
    tfds_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def find(self, folder: Path, given: Collection[str] = ()) -> dict[str, Path]:
        """Raises UserError: several files could be a split."""
        held = sorted(path for path in folder.glob("*") if path.is_file())
        candidates = {
            split: [path for path in held if re.fullmatch(pattern, path.name.lower())]
            for split, pattern in self.names.items()
        }
        return one_each(folder, candidates, given)

    def read(self, path: Path, split: str) -> list[Example]:
        """Raises UserError: no sentences, or tags are missing in train, in dev or in a part."""
        examples = [self._normal(example) for example in self._sentences(path, split)]
        if not any(example.words for example in examples):
            raise UserError(f"{path}: no sentences; give a word and its tag a line")
        untagged = [example for example in examples if example.gold is None]
        if untagged and (needs_label(split) or len(untagged) < len(examples)):
            raise UserError(
                f"{untagged[0].where}: no tags; train and dev need them, of other files either all "
                "sentences or none"
            )
        return examples

    def _sentences(self, path: Path, split: str) -> Iterator[Example]:
        if self.is_table(path):
            return tagged_tables.read(self.rows(path, split), is_json=path.suffix == ".jsonl")
        if path.suffix in _FOREIGN:
            raise UserError(f"{path}: {path.suffix} files are not read; give {self.source}")
        return read_columns(path)

    def is_table(self, path: Path) -> bool:
        """A .tsv that --columns is given for is one; others may have a word and its tag a line."""
        if self.yours and not self.kept and path.suffix == ".tsv":
            return True
        return tagged_tables.is_table(path, self.yours)

    def from_tfds(self, record: Mapping[str, Any], names: Mapping[str, Any], where: str) -> Example:
        """The library shuffles sentences as it writes them, so every one stands alone."""
        words = [str(word) for word in record["tokens"]]
        gold = [names["ner"][int(tag)] for tag in record["ner"]]
        return self._normal(Example(words, gold, where, where))

    def usable(self, examples: list[Example], split: str, source: str) -> list[Example]:
        """All."""
        return examples

    def _normal(self, example: Example) -> Example:
        if example.gold is None or not self.bio2:
            return example
        return example._replace(gold=to_bio2(example.gold))


def _names(extensions: str, **splits: str) -> dict[str, str]:
    return {split: f"(?:{stems})(?:{extensions})" for split, stems in splits.items()}


CONLL = {
    "conll": Task(
        name="conll",
        reader=Tagged(
            source=(
                "https://www.clips.uantwerpen.be/conll2003/ner: eng.train, eng.testa and "
                "eng.testb, made with the Reuters corpus; or train.txt, valid.txt and test.txt"
            ),
            names=_names(
                r"|\.(?:txt|conll)",
                train=r"(?:[a-z]{3}\.)?train",
                dev=r"(?:[a-z]{3}\.)?(?:testa|valid|validation|dev)",
                test=r"(?:[a-z]{3}\.)?(?:testb|test)",
            ),
            # tensorflow-datasets has BIO2: a run on either is at home with the other's files.
            bio2=True,
            tfds="conll2003",
            tfds_splits={"train": "train", "dev": "dev", "test": "test"},
        ),
        family=Tagging(),
        primary="f1",
        labels=("O", *(f"{p}-{type_}" for p in "BI" for type_ in ("LOC", "MISC", "ORG", "PER"))),
        # The highest rate and the most epochs of the paper's grid: there are fewer windows over
        # documents than sentences, so an epoch has few steps.
        recipe=Recipe(batch_size=32, learning_rate=5e-5, epochs=4, max_seq_length=128),
        options={"document_context": True},
        paper={
            "BERT-base": "96.4 (dev), 92.4 (test) F1",
            "BERT-large": "96.6 (dev), 92.8 (test) F1",
        },
    ),
    # Your own files: train and dev, and test if you like.
    "tag": Task(
        name="tag",
        reader=Tagged(
            source=(
                "your own train, dev and, if you like, test: .conll, .txt or .tsv with a word and "
                'its tag a line, .jsonl with {"tokens": [...], "tags": [...]}, or .csv or .tsv '
                "with columns tokens and tags, each with spaces between; id, too, if you like"
            ),
            names=_names(r"\.(?:conll|txt|tsv|csv|jsonl)", train="train", dev="dev", test="test"),
            own_columns=tagged_tables.COLUMNS,
            own_labels=("tags",),
        ),
        family=Tagging(),
        primary="f1",
        recipe=Recipe(batch_size=32, learning_rate=5e-5, epochs=4, max_seq_length=128),
    ),
}
