"""The same time for every system: how many steps it has, measured once and kept."""

from __future__ import annotations

import math
import re
import shutil
import statistics
import threading
from functools import partial
from pathlib import Path
from typing import Any

from bertjax.comparison.systems import System
from bertjax.errors import UserError
from bertjax.files.json_file import read_json, write_json
from bertjax.own_command import call, check_finished
from bertjax.training import run_log

BUDGET, STEPS = "budget.json", "steps.json"
# Several systems are measured at once, and all are told in one file.
_FILE = threading.Lock()
_UNITS = {"s": 1, "m": 60, "h": 3600}
# Steps that are measured, or as many as take so many seconds; the first hold the compilation.
_MEASURED, _SECONDS = 60, 20
# Steps that a system has at least, however slow they are.
_LEAST = 100


def seconds(budget: str) -> float:
    """ "90m" -> 5400.0.

    Raises:
      UserError: not a number and a unit.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    if not found or not float(found[1]):
        raise UserError(f"--budget={budget}: give a time such as 90m, 2h or 600s")
    return float(found[1]) * _UNITS[found[2]]


def share(budget: str, rounds: int, workdir: Path) -> float:
    """Seconds of each system, of as many as are trained one after the other on the same cores.

    A continued comparison keeps what it began with, also with another number of jobs.

    Raises:
      UserError: it was begun with another budget.
    """
    path = workdir / BUDGET
    if not path.is_file():
        write_json(path, {"budget": budget, "share": seconds(budget) / 2 / rounds})
    begun = read_json(path)
    if seconds(begun["budget"]) != seconds(budget):
        raise UserError(
            f"{workdir}: was begun with --budget={begun['budget']}, and systems with other times "
            "cannot be compared; give that, or another --workdir"
        )
    return begun["share"]


def steps(
    system: System, arguments: list[str], share: float, workdir: Path, log: Path | None = None
) -> int:
    """How many steps a system makes in `share` seconds; measured when it is first asked for.

    A continued comparison reads what was measured, so that runs go on to the same last step.
    """
    path = workdir / STEPS
    known = _read(path).get(system.name)
    if known is None:
        measure = partial(_measure, workdir / "measuring" / system.name, arguments, log)
        one = measure(_MEASURED)
        if one * _MEASURED < _SECONDS:
            one = measure(math.ceil(_SECONDS / one))
        known = {"seconds_per_step": one, "steps": max(_LEAST, round(share / one))}
        with _FILE:
            write_json(path, _read(path) | {system.name: known})
    return known["steps"]


def _measure(folder: Path, arguments: list[str], log: Path | None, number: int) -> float:
    """Seconds of one of so many steps."""
    shutil.rmtree(folder, ignore_errors=True)
    short = [f"train.steps={number}", f"log_every={max(1, number // 4)}", "data.eval_records="]
    call("pretrain", [f"--workdir={folder}", *arguments, *short], log)
    rows = run_log.read_metrics(folder)[1:]
    check_finished(bool(rows), folder)
    shutil.rmtree(folder)
    return statistics.median(row["seconds_per_step"] for row in rows)


def minutes(run: Path) -> float:
    """How long a system was trained, without evaluation and saving; as `steps` counts."""
    total, last = 0.0, 0.0
    for row in run_log.read_metrics(run):
        if "seconds_per_step" in row:
            total += row["seconds_per_step"] * (row["step"] - last)
            last = row["step"]
    return total / 60


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
