"""Jobs side by side have cores of their own; when one fails, the others stop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


# A command that has begun says so in a file, and ends in order when it is asked to.
_COMMAND = """
import pathlib, signal, sys
def end(*_):
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1], "begun").touch()
signal.pause()
"""
_COMPARISON = """
import signal, sys
from bertjax import errors, own_command
def main():
    signal.signal(signal.SIGTERM, own_command.interrupt)
    own_command.run_program([sys.executable, "-c", sys.argv[1], sys.argv[2]])
sys.exit(errors.run(main))
"""


@contextmanager
def comparing(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One whose command has begun; it is killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", _COMPARISON, _COMMAND, str(folder)])
    try:
        while not (folder / "begun").exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_comparison_that_is_asked_to_stop_asks_what_it_runs(tmp_path: Path) -> None:
    with comparing(tmp_path) as process:
        process.terminate()
        assert process.wait(timeout=60) == 130
    assert (tmp_path / "saved").exists()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no program asks for the signal")
def test_what_a_killed_comparison_ran_ends_too(tmp_path: Path) -> None:
    with comparing(tmp_path):
        pass
    end = time.monotonic() + 60
    while not (tmp_path / "saved").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_command_that_fails_is_told_by_its_own_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = ["--output", str(tmp_path / "text"), "--held_out=2"]
    with pytest.raises(own_command.Failed, match=r"collect: --held_out=2") as failed:
        own_command.call("collect", wrong, tmp_path / "logs" / "collect.txt")
    assert failed.value.status == 2
    # Without a log the user has seen it already.
    with pytest.raises(SystemExit) as ended:
        own_command.call("collect", wrong)
    assert ended.value.code == 2
    assert capfd.readouterr().err.count("--held_out=2") == 1
