"""What a comparison runs: systems, their records, their tasks, and the commands of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from bertjax.errors import UserError

SYSTEMS, ABLATIONS = "systems", "ablations"
# How a task reads a system: {name: options of bertjax.finetune}. Lists of words read its vectors.
TUNED, MIXED, LAST, VECTORS = "tuned", "frozen, mix", "frozen, last", "vectors"
READINGS: Mapping[str, Sequence[str]] = {
    TUNED: (),
    MIXED: ("--encoder=frozen", "--layers=mix"),
    LAST: ("--encoder=frozen", "--layers=last"),
}
# What a config must have.
GROUPS = (SYSTEMS, ABLATIONS, "records", "tasks", "tuning", "frozen", "ablation_tasks", "contexts")


class System(NamedTuple):
    """A way to learn vectors from text.

    Attributes:
      group: SYSTEMS or ABLATIONS, the name of its table in the config.
      records: the kind it learns from, a name in the config's records.
      settings: of its config file, as name=value.
      paper: {task: what the papers say of it}, as an ablation.
      tuning: options of its tasks where it is tuned, besides those of all systems.
    """

    name: str
    group: str
    config: str
    records: str
    settings: Sequence[str]
    paper: Mapping[str, str]
    tuning: Sequence[str] = ()

    def run(self, workdir: Path) -> Path:
        """The folder of its pretraining."""
        return workdir / "pretrained" / self.name


class Trial(NamedTuple):
    """One task of one system, read in one way, with all its seeds."""

    system: System
    task: str
    reading: str
    options: Sequence[str]

    @property
    def name(self) -> str:
        return f"{self.system.name} {self.task} {self.reading}"

    def folder(self, workdir: Path) -> Path:
        return workdir / "tasks" / self.system.name / self.task / self.reading.replace(", ", "-")


class Comparison(NamedTuple):
    """All that is compared, in the order of the config.

    Attributes:
      records: {kind: options of bertjax.prepare}.
      left_out: {task: the first of its files, or of their patterns, that is not there}.
      contexts: {word: the sentences it stands in}.
      paper: {task: {system: what the papers say}}.
    """

    systems: Sequence[System]
    records: Mapping[str, Sequence[str]]
    trials: Sequence[Trial]
    left_out: Mapping[str, Path]
    contexts: Mapping[str, Sequence[str]]
    paper: Mapping[str, Mapping[str, str]]


def read(config: ConfigDict, folder: Path, data: Path) -> Comparison:
    """Checks a config such as configs/compare.py, and finds the tasks whose files are there.

    Args:
      folder: where the systems' configs lie, that of the config itself.
      data: that of the tasks' files.

    Raises:
      UserError: a name that does not fit another, a folder that holds the files of no task.
    """
    systems = [
        _system(group, entry, folder) for group in (SYSTEMS, ABLATIONS) for entry in config[group]
    ]
    tasks = {task["name"]: task for task in config.tasks}
    names = [system.name for system in systems] + [task["name"] for task in config.tasks]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{twice[0]} is the name of two systems or tasks; give each its own")
    for system in systems:
        if system.records not in config.records:
            raise UserError(
                f"{system.group}.{system.name}: records '{system.records}' are none of "
                f"{', '.join(config.records)}"
            )
    missing = {
        name: [data / pattern for pattern in task["needs"] if not any(data.glob(pattern))]
        for name, task in tasks.items()
    }
    left_out = {name: paths[0] for name, paths in missing.items() if paths}
    if len(left_out) == len(missing):
        raise UserError(
            f"--data_dir={data}: holds the files of no task; give one with "
            + " or ".join(" and ".join(task["needs"]) for task in tasks.values())
        )
    for name in config.ablation_tasks:
        if name not in tasks:
            raise UserError(f"ablation_tasks: '{name}' is none of {', '.join(tasks)}")
    trials = [trial for s in systems for trial in _trials(s, tasks, config, data)]
    return Comparison(
        systems=systems,
        records={name: tuple(options) for name, options in config.records.items()},
        trials=[trial for trial in trials if trial.task not in left_out],
        left_out=left_out,
        contexts={word: tuple(texts) for word, texts in config.contexts.items()},
        paper={name: dict(task.get("paper", {})) for name, task in tasks.items()},
    )


def _system(group: str, entry: Mapping[str, Any], folder: Path) -> System:
    return System(
        entry["name"],
        group,
        str(folder / entry["config"]),
        entry["records"],
        tuple(entry["settings"]),
        dict(entry.get("paper", {})),
        tuple(entry.get("tuning", ())),
    )


def _trials(
    system: System, tasks: Mapping[str, Any], config: ConfigDict, data: Path
) -> Iterator[Trial]:
    """An ablation is tuned alone, as in the paper."""
    every = system.group == SYSTEMS
    for name in tasks if every else config.ablation_tasks:
        task = tasks[name]
        kind = f"--task={task.get('task', name)}"
        given = [option.format(data=data) for option in task["options"]]
        if not task.get("tuned", True):  # It only looks at vectors.
            yield Trial(system, name, VECTORS, (kind, *given))
            continue
        for reading, options in READINGS.items():
            more = system.tuning if reading == TUNED else config.frozen
            if every or reading == TUNED:
                # Of an option given twice the last one counts.
                yield Trial(system, name, reading, (kind, *config.tuning, *more, *given, *options))
