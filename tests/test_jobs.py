"""Jobs side by side have cores of their own; when one fails, the others stop."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import pytest

from bertjax import own_command
from bertjax.comparison import jobs
from bertjax.errors import UserError


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads have no cores here")
def test_jobs_at_one_time_share_no_core_and_leave_none_idle() -> None:
    cores = sorted(os.sched_getaffinity(0))
    seen: dict[int, set[int]] = {}
    together = threading.Barrier(len(cores))

    def job(number: int) -> None:
        together.wait(timeout=60)
        seen[number] = os.sched_getaffinity(0)

    jobs.run({str(n): partial(job, n) for n in range(len(cores))}, len(cores))
    assert sorted(core for share in seen.values() for core in share) == cores
    assert sorted(os.sched_getaffinity(0)) == cores


@pytest.mark.parametrize("at_once", [1, 2])
def test_every_job_is_done_once(at_once: int) -> None:
    done: list[str] = []
    jobs.run({name: partial(done.append, name) for name in "abcde"}, at_once)
    assert sorted(done) == list("abcde")


def test_when_a_job_fails_the_command_of_another_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the other would wait for an hour."""
    monkeypatch.setattr(own_command, "_stopped", threading.Event())
    started = threading.Event()
    later: list[str] = []

    def wait() -> None:
        started.set()
        own_command.run_program(["sleep", "3600"])
        assert own_command._stopped.is_set()

    def fail() -> None:
        started.wait(timeout=60)
        while not own_command._running:
            pass
        raise UserError("this one fails")

    wanted = {"wait": wait, "fail": fail, "later": lambda: later.append("ran")}
    with pytest.raises(UserError, match="this one fails"):
        jobs.run(wanted, 2)
    assert not later
