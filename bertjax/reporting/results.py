"""Reads what finished runs left behind: logs, scores, predictions, the facts of their records."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.data import manifest as manifests
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.tables import CSV_FIELD_LIMIT
from bertjax.runs import run_folder
from bertjax.training import run_log

Row = dict[str, Any]


class Pretraining(NamedTuple):
    """A pretraining run: its folder, resolved config, log lines and the manifest of its records."""

    run: Path
    config: Row
    metrics: list[Row]
    manifest: manifests.Manifest


class Finetuning(NamedTuple):
    """A finished fine-tuning: its folder, log lines, final metrics and predictions on dev.

    Attributes:
      name: what it is called beside the others: its start, and if need be its folder.
    """

    run: Path
    metrics: list[Row]
    result: Row
    predictions: list[dict[str, str]]
    name: str

    @property
    def start(self) -> str:
        return "random weights" if self.result["init"] == "scratch" else "pretrained weights"


def last(metrics: list[Row], name: str) -> float | None:
    """What the last log line that has this metric says of it."""
    return next((line[name] for line in reversed(metrics) if name in line), None)


def tells_pairs(run: Pretraining) -> bool:
    """Whether it was trained to tell which passages belong together."""
    return last(run.metrics, "next_sentence_accuracy") is not None


def _log_lines(run: Path) -> list[Row]:
    lines: list[Row] = [*run_log.read_metrics(run)]
    if not lines:
        raise UserError(f"{run}: no {run_log.METRICS}; run the training first")
    return lines


def read_pretraining(run: Path) -> Pretraining:
    """Raises UserError: not a pretraining run, nothing logged yet, or its records are gone."""
    config = run_folder.load_config(run)
    if config.get("kind") != "pretrain":
        raise UserError(f"{run}: not a pretraining run; give --pretrain a run of bertjax.pretrain")
    lines = _log_lines(run)
    if not any("masked_lm_loss" in line for line in lines):
        raise UserError(
            f"{run}: was not pretrained on masked words, which is what this report tells of; its "
            "curves are in TensorBoard's events and in metrics.jsonl"
        )
    manifest = manifests.load(storage.path(config["settings"]["data"]["records"]))
    return Pretraining(run, config, lines, manifest)


def _read(path: Path, mend: str) -> str:
    if not path.is_file():
        raise UserError(f"{path}: not found; {mend}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; {mend}") from None


def _table(path: Path, mend: str) -> list[dict[str, str]]:
    # Lines end where the csv module says so: texts may hold any of Unicode's line separators.
    content = io.StringIO(_read(path, mend), newline="")
    csv.field_size_limit(CSV_FIELD_LIMIT)
    return list(csv.DictReader(content, delimiter="\t"))


def read_json(path: Path, mend: str) -> Any:
    try:
        return json.loads(_read(path, mend))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {mend}") from error


def read_finetunings(folders: Sequence[Path]) -> list[Finetuning]:
    """Runs of one task, of a sweep its best one.

    Raises:
      UserError: a run is not finished, its task is not one of texts, or not that of the first.
    """
    runs = [_read_finetuning(folder) for folder in folders]
    for run in runs:
        task, first = run.result["task"], runs[0].result["task"]
        if task != first:
            raise UserError(
                f"{run.run}: a run of --task={task}, but {runs[0].run} is of --task={first}; give "
                "--finetune runs of one task"
            )
    return _told_apart(runs, folders)


def _told_apart(runs: list[Finetuning], folders: Sequence[Path]) -> list[Finetuning]:
    """Starts that several runs have are named with the folders, by all of a path if need be."""
    starts = Counter(run.start for run in runs)
    short = Counter((run.start, folder.name) for run, folder in zip(runs, folders, strict=True))
    named = []
    for run, folder in zip(runs, folders, strict=True):
        unique = short[run.start, folder.name] == 1
        added = f" ({folder.name if unique else folder})" if starts[run.start] > 1 else ""
        named.append(run._replace(name=run.start + added))
    return named


def _read_finetuning(folder: Path) -> Finetuning:
    run = run_folder.best_of_sweep(folder)
    mend = "run bertjax.finetune to its end first"
    result = read_json(run / run_folder.SCORES, mend)
    if not (run / "predictions-dev.tsv").is_file():
        raise UserError(f"{run}: has no predictions-dev.tsv; this report is for tasks of texts")
    predictions = _table(run / "predictions-dev.tsv", mend)
    return Finetuning(run, _log_lines(run), result, predictions, name="")


def read_answers(run: Path, split: str) -> list[str]:
    """The predictions column of a split's table."""
    mend = f"predict {split} again: --mode=predict --workdir={run} --output=DIR --data_dir=..."
    return [row["prediction"] for row in _table(run / f"predictions-{split}.tsv", mend)]


def read_times(path: Path) -> list[tuple[str, float]]:
    """Seconds by name, in order; a name that occurs again (a continued run) is added up."""
    seconds: dict[str, float] = defaultdict(float)
    for number, line in enumerate(_read(path, "give a file of names and seconds").splitlines(), 1):
        name, _, value = line.partition("\t")
        try:
            seconds[name] += float(value)
        except ValueError:
            seconds[name] = math.nan
        if not math.isfinite(seconds[name]):
            raise UserError(f"{path}:{number}: write a name, a tab and seconds")
    return list(seconds.items())
