"""The pulse of a run: asks after every step whether to stop, and shows the stacks if it fails.

SIGTERM is what a machine gets before it is taken away. One process may get it and the others not,
and all of them must save the same step: with several processes JAX's coordination service, which
catches the signal itself, tells all at the same beat.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

Item = TypeVar("Item")
# Of the whole process: the coordination service takes no number twice.
_BEATS = itertools.count(1)
STUCK_AFTER = 1800.0
_STOPPED = b"stopped while no step ran, nothing is lost; the same command goes on from here\n"


def heed_sigterm() -> None:
    """From here on SIGTERM outside of a Pulse ends this process with exit status 0.

    Opening data, compiling and writing results can be done again; nothing has to be saved. What is
    being compiled is waited for: Python hears of signals between two of its own operations. Of
    several processes JAX's coordination service remembers the signal until their first beat.
    """
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # It is on the way out.
    os.write(1, _STOPPED)  # `print` may be what it has interrupted.
    raise SystemExit(0)


class Stopped(Exception):
    """The run is to stop, in the middle of an evaluation."""


class Pulse:
    """A context around a loop whose processes all beat equally often.

    Attributes:
      stopping: whether all processes shall save and stop now.
    """

    def __init__(self, stuck_after: float = STUCK_AFTER) -> None:
        """
        Args:
          stuck_after: seconds without a beat after which all stacks are printed, again and again.
        """
        self.stopping = False
        self._stuck_after = stuck_after
        self._alone = jax.process_count() == 1
        self._signalled = False

    def __enter__(self) -> Pulse:
        if self._alone:
            self._before = signal.signal(signal.SIGTERM, self._remember)
        self._wind_up()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        # Who has been asked to stop is on the way out; a second signal must not cut that short.
        if self._alone and not self.stopping:
            signal.signal(signal.SIGTERM, self._before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def _wind_up(self) -> None:
        # A thread of C: it needs no lock of Python's, which what is stuck may hold.
        target = sys.__stderr__ or sys.stderr
        faulthandler.dump_traceback_later(self._stuck_after, repeat=True, file=target)

    def beat(self) -> bool:
        """To be called after every step; tells whether to stop."""
        self._wind_up()
        told = self._signalled
        if not self._alone:
            told = multihost_utils.reached_preemption_sync_point(next(_BEATS))
        self.stopping = self.stopping or told
        return self.stopping

    def through(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches of an evaluation, with a beat before each.

        Raises:
          Stopped: it is time to stop.
        """
        for batch in batches:
            if self.beat():
                raise Stopped
            yield batch
