"""Many runs of one task: a grid of settings times seeds, the best by dev, one table."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax import distributed
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.json_file import read_json, write_json
from bertjax.files.whole_file import write_whole
from bertjax.finetuning.earlier import DIVERGED, Result
from bertjax.finetuning.method import Point
from bertjax.runs import run_folder
from bertjax.runs.run_folder import CHECKPOINTS, SCORES
from bertjax.training.skipped_updates import Diverged

# The paper's search (appendix A.3).
GRID: dict[str, Sequence[Any]] = {
    "batch_size": (16, 32),
    "learning_rate": (5e-5, 3e-5, 2e-5),
    "epochs": (2, 3, 4),
}

RESULT = run_folder.SWEEP
TABLE = "sweep.md"
ALL_DIVERGED = "all runs diverged"
_HEADER = "| batch | rate | epochs | seeds | median | mean | deviation | best | collapsed |"


def grid(
    first: Point,
    seeds: int,
    fixed: Collection[str] = (),
    tried: Mapping[str, Sequence[Any]] = GRID,
) -> list[Point]:
    """The paper's 18 settings, each with that many seeds from first.seed on.

    Args:
      fixed: keys of GRID in which all settings are as `first`.
      tried: as GRID, with other values.
    """
    values = [[getattr(first, key)] if key in fixed else tried[key] for key in GRID]
    return [
        point
        for setting in itertools.product(*values)
        for point in repeated(
            dataclasses.replace(first, **dict(zip(GRID, setting, strict=True))), seeds
        )
    ]


def repeated(point: Point, seeds: int) -> list[Point]:
    """One setting with that many seeds."""
    return [dataclasses.replace(point, seed=point.seed + seed) for seed in range(seeds)]


def check_seeds(seeds: int) -> None:
    """Raises UserError: there are too few to tell how far scores lie apart."""
    if seeds < 2:
        raise UserError(f"--seeds={seeds}: a score alone says little; give at least 2")


def run(
    workdir: Path,
    points: Sequence[Point],
    tune: Callable[[Path, Point], Result],
    keep_all: bool = False,
) -> Path:
    """Runs all points, each in its folder, and writes the table; returns the best run's folder.

    Finished runs are only read, so an interrupted sweep goes on where it stopped. Of all runs
    only the best one keeps its weights, if not all are to; all keep their metrics and predictions.
    Runs that diverge are left out and named.

    Raises:
      UserError: all runs diverged.
    """
    best: Path | None = None
    results: dict[Point, Result] = {}
    for number, point in enumerate(points, start=1):
        folder = workdir / point.name
        print(f"run {number} of {len(points)}: {point.name}")
        result = _tuned(tune, folder, point)
        worse: Path | None = folder
        if result is not None:
            # Of equals the first one is kept, whatever was interrupted.
            if best is None or result["score"] > max(_scores(results)):
                best, worse = folder, best
                _tell_smaller(workdir, point, result)
            results[point] = result
        if worse is not None and not keep_all:
            _drop_weights(worse)
    if best is None:
        raise UserError(f"{workdir}: {ALL_DIVERGED}; take another --workdir and a lower rate")
    for kept in [workdir / point.name for point in results] if keep_all else [best]:
        if not (kept / CHECKPOINTS).is_dir():
            print(f"the weights of {kept} were given up by a sweep; delete it to train it again")
    _write(workdir, best, results, [point.name for point in points if point not in results])
    return best


def _tuned(tune: Callable[[Path, Point], Result], folder: Path, point: Point) -> Result | None:
    """What a run has given; None if it diverged."""
    try:
        return tune(folder, point)
    except Diverged:
        print(f"{point.name} diverged and is left out; {folder / DIVERGED} tells where")
        return None


def _scores(results: Mapping[Point, Result]) -> list[float]:
    return [result["score"] for result in results.values()]


def _tell_smaller(workdir: Path, point: Point, result: Result) -> None:
    """A smaller sweep that was finished here, and may be read before this one is, has a new best
    run: the weights of its own are about to go, or will go as those of one that is equally good.
    """
    path = workdir / RESULT
    if distributed.is_first() and path.is_file():
        found = read_json(path)
        if result["score"] >= found["runs"][found["best"]]["score"]:
            runs = found["runs"] | {point.name: result}
            write_json(path, found | {"best": point.name, "runs": runs})


def _drop_weights(run: Path) -> None:
    if distributed.is_first():
        storage.remove_folder(run / CHECKPOINTS)


def _write(
    workdir: Path, best: Path, results: Mapping[Point, Result], diverged: Sequence[str]
) -> None:
    rows = summary(results)
    table = markdown(rows, next(iter(results.values())), diverged)
    if distributed.is_first():
        runs = {point.name: result for point, result in results.items()}
        found = {"best": best.name, "rows": rows, "runs": runs, "diverged": diverged}
        write_json(workdir / RESULT, found)
        write_whole(workdir / TABLE, table.encode())
    print(f"{table}best run: {best}\nwrote {workdir}/{RESULT} and {TABLE}")


def summary(results: Mapping[Point, Result]) -> list[dict[str, Any]]:
    """One row for each setting, over its seeds; the best median first.

    A run has collapsed if it gives the same answer to every example of dev.
    """
    rows = []
    for setting in dict.fromkeys(map(_setting, results)):
        found = {point: result for point, result in results.items() if _setting(point) == setting}
        scores = _scores(found)
        rows.append(
            {
                "batch_size": setting[0],
                "learning_rate": setting[1],
                "epochs": setting[2],
                "seeds": len(scores),
                "median": statistics.median(scores),
                "mean": statistics.fmean(scores),
                "deviation": statistics.stdev(scores) if len(scores) > 1 else None,
                "best": max(scores),
                "collapsed": [p.seed for p, result in found.items() if result["collapsed"]],
            }
        )
    return sorted(rows, key=lambda row: -row["median"])


def is_of(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a run has the setting of a row, and is named after that."""
    setting = {key: row[key] for key in GRID}
    return name.rpartition("-seed")[0] == Point(**setting, seed=0).name.rpartition("-seed")[0]


def _setting(point: Point) -> tuple[int, float, int]:
    return point.batch_size, point.learning_rate, point.epochs


def markdown(rows: Sequence[dict[str, Any]], like: Result, diverged: Sequence[str]) -> str:
    """The rows as a table, and below it the names of runs that are in none.

    Args:
      like: what one of the runs has given; its score's name and scale are those of all.
    """
    lines = [f"dev {like['primary']}", "", _HEADER, "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        median, mean, deviation, best = _shown(row, like, "median", "mean", "deviation", "best")
        collapsed = ", ".join(f"seed {seed}" for seed in row["collapsed"]) or "none"
        lines.append(
            f"| {row['batch_size']} | {row['learning_rate']:g} | {row['epochs']} | {row['seeds']} "
            f"| {median} | {mean} | {deviation} | {best} | {collapsed} |"
        )
    if diverged:
        lines += ["", f"diverged, and in no row: {', '.join(diverged)}"]
    return "\n".join(lines) + "\n"


def _shown(row: Mapping[str, Any], like: Result, *names: str) -> list[str]:
    """Scores of a row on the scale of the task, which is in percent for SQuAD's."""
    scores = [row[name] for name in names]
    return ["-" if score is None else f"{score * like['perfect']:.4f}" for score in scores]


def write_comparison(workdir: Path, runs: Mapping[str, Path]) -> None:
    """One row for each kind of features (paper, table 7), over its seeds.

    Args:
      runs: its best run.
    """
    results = {name: read_json(run / SCORES) for name, run in runs.items()}
    primary = next(iter(results.values()))["primary"]
    lines = [
        f"| layers | median dev {primary} | deviation | best | seeds |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        path, score = workdir / name / RESULT, result["score"]
        alone = {"median": score, "deviation": None, "best": score, "seeds": 1}
        row = read_json(path)["rows"][0] if path.is_file() else alone
        median, deviation, best = _shown(row, result, "median", "deviation", "best")
        lines.append(f"| {name} | {median} | {deviation} | {best} | {row['seeds']} |")
    table = "\n".join(lines) + "\n"
    write_whole(workdir / "layers.md", table.encode())
    print(f"{table}wrote {workdir}/layers.md")
