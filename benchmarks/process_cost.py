"""Runs one command on given cores and says what it cost in time, processor time and memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import contest

Command = list[str | Path]


class Cost(NamedTuple):
    """Wall seconds, processor seconds, resident MiB of the largest process, CPU of others."""

    wall: float
    cpu: float
    peak_mib: float
    others: float


def measure(command: Command, cores: set[int]) -> Cost:
    """Runs a command to its end on the given cores.

    Raises:
      RuntimeError: it failed; the end of what it said is in the message.
    """
    with tempfile.TemporaryFile() as said:
        before, begin = contest.busy_seconds(), time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=contest.environment(),
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        # Unlike wait, this also says what the process and its children have used.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{command[2]} failed:\n{said.read().decode()[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    others = (contest.busy_seconds() - before - cpu) / wall
    return Cost(wall, cpu, usage.ru_maxrss / 1024, max(0.0, others))
