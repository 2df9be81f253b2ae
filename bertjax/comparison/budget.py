"""The same time for every system: how many steps it has, measured once and kept."""

from __future__ import annotations

import re
import shutil
import statistics
from pathlib import Path

from bertjax.comparison.systems import System
from bertjax.errors import UserError
from bertjax.files.json_file import read_json, write_json
from bertjax.own_command import call
from bertjax.training import run_log

STEPS = "steps.json"
_UNITS = {"s": 1, "m": 60, "h": 3600}
# Steps that are measured, and how often they are logged; the first line holds the compilation.
_MEASURED, _LOGGED = 60, 15
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


def steps(system: System, arguments: list[str], share: float, workdir: Path) -> int:
    """How many steps a system makes in `share` seconds; measured when it is first asked for.

    A continued comparison reads what was measured, so that runs go on to the same last step.
    """
    path = workdir / STEPS
    known = read_json(path) if path.is_file() else {}
    if system.name not in known:
        folder = workdir / "measuring"
        shutil.rmtree(folder, ignore_errors=True)
        short = [f"train.steps={_MEASURED}", f"log_every={_LOGGED}", "data.eval_records="]
        call("pretrain", [f"--workdir={folder}", *arguments, *short])
        rows = run_log.read_metrics(folder)[1:]
        one = statistics.median(row["seconds_per_step"] for row in rows)
        shutil.rmtree(folder)
        known[system.name] = {"seconds_per_step": one, "steps": max(_LEAST, round(share / one))}
        write_json(path, known)
    return known[system.name]["steps"]
