"""Runs other commands of this package, shown as a user would type them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from bertjax.errors import UserError


class Stopped(UserError):
    """All were asked to end."""


_running: set[subprocess.Popen[bytes]] = set()
_stopped = threading.Event()


def call(module: str, arguments: Sequence[str], log: Path | None = None) -> None:
    """`python -m bertjax.MODULE ARGUMENTS`, in a process of its own.

    Args:
      log: what it says is added to this file instead of being shown.

    Raises:
      UserError: it failed; what it said stands above or in the log.
      Stopped: all were.
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
    if status:
        said = f"what {log} says at its end" if log else "what it says above"
        raise UserError(f"bertjax.{module} failed; mend {said}, and run the same command again")


def run_program(command: Sequence[str], output: IO[bytes] | None = None) -> int:
    """Its exit status; `stop` ends it."""
    process = subprocess.Popen(command, stdout=output, stderr=output)
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


def shown(module: str, arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", f"bertjax.{module}", *arguments])
