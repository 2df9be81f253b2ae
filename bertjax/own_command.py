"""Runs other commands of this package, shown as a user would type them."""

from __future__ import annotations

import functools
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from bertjax.errors import UserError


class Stopped(UserError):
    """All were asked to end."""


class Failed(UserError):
    """A command ended with another status than 0."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


_running: set[subprocess.Popen[bytes]] = set()
_stopped = threading.Event()


def call(module: str, arguments: Sequence[str], log: Path | None = None) -> None:
    """`python -m bertjax.MODULE ARGUMENTS`, in a process of its own.

    Args:
      log: what it says is added to this file instead of being shown.

    Raises:
      Failed: with the line that it said, if that went to the log.
      Stopped: all were.
      SystemExit: it failed with an error of the user's, which has been shown.
    """
    command = [sys.executable, "-m", f"bertjax.{module}", *arguments]
    if log is None:
        print(f"\n$ {shown(module, arguments)}", flush=True)
        status = run_program(command)
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            output.write(f"\n$ {shown(module, arguments)}\n".encode())
            output.flush()
            status = run_program(command, output)
    if _stopped.is_set():
        raise Stopped("stopped; run the same command again to go on")
    if status == 2 and log is None:
        raise SystemExit(status)
    if status:
        raise Failed(_told(module, log), status)


def check_finished(finished: bool, folder: Path, reached: str = "") -> None:
    """Raises Stopped: a command ended well before its work did, as it does when asked to stop.

    Args:
      folder: where it goes on.
      reached: what it was at, for the message.
    """
    if not finished:
        raise Stopped(f"{folder}: was stopped{reached}; run the same command again to go on")


def _told(module: str, log: Path | None) -> str:
    lines = log.read_text("utf-8", "replace").splitlines() if log else []
    last = lines[-1] if lines else ""
    if last.startswith("error: "):
        return f"bertjax.{module}: {last.removeprefix('error: ')}"
    return f"bertjax.{module} failed; {f'{log} tells why' if log else 'what it says is above'}"


@functools.cache
def _with_us() -> Sequence[str]:
    """Puts a command's end to ours; without such a program one that is left behind goes on."""
    words = ("setpriv", "--pdeathsig=TERM")
    try:
        works = subprocess.run([*words, "true"], capture_output=True).returncode == 0
    except OSError:
        works = False
    return words if works else ()


def run_program(command: Sequence[str], output: IO[bytes] | None = None) -> int:
    """Its exit status; `stop` ends it, and so does the end of this process, even by SIGKILL."""
    process = subprocess.Popen([*_with_us(), *command], stdout=output, stderr=output)
    _running.add(process)
    try:
        return process.wait()
    except KeyboardInterrupt:  # It has been interrupted, too, and ends in order.
        process.wait()
        raise
    finally:
        _running.discard(process)


def stop() -> None:
    """Asks all that run, in other threads, to save and to end; no further one succeeds."""
    _stopped.set()
    for process in list(_running):
        process.terminate()


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handles SIGTERM as ^C, which reaches what runs by itself: it saves, and goes on later."""
    stop()
    raise KeyboardInterrupt


def shown(module: str, arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", f"bertjax.{module}", *arguments])
