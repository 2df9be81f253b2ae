"""Where the examples of a task come from: given files, a folder, or tensorflow-datasets."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks.base import Reader, Task

# How long to wait for an answer, in seconds; tensorflow-datasets itself tries for minutes.
_PATIENCE = 5
_OTHERS = "(others: --data_dir, --train, --dev, --test)"
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

    Raises:
      UserError: nothing for a split in `need`, a split without examples, an id that occurs twice,
        what the task's reader refuses, and without network or cache where to get the files.
    """
    if not files and not data_dir:
        return _from_tfds(task)
    paths = _find(task, files or {}, data_dir, need)
    given = ", ".join(f"{split} {path}" for split, path in paths.items())
    print(f"{task.name}: {given} {_OTHERS}")
    examples = {split: task.reader.read(path, split) for split, path in paths.items()}
    for split, found in examples.items():
        _check(found, str(paths[split]))
    return examples


def _find(
    task: Task, files: Mapping[str, Path], data_dir: Path | None, need: Collection[str]
) -> dict[str, Path]:
    source = task.reader.source
    if data_dir and not data_dir.is_dir():
        raise UserError(f"--data_dir={data_dir}: no such folder; what it must hold: {source}")
    paths = {**(task.reader.find(data_dir) if data_dir else {}), **files}
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


def _from_tfds(task: Task) -> Examples:
    reader = task.reader
    if reader.tfds is None:
        raise UserError(
            f"--task={task.name}: no data; give --train=FILE and --dev=FILE, or --data_dir=FOLDER "
            f"({reader.source})"
        )
    # What it would say while it is imported and looks for files helps nobody.
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    import tensorflow_datasets as tfds

    builder = tfds.builder(reader.tfds, try_gcs=False)
    try:
        examples = _read_tfds(reader, builder)
    except AssertionError:  # It is not in the cache.
        _download(task, builder)
        examples = _read_tfds(reader, builder)
    print(f"{task.name}: {reader.tfds} of tensorflow-datasets, {builder.data_path} {_OTHERS}")
    return examples


def _read_tfds(reader: Reader, builder: Any) -> Examples:
    """Raises AssertionError: the data set is not prepared."""
    # Of a list of classes, each element has the names.
    features = {name: getattr(f, "feature", f) for name, f in builder.info.features.items()}
    names = {name: f.names for name, f in features.items() if hasattr(f, "names")}
    examples: Examples = {}
    for split, theirs in reader.tfds_splits.items():
        dataset = builder.as_dataset(split=theirs)
        records = [_decoded(record) for record in dataset.as_numpy_iterator()]
        # It shuffles as it writes; in GLUE's, idx is the place in the official file.
        records.sort(key=lambda record: record.get("idx", 0))
        examples[split] = [
            reader.from_tfds(record, names, f"{reader.tfds} {theirs}:{number}")
            for number, record in enumerate(records)
        ]
        _check(examples[split], f"{reader.tfds} {theirs}")
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


def _download(task: Task, builder: Any) -> None:
    """Raises UserError: tensorflow-datasets could not do it, for whatever reason."""
    try:
        _check_reachable(builder.url_infos)
        builder.download_and_prepare()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{task.name}: no data: --data_dir is not given, and tensorflow-datasets has no "
            f"{task.reader.tfds} in {builder.data_path} and could not fetch it ({reason}); get the "
            f"official files ({task.reader.source}) and give their folder: --data_dir=FOLDER"
        ) from error


def _check_reachable(urls: Collection[str]) -> None:
    """Raises OSError: the host that most of the files come from does not answer in time.

    Anything below 500 is an answer: what it thinks of single files the download finds out.
    """
    ((host, _),) = Counter(urlsplit(url).netloc for url in urls).most_common(1)
    url = next(url for url in urls if urlsplit(url).netloc == host)
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE)
    except OSError as error:
        if not isinstance(error, urllib.error.HTTPError) or error.code >= 500:
            raise OSError(f"{host} does not answer, {error}") from error
