"""The training loop: it logs, evaluates, saves and stops when the timetable says so."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
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
from bertjax.training.skipped_updates import SkippedUpdates
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
      Diverged: too many updates in a row were not finite, or one that could not be left out.
      SystemExit: with 0 after SIGTERM, when the state is saved.
    """
    step = int(state.step)
    skipped = SkippedUpdates(log.run, timetable.max_skipped, int(state.skipped), log.say)
    parts, num_parts = shares.local_parts(mesh)
    meter = Meter(log.history, num_parts / len(parts), flops)
    # One step is queued while another runs; more would only pile up batches. A CPU gives both their
    # memory, and gains nothing by it.
    ahead = 0 if programs.platform() == "cpu" else 1
    queued: list[tuple[int, Any, HostBatch]] = []
    with Pulse(timetable.stuck_after) as pulse, profiler or Profiler() as trace:
        settle = functools.partial(_settle, pulse=pulse, log=log, checkpoints=checkpoints)
        due = step > 0 and timetable.due(step, timetable.eval_every)
        if evaluate is not None and due and not log.history.evaluated:
            settle(state, step, evaluate)  # A stop has interrupted that.
        while step < timetable.total_steps:
            with meter.waiting():
                batch = next(batches)
            trace.before(step + 1)
            with meter.stepping():
                state, metrics = train_step(state, shares.global_batch(batch, mesh))
            step += 1
            trace.after(step, metrics)
            meter.add(metrics, batch)
            queued.append((step, metrics, batch))
            if len(queued) > ahead:
                skipped.look(*queued.pop(0))

            if timetable.due(step, timetable.log_every):
                log.write(step, meter.close(timetable.total_steps - step))
            pulse.beat()
            evaluated = evaluate is not None and timetable.due(step, timetable.eval_every)
            if evaluated or timetable.due(step, timetable.save_every) or pulse.stopping:
                while queued:  # Nothing is saved before its loss is seen.
                    skipped.look(*queued.pop(0))
                with meter.apart():
                    settle(state, step, evaluate if evaluated else None)
        for one in queued:
            skipped.look(*one)
        checkpoints.wait()  # In here, where SIGTERM does not end it.
        if pulse.beat():
            raise SystemExit(0)
    return state


def _settle(
    state: TrainState,
    step: int,
    evaluate: Evaluate | None,
    *,
    pulse: Pulse,
    log: RunLog,
    checkpoints: Checkpoints,
) -> None:
    """Evaluates if there is something to do it with, saves, stops if asked to."""
    score = None
    if evaluate is not None and not pulse.stopping:
        try:
            found, score = evaluate(state, pulse)
            log.keep(step, found)
        except Stopped:
            pass  # Made up for when the run goes on.
    # First: what is logged before the checkpoint is not logged again behind it.
    log.send()
    checkpoints.save(state, score)
    if pulse.stopping:
        checkpoints.wait()
        log.say(f"stopped at step {step:,}, all saved; the same command goes on from here")
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
