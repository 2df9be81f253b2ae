"""The training loop: it logs, evaluates, saves and stops when the timetable says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax import programs, shares
from bertjax.runs.checkpoint import Checkpoints
from bertjax.runs.state import TrainState
from bertjax.training.profiler import Profiler
from bertjax.training.pulse import Pulse, Stopped
from bertjax.training.rates import HostBatch, Meter
from bertjax.training.run_log import RunLog
from bertjax.training.skipped_updates import Diverged, SkippedUpdates
from bertjax.training.timetable import Timetable
from bertjax.training.train_step import EvalStep, TrainStep

# (state, pulse) -> (metrics to keep, score of the checkpoint or None)
Evaluate = Callable[[TrainState, Pulse], tuple[dict[str, float], float | None]]


def train(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[HostBatch],
    *,
    mesh: Mesh,
    timetable: Timetable,
    log: RunLog,
    checkpoints: Checkpoints,
    evaluate: Evaluate | None = None,
    flops: Callable[[HostBatch], float] | None = None,
    profiler: Profiler | None = None,
) -> TrainState:
    """Trains from the state's step to the last one.

    In every step, in this order: batch, update, log, evaluate, save, stop if asked to.

    Raises:
      Diverged: too many updates in a row were not finite, or one that could not be left out; the
        log has the steps before it.
      SystemExit: with 0 after SIGTERM, when the state is saved.
    """
    step = int(state.step)
    skipped = SkippedUpdates(log.run, timetable.max_skipped, int(state.skipped), log.say)
    parts, num_parts = shares.local_parts(mesh)
    meter = Meter(log.history, num_parts / len(parts), flops)
    # One step is queued while another runs; more would only pile up batches. A CPU gives both their
    # memory, and gains nothing by it.
    ahead = 0 if programs.platform() == "cpu" else 1
    with Pulse(timetable.stuck_after) as pulse, profiler or Profiler() as trace:
        ends = _StepEnds(timetable, log, checkpoints, evaluate, pulse, meter, skipped, ahead)
        due = step > 0 and timetable.due(step, timetable.eval_every)
        if evaluate is not None and due and not log.history.evaluated:
            ends.settle(state, step, evaluate)  # A stop has interrupted that.
        while step < timetable.total_steps:
            with meter.waiting():
                batch = next(batches)
            trace.before(step + 1)
            with meter.stepping():
                state, metrics = train_step(state, shares.global_batch(batch, mesh))
            step += 1
            trace.after(step, metrics)
            meter.add(metrics, batch)
            ends.queued.append((step, metrics, batch))
            try:
                ends.end(state, step)
            except Diverged:
                ends.write(step)  # What led there.
                raise
        checkpoints.wait()  # In here, where SIGTERM does not end it.
        if pulse.beat():
            raise SystemExit(0)
    return state


@dataclasses.dataclass(frozen=True)
class _StepEnds:
    """What is done when a step has ended, beside its update.

    Attributes:
      ahead: steps that may run while the next one is made ready.
      queued: (step, metrics, batch) of the steps whose losses nobody has seen yet.
    """

    timetable: Timetable
    log: RunLog
    checkpoints: Checkpoints
    evaluate: Evaluate | None
    pulse: Pulse
    meter: Meter
    skipped: SkippedUpdates
    ahead: int
    queued: list[tuple[int, Any, HostBatch]] = dataclasses.field(default_factory=list)

    def end(self, state: TrainState, step: int) -> None:
        """Looks at a loss, logs, evaluates, saves, stops if asked to: what is due."""
        timetable = self.timetable
        self.look(self.ahead)
        if timetable.due(step, timetable.log_every):
            self.write(step)
        self.pulse.beat()
        evaluate = self.evaluate if timetable.due(step, timetable.eval_every) else None
        saved = evaluate is not None or timetable.due(step, timetable.save_every)
        if saved or self.pulse.stopping:
            self.look()  # Nothing is saved before its loss is seen.
            self.settle(state, step, evaluate)

    def write(self, step: int) -> None:
        """Logs the steps since the last line, if there are any."""
        if self.meter.steps:
            self.log.write(step, self.meter.close(self.timetable.total_steps - step))

    def look(self, ahead: int = 0) -> None:
        """Waits for the losses of all queued steps, but for so many that may still run."""
        while len(self.queued) > ahead:
            self.skipped.look(*self.queued.pop(0))

    def settle(self, state: TrainState, step: int, evaluate: Evaluate | None) -> None:
        """Evaluates if there is something to do it with, saves, stops if asked to."""
        score = None
        if evaluate is not None and not self.pulse.stopping:
            with self.meter.apart(), suppress(Stopped):  # Made up for when the run goes on.
                found, score = evaluate(state, self.pulse)
                self.log.keep(step, found)
        if self.pulse.stopping:
            self.write(step)
        with self.meter.apart():
            # First: what is logged before the checkpoint is not logged again behind it.
            self.log.send()
            self.checkpoints.save(state, score)
        if self.pulse.stopping:
            self.checkpoints.wait()
            self.log.say(f"stopped at step {step:,}, all saved; the same command goes on from here")
            raise SystemExit(0)


def evaluate_batches(
    eval_step: EvalStep, params: Any, batches: Iterator[HostBatch], mesh: Mesh
) -> dict[str, float]:
    """Averages over all batches: one sum over one count, every example once."""
    totals: Any = None
    for batch in batches:
        found = jax.device_get(eval_step(params, shares.global_batch(batch, mesh)))
        totals = found if totals is None else jax.tree.map(np.add, totals, found)
    sums, counts = totals
    return {
        f"{part}_{name}": float(value / max(counts[part], 1))
        for part, values in sums.items()
        for name, value in values.items()
    }
