"""GLUE's tasks, and others added in its format, from files or tensorflow-datasets (paper, 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.files.tables import TableRow, iterate_table, read_table
from bertjax.scores import metrics
from bertjax.tasks.base import Family, Task
from bertjax.tasks.columns import Columns, needs_label
from bertjax.tasks.sentences import Classification, Example, Regression

_SITE = "https://gluebenchmark.com/tasks"
# split -> names of its file, of which the first that is there is taken.
Files = Mapping[str, Sequence[str]]
_FILES: Files = {split: (f"{split}.tsv",) for split in ("train", "dev", "test")}
_TFDS = {"train": "train", "dev": "validation", "test": "test"}
# The original release of MRPC; GLUE's dev is a part of its train.
_MSR_TRAIN, _MSR_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
_MSR_FILES = {
    "train": ("train.tsv", _MSR_TRAIN),
    "dev": ("dev.tsv", _MSR_TRAIN),
    "test": ("test.tsv", _MSR_TEST),
}
_MSR_DEV_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")
# The full ones, with labels, before those for the site, of which the last is the site's own name.
_DIAGNOSTIC = ("diagnostic-full.tsv", "diagnostic.tsv", "AX.tsv")
_MNLI_FILES = {
    "train": ("train.tsv",),
    "dev": ("dev_matched.tsv",),
    "dev_mismatched": ("dev_mismatched.tsv",),
    "test": ("test_matched.tsv",),
    "test_mismatched": ("test_mismatched.tsv",),
    "ax": tuple(
        f"{place}{name}" for name in _DIAGNOSTIC for place in ("", "../AX/", "../diagnostic/")
    ),
}
_MNLI_TFDS = {
    "train": "train",
    "dev": "validation_matched",
    "dev_mismatched": "validation_mismatched",
    "test": "test_matched",
    "test_mismatched": "test_mismatched",
    "ax": "glue/ax:test",
}
_MNLI_SUBMISSION = {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv", "ax": "AX.tsv"}


@dataclasses.dataclass
class GlueReader:
    """A task's folder; files' own names of columns come before those of tensorflow-datasets.

    Attributes:
      columns: of its files and of its records in tensorflow-datasets.
      labels: in the order of the classes there.
      tfds, tfds_splits: see base.Reader and base.TfdsReader.
      folders: its official name and ours, below the folder that holds all of GLUE.
      header: columns of files without a header line.
      skips_broken: rows with a wrong number of columns are left out, but for tests'.
      site: where the files are had, for messages; "" if nobody offers them.
    """

    columns: Columns
    labels: Sequence[str] = ()
    tfds: str | None = None
    tfds_splits: Mapping[str, str] = dataclasses.field(default_factory=lambda: _TFDS)
    files: Files = dataclasses.field(default_factory=lambda: _FILES)
    folders: Sequence[str] = ()
    header: Sequence[str] = ()
    skips_broken: bool = False
    site: str = ""

    @property
    def source(self) -> str:
        """See base.Reader."""
        names = ", ".join(names[0] for split, names in self.files.items() if split != "ax")
        place = f"{self.site}: " if self.site else ""
        diagnostic = f"; for AX, {' or '.join(_DIAGNOSTIC)} there or in AX beside it"
        return f"{place}a folder {self.folders[0]} with {names}" + diagnostic * ("ax" in self.files)

    def find(self, folder: Path, given: Collection[str] = ()) -> dict[str, Path]:
        """Of the folder itself, or of the task's folder in it."""
        places = [folder, *(folder / name for name in self.folders)]
        found = max(map(self._files_in, places), key=len)
        return {split: path for split, path in found.items() if split not in given}

    def _files_in(self, folder: Path) -> dict[str, Path]:
        found = {
            split: [folder / name for name in names if (folder / name).is_file()]
            for split, names in self.files.items()
        }
        return {split: paths[0] for split, paths in found.items() if paths}

    def read(self, path: Path, split: str) -> list[Example]:
        """Raises UserError: as tables.read_table and Columns.example do."""
        needed = needs_label(split)
        skipped: list[str] | None = [] if self.skips_broken and needed else None
        # Microsoft's own MRPC has the same columns under another extension.
        extension = ".tsv" if path.suffix == ".txt" else ""
        rows = iterate_table(path, extension=extension, names=self.header, skipped=skipped)
        # What is predicted is all of it.
        if path.name == _MSR_TRAIN and needed:
            rows = _msr_part(path, rows, split)
        examples = [self.columns.example(row, needed) for row in rows]
        if skipped:
            print(f"{path}: {len(skipped):,} broken rows left out, the first is {skipped[0]}")
        return examples

    def from_tfds(self, record: Mapping[str, Any], names: Mapping[str, Any], where: str) -> Example:
        """There a label is the number of a class; -1 stands for none."""
        text_a, text_b = self.columns.find_texts(TableRow(dict(record), where))
        label = record["label"]
        if label == -1:
            return Example(text_a, text_b, None, where)
        gold = float(label) if self.columns.is_number else self.labels[int(label)]
        return Example(text_a, text_b, gold, where)

    def usable(self, examples: list[Example], split: str, source: str) -> list[Example]:
        """All."""
        return examples


def _msr_part(path: Path, rows: Iterator[TableRow], split: str) -> Iterator[TableRow]:
    """Train or dev; without GLUE's list of the pairs in dev, every tenth is. Says how many."""
    lists = [path.with_name(name) for name in _MSR_DEV_IDS if path.with_name(name).is_file()]
    names = ("#1 ID", "#2 ID")
    chosen = {tuple(row.values.values()) for p in lists[:1] for row in read_table(p, names=names)}
    total = taken = 0
    for total, row in enumerate(rows, start=1):
        ids = tuple(row.column(name) for name in names)
        in_dev = ids in chosen if lists else total % 10 == 0
        if in_dev == (split == "dev"):
            taken += 1
            yield row
    why = f"no {_MSR_DEV_IDS[0]} beside it, so every tenth pair is held out as dev"
    if lists:
        why = f"{lists[0].name} beside it names those of dev"
    print(f"{path}: {taken:,} of {total:,} pairs are {split}; {why}")


_BINARY, _ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")
_SENTENCE, _PAIR = Columns((("sentence",),)), Columns((("sentence1", "sentence2"),))
_ACCURACY = Classification(metrics.accuracy)


def _task(
    name: str,
    folder: str,
    columns: Columns,
    family: Family = _ACCURACY,
    primary: str = "accuracy",
    labels: tuple[str, ...] = _BINARY,
    paper: str = "",
    submission: Mapping[str, str] | None = None,
    **quirks: Any,
) -> Task:
    """A task in GLUE's format.

    Args:
      folder: of its files, below the folder that holds all of GLUE.
      labels: in the order of tensorflow-datasets, if it has the task.
      paper: BERT-base on test (table 1).
      submission: see base.Task; None: the GLUE site takes no answers.
      quirks: attributes of GlueReader, such as tfds.
    """
    return Task(
        name=name,
        reader=GlueReader(
            dataclasses.replace(columns, ids=("index", "id")),
            labels=labels,
            folders=(folder, name),
            **quirks,
        ),
        family=family,
        primary=primary,
        labels=labels,
        submission=submission or {},
        paper={"BERT-base": f"{paper} (test)"} if paper else {},
    )


def _of_the_site(name: str, folder: str, columns: Columns, **more: Any) -> Task:
    """One of the nine: tensorflow-datasets has it, and the site takes its answers."""
    usual = {"tfds": f"glue/{name}", "site": _SITE, "submission": {"test": f"{folder}.tsv"}}
    return _task(name, folder, columns, **usual | more)


GLUE = {
    task.name: task
    for task in (
        _of_the_site(
            "cola",
            "CoLA",
            _SENTENCE,
            family=Classification(metrics.matthews),
            primary="matthews",
            paper="52.1",
            header=("source", "label", "star", "sentence"),
        ),
        _of_the_site("sst2", "SST-2", _SENTENCE, paper="93.5"),
        _of_the_site(
            "mrpc",
            "MRPC",
            Columns((("#1 String", "#2 String"), *_PAIR.texts), labels=("Quality",)),
            family=Classification(metrics.accuracy_and_positive_f1),
            primary="f1",
            paper="88.9",
            files=_MSR_FILES,
        ),
        _of_the_site(
            "stsb",
            "STS-B",
            Columns(_PAIR.texts, labels=("score",), is_number=True),
            family=Regression(),
            primary="spearman",
            labels=(),
            paper="85.8",
        ),
        _of_the_site(
            "qqp",
            "QQP",
            Columns((("question1", "question2"),), labels=("is_duplicate",)),
            family=Classification(metrics.accuracy_and_positive_f1),
            primary="f1",
            paper="71.2",
            # Questions with tabs or line breaks, which GLUE's files cannot hold.
            skips_broken=True,
        ),
        _of_the_site(
            "mnli",
            "MNLI",
            Columns(
                (*_PAIR.texts, ("Premise", "Hypothesis"), ("premise", "hypothesis")),
                labels=("gold_label", "Label"),
            ),
            # Matthews' correlation over three labels is the score of the diagnostic examples.
            family=Classification(metrics.matthews),
            labels=("entailment", "neutral", "contradiction"),
            paper="84.6/83.4",
            files=_MNLI_FILES,
            tfds_splits=_MNLI_TFDS,
            submission=_MNLI_SUBMISSION,
        ),
        _of_the_site(
            "qnli",
            "QNLI",
            Columns((("question", "sentence"),)),
            labels=_ENTAILMENT,
            paper="90.5",
        ),
        _of_the_site("rte", "RTE", _PAIR, labels=_ENTAILMENT, paper="66.4"),
        _of_the_site("wnli", "WNLI", _PAIR),
    )
}
