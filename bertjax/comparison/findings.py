"""What a finished comparison shows: scores with their noise, orderings that hold or do not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.comparison.systems import SYSTEMS, Comparison, System, Trial
from bertjax.files.json_file import read_json
from bertjax.finetuning.sweep import RESULT
from bertjax.finetuning.tuning import METRICS


class Score(NamedTuple):
    """Scores of all seeds on dev; `metric` is their name."""

    metric: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def shown(self) -> str:
        noise = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.median:.1f}{noise}"


# (system, task, reading) -> score
Scores = dict[tuple[str, str, str], Score]


def scores(wanted: Comparison, workdir: Path) -> Scores:
    """Of all trials, which must be finished."""
    return {(t.system.name, t.task, t.reading): _score(t, workdir) for t in wanted.trials}


def _score(trial: Trial, workdir: Path) -> Score:
    folder = trial.folder(workdir)
    sweep = folder / RESULT
    runs = read_json(sweep)["runs"].values() if sweep.is_file() else [read_json(folder / METRICS)]
    results: list[dict[str, Any]] = list(runs)
    return Score(results[0]["primary"], [result["score"] for result in results])


def mixes(wanted: Comparison, workdir: Path) -> dict[str, dict[str, list[float]]]:
    """{task: {system: softmax weights of the layers in the best run, the lowest first}}."""
    found: dict[str, dict[str, list[float]]] = {}
    for trial in wanted.trials:
        folder = trial.folder(workdir)
        best = (
            folder / read_json(folder / RESULT)["best"] if (folder / RESULT).is_file() else folder
        )
        if (best / "layer_mix.json").is_file():
            weights = read_json(best / "layer_mix.json")["weights"]
            found.setdefault(trial.task, {})[trial.system.name] = weights
    return found


class Ordering(NamedTuple):
    """One claim of the paper on one task: `first` is better than `second`.

    Attributes:
      difference: of the medians; noise: of that difference, one standard deviation.
    """

    claim: str
    task: str
    difference: float
    noise: float

    @property
    def verdict(self) -> str:
        if abs(self.difference) <= self.noise:
            return "within noise"
        return "holds" if self.difference > 0 else "does not hold"


def orderings(wanted: Comparison, found: Scores) -> list[Ordering]:
    """The systems in the order of the config, the best first as the paper has it; then readings."""
    systems = [s for s in wanted.systems if s.group == SYSTEMS]
    tasks = list(dict.fromkeys(trial.task for trial in wanted.trials))
    made: list[Ordering] = []
    for better, worse in zip(systems, systems[1:], strict=False):
        made += _between(found, tasks, better, worse)
    for system in systems:
        made += _readings(found, tasks, system)
    return made


def _between(found: Scores, tasks: list[str], better: System, worse: System) -> list[Ordering]:
    claim = f"{better.name} over {worse.name}"
    return [
        _ordering(f"{claim}, {reading}", task, found[key], found[worse.name, task, reading])
        for task in tasks
        for reading in ("tuned", "frozen, mix", "vectors")
        if (key := (better.name, task, reading)) in found and (worse.name, task, reading) in found
    ]


def _readings(found: Scores, tasks: list[str], system: System) -> list[Ordering]:
    pairs = (("tuned", "frozen, mix"), ("frozen, mix", "frozen, last"))
    return [
        _ordering(
            f"{system.name}: {one} over {two}", task, found[key], found[system.name, task, two]
        )
        for one, two in pairs
        for task in tasks
        if (key := (system.name, task, one)) in found and (system.name, task, two) in found
    ]


def _ordering(claim: str, task: str, one: Score, two: Score) -> Ordering:
    noise = math.hypot(one.deviation or 0.0, two.deviation or 0.0)
    return Ordering(claim, task, one.median - two.median, noise)
