"""A trace of some steps, for TensorBoard's profile page and Perfetto: what ran when, on what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax

from bertjax.errors import UserError
from bertjax.files import storage


class Profiler:
    """Traces the steps `first` to `last` of a run; a context, so that a trace is always ended.

    Nothing is traced without them. The trace lies in the run's plugins/profile.
    """

    def __init__(self, run: Path = Path(), steps: tuple[int, int] | None = None) -> None:
        self._run, self._steps = run, steps
        self._outbox: storage.Outbox | None = None

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def tell(self, start: int) -> None:
        """Says so where a run goes on behind all the steps to trace: it may have traced them."""
        if self._steps and self._steps[1] <= start:
            first, last = self._steps
            print(f"--profile={first}:{last}: nothing to trace, the run is at step {start:,}")

    def before(self, step: int) -> None:
        """A step is about to begin; a run that goes on in the middle traces what is left."""
        if self._steps and not self._outbox and self._steps[0] <= step <= self._steps[1]:
            self._outbox = storage.Outbox(self._run)
            jax.profiler.start_trace(str(self._outbox.folder))

    def after(self, step: int, metrics: Any) -> None:
        """A step is on its way; the last one that is traced is waited for."""
        if self._outbox and self._steps and step >= self._steps[1]:
            jax.block_until_ready(metrics)
            self._end()

    def _end(self) -> None:
        if self._outbox:
            jax.profiler.stop_trace()
            self._outbox.close()
            self._outbox = None


def of_run(run: Path, steps: tuple[int, int] | None, total: int) -> Profiler:
    """Of a run of so many steps.

    Raises:
      UserError: it ends before the steps to trace.
    """
    if steps and steps[0] > total:
        raise UserError(f"--profile={steps[0]}:{steps[1]}: the run has {total:,} steps")
    return Profiler(run, steps)


def parse_steps(given: str) -> tuple[int, int]:
    """ "100:110" -> (100, 110).

    Raises:
      UserError: anything else.
    """
    found = re.fullmatch(r"(\d+):(\d+)", given)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--profile={given}: give the first and the last step, such as 100:110")
    return int(found[1]), int(found[2])
