"""Where the examples of a task come from: given files, a folder, or tensorflow-datasets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np

from bertjax import data_sets
from bertjax.errors import UserError
from bertjax.tasks.base import Task, TfdsReader
from bertjax.tasks.own_tables import OwnTables

# Of a training; what is to be predicted has its own flag.
_OTHERS = " (others: --data_dir, --train, --dev, --test)"
Examples = dict[str, list[Any]]


def load(
    task: Task,
    files: Mapping[str, Path] | None = None,
    data_dir: Path | None = None,
    need: Collection[str] = ("train", "dev"),
) -> Examples:
    """{split: examples}, "train" and "dev" first; says in one line what was taken.

    1. `files`, {split: path}; 2. what `data_dir` holds; 3. where neither is given, tensorflow-
    datasets: its cache ($TFDS_DATA_DIR, else ~/tensorflow_datasets), else its download.

    Args:
      need: splits that must be there; none where nothing is trained.

    Raises:
      UserError: nothing for a split in `need`, a split without examples, an id that occurs twice,
        what the task's reader refuses, --columns without a table to read, and without network or
        cache where to get the files.
    """
    others = _OTHERS if need else ""
    if not files and not data_dir:
        return _from_tfds(task, others)
    paths = _find(task, files or {}, data_dir, need)
    # Of --extra_train, which is read alone, the files beside it may be the tables.
    if isinstance(task.reader, OwnTables) and paths.keys() != {"train"}:
        task.reader.check_columns(paths.values())
    given = ", ".join(f"{split} {path}" for split, path in paths.items())
    print(f"{task.name}: {given}{others}")
    examples = {split: task.reader.read(path, split) for split, path in paths.items()}
    for split, found in examples.items():
        _check(found, str(paths[split]))
    return examples


def drawn(examples: Sequence[Any], number: int, in_documents: bool = False) -> list[Any]:
    """Some of the examples, always the same ones, in their order.

    Args:
      in_documents: those of some documents, so that neighbours stay neighbours.

    Raises:
      UserError: not even one is asked for.
    """
    if number < 1:
        raise UserError(f"--train_examples={number}: give at least 1")
    texts = [[example] for example in examples]
    if in_documents:
        texts = [list(same) for _, same in groupby(examples, lambda example: example.document)]
    order = np.random.default_rng(0).permutation(len(texts))
    ends = np.cumsum([len(texts[i]) for i in order])
    chosen = np.sort(order[: np.searchsorted(ends, number) + 1])
    return list(chain.from_iterable(texts[i] for i in chosen.tolist()))[:number]


def _find(
    task: Task, files: Mapping[str, Path], data_dir: Path | None, need: Collection[str]
) -> dict[str, Path]:
    source = task.reader.source
    if data_dir and not data_dir.is_dir():
        raise UserError(f"--data_dir={data_dir}: no such folder; what it must hold: {source}")
    paths = {**(task.reader.find(data_dir, files) if data_dir else {}), **files}
    if not paths:
        raise UserError(
            f"--data_dir={data_dir}: no file of {task.name} in it; what it must hold: {source}"
        )
    for split in need:
        if split not in paths:
            raise UserError(
                f"{data_dir or task.name}: no {split} file; give --{split}=FILE, or "
                f"--data_dir=FOLDER ({source})"
            )
    first = [split for split in ("train", "dev") if split in paths]
    return {split: paths[split] for split in (*first, *paths)}


def _check(examples: Sequence[Any], source: str) -> None:
    """Raises UserError: no examples, or two with the same id."""
    if not examples:
        raise UserError(f"{source}: no examples")
    seen: dict[str, str] = {}
    for example in examples:
        name = getattr(example, "id", "")
        if name and seen.setdefault(name, example.where) != example.where:
            raise UserError(f"{example.where}: the id {name} is there before, in {seen[name]}")


# --- tensorflow-datasets --------------------------------------------------------------------


def _from_tfds(task: Task, others: str) -> Examples:
    reader = task.reader
    if not isinstance(reader, TfdsReader) or reader.tfds is None:
        raise UserError(
            f"--task={task.name}: no data; give --train=FILE and --dev=FILE, or --data_dir=FOLDER "
            f"({reader.source})"
        )
    try:
        builder = data_sets.find(reader.tfds)
    except data_sets.Unavailable as error:
        raise UserError(
            f"{task.name}: no data: tensorflow-datasets cannot open {reader.tfds} ({error}); mend "
            f"or remove its folder, or give the official files ({reader.source}): --data_dir=FOLDER"
        ) from error
    try:
        examples = _read_tfds(reader, builder)
    except data_sets.Unavailable as error:
        raise UserError(
            f"{task.name}: no data: --data_dir is not given, and tensorflow-datasets has no "
            f"{reader.tfds} in {builder.data_path} and could not fetch it ({error}); get the "
            f"official files ({reader.source}) and give their folder: --data_dir=FOLDER"
        ) from error
    print(f"{task.name}: {reader.tfds} of tensorflow-datasets, {builder.data_path}{others}")
    return examples


def _read_tfds(reader: TfdsReader, builder: Any) -> Examples:
    examples: Examples = {}
    for split, theirs in reader.tfds_splits.items():
        other, _, name = theirs.rpartition(":")
        try:
            source = data_sets.find(other) if other else builder
            where = f"{other or reader.tfds} {name}"
            found = reader.usable(_read_split(reader, source, name, where), split, where)
        except data_sets.Unavailable as error:
            if not other:
                raise
            print(f"without {split}: tensorflow-datasets has no {other} here ({error})")
            continue
        examples[split] = found
    return examples


def _read_split(reader: TfdsReader, builder: Any, split: str, where: str) -> list[Any]:
    # Of a list of classes, each element has the names.
    features = {name: getattr(f, "feature", f) for name, f in builder.info.features.items()}
    names = {name: f.names for name, f in features.items() if hasattr(f, "names")}
    records = [_decoded(record) for record in data_sets.examples(builder, split)]
    # It shuffles as it writes; in GLUE's, idx is the place in the official file.
    records.sort(key=lambda record: record.get("idx", 0))
    examples = [
        reader.from_tfds(record, names, f"{where}:{number}")
        for number, record in enumerate(records)
    ]
    _check(examples, where)
    return examples


def _decoded(value: Any) -> Any:
    """Byte strings as text, at any depth."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {name: _decoded(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return np.array([_decoded(inner) for inner in value], object)
    return value
