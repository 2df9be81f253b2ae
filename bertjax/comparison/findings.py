"""What a finished comparison shows: scores with their noise, orderings that hold or do not."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from bertjax.comparison.systems import LAST, MIXED, SYSTEMS, TUNED, Comparison, System
from bertjax.files.json_file import read_json
from bertjax.finetuning.mixing import JSON as MIX
from bertjax.finetuning.sweep import RESULT
from bertjax.runs.run_folder import SCORES

# Scores that are correlations, from -1 to 1; the others are shares of what could be right.
_CORRELATIONS = ("matthews", "pearson", "spearman")
# Of pure noise that much is taken for more.
CHANCE = 0.05
HOLDS, NOISE, NOTHING, FAILS = "holds", "within noise", "nothing learnt", "does not hold"


class Score(NamedTuple):
    """Scores of all seeds on dev.

    Attributes:
      metric: their name.
      examples: of dev, or of a list of words those that were known.
      unknown: those of a list of words that were not.
      collapsed: seeds that gave every example the same answer; diverged: those without a score.
      blind: what the most frequent label has, where that is known.
    """

    metric: str
    values: Sequence[float]
    examples: int
    unknown: int = 0
    collapsed: int = 0
    diverged: int = 0
    blind: float | None = None

    @property
    def learnt(self) -> bool:
        """Whether any seed told examples apart."""
        return self.collapsed < len(self.values)

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def seed_error(self) -> float:
        """The standard error of the mean over so few seeds."""
        return (self.deviation or 0.0) / math.sqrt(len(self.values))

    @property
    def dev_error(self) -> float:
        """The standard error that a dev set of that size leaves, as though it were of shares."""
        if self.is_correlation:
            one = 1 - self.mean**2
        else:
            share = min(max(self.mean, 1 / self.examples), 1 - 1 / self.examples)
            one = math.sqrt(share * (1 - share))
        return one / math.sqrt(self.examples)

    @property
    def is_correlation(self) -> bool:
        return any(name in self.metric for name in _CORRELATIONS)

    def shown(self) -> str:
        noise = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        notes = [f"knows {self.examples:,} of {self.examples + self.unknown:,}"] * (
            self.unknown > 0
        )
        notes += [f"{self.collapsed} collapsed"] * (self.collapsed > 0)
        notes += [f"{self.diverged} diverged"] * (self.diverged > 0)
        note = f" ({', '.join(notes)})" if notes else ""
        return f"{100 * self.mean:.1f}{noise}{note}"


# (system, task, reading) -> score
Scores = dict[tuple[str, str, str], Score]


def scores(wanted: Comparison, workdir: Path) -> Scores:
    """Of all trials that have a result."""
    found: Scores = {}
    for trial in wanted.trials:
        folder = trial.folder(workdir)
        key = trial.system.name, trial.task, trial.reading
        if (folder / RESULT).is_file():
            swept = read_json(folder / RESULT)
            score = _score(list(swept["runs"].values()))
            found[key] = score._replace(diverged=len(swept["diverged"]))
        elif (folder / SCORES).is_file():
            found[key] = _score([read_json(folder / SCORES)])
    return found


def _score(results: Sequence[dict[str, Any]]) -> Score:
    one, values = results[0], [result["score"] for result in results]
    if "tests" not in one:
        collapsed = sum(result["collapsed"] for result in results)
        score = Score(one["primary"], values, one["dev"]["examples"], collapsed=collapsed)
        if score.is_correlation:
            return score._replace(blind=0.0)
        is_share = one["primary"] == "accuracy"
        return score._replace(blind=one.get("majority_baseline") if is_share else None)
    tests = one["tests"].values()
    known = sum(test.get("pairs", 0) + test.get("questions", 0) for test in tests)
    return Score(one["primary"], values, known, sum(test["left_out"] for test in tests))


class Mix(NamedTuple):
    """What a frozen encoder's mix has learnt, seed by seed: softmax weights and gamma."""

    weights: Sequence[Sequence[float]]
    gammas: Sequence[float]


def mixes(wanted: Comparison, workdir: Path) -> dict[str, dict[str, Mix]]:
    """{task: {system: its mix}}, the lowest layer first."""
    found: dict[str, dict[str, Mix]] = {}
    for trial in wanted.trials:
        folder = trial.folder(workdir)
        runs = read_json(folder / RESULT)["runs"] if (folder / RESULT).is_file() else ()
        files = [path for run in runs if (path := folder / run / MIX).is_file()]
        seeds = [read_json(file) for file in files]
        if seeds:
            mix = Mix([seed["weights"] for seed in seeds], [seed["gamma"] for seed in seeds])
            found.setdefault(trial.task, {})[trial.system.name] = mix
    return found


class Ordering(NamedTuple):
    """One claim of the papers on one task: `first` is better than `second`.

    Attributes:
      difference: of the means; noise: what it must exceed.
      learnt: whether either has told examples apart with any seed.
    """

    claim: str
    task: str
    difference: float
    noise: float
    learnt: bool = True

    @property
    def verdict(self) -> str:
        if not self.learnt:
            return NOTHING
        if abs(self.difference) <= self.noise:
            return NOISE
        return HOLDS if self.difference > 0 else FAILS


def orderings(
    wanted: Comparison, found: Scores, mixed: dict[str, dict[str, Mix]]
) -> list[Ordering]:
    """The systems in the order of the config, the best first as the papers have it; then readings.

    Lists of words are left out: no paper claims an order there, and each system knows other words.
    """
    systems = [s for s in wanted.systems if s.group == SYSTEMS]
    tasks = list(dict.fromkeys(trial.task for trial in wanted.trials))
    made: list[Ordering] = []
    for better, worse in itertools.combinations(systems, 2):
        for reading in (TUNED, MIXED):
            claim = f"{better.name} over {worse.name}, {reading}"
            one, two = (better.name, reading), (worse.name, reading)
            made += _claimed(claim, found, tasks, one, two)
    for system in systems:
        layers = {len(m[system.name].weights[0]) for m in mixed.values() if system.name in m}
        made += _readings(found, tasks, system, several_layers=max(layers, default=1) > 1)
    return made


def _readings(
    found: Scores, tasks: list[str], system: System, several_layers: bool
) -> list[Ordering]:
    """A mix of one layer is that layer."""
    pairs = [(TUNED, MIXED)] + [(MIXED, LAST)] * several_layers
    return [
        ordering
        for one, two in pairs
        for ordering in _claimed(
            f"{system.name}: {one} over {two}", found, tasks, (system.name, one), (system.name, two)
        )
    ]


def _claimed(
    claim: str, found: Scores, tasks: list[str], one: tuple[str, str], two: tuple[str, str]
) -> list[Ordering]:
    """A claim on all tasks that both (system, reading) have a score of."""
    keys = [((one[0], task, one[1]), (two[0], task, two[1])) for task in tasks]
    return [
        ordering(claim, first[1], found[first], found[second])
        for first, second in keys
        if first in found and second in found
    ]


def ordering(claim: str, task: str, one: Score, two: Score) -> Ordering:
    """The noise of so few seeds has Student's t, that of the dev set has not.

    Both are scored on the same dev set and err on many of the same examples, so that its part is
    smaller than it is taken for here: what counts as more than noise, is.
    """
    freedom = max(1, len(one.values) + len(two.values) - 2)
    of_seeds = stats.t.isf(CHANCE / 2, freedom) * math.hypot(one.seed_error, two.seed_error)
    of_dev = stats.norm.isf(CHANCE / 2) * math.hypot(one.dev_error, two.dev_error)
    noise = math.hypot(of_seeds, of_dev)
    return Ordering(claim, task, one.mean - two.mean, noise, one.learnt or two.learnt)
