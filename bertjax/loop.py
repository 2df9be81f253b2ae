"""The training loop: it owns time. When to log, evaluate, save and stop is decided here alone."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax import partition
from bertjax.checkpoint import Checkpoints
from bertjax.errors import UserError
from bertjax.run_log import RunLog
from bertjax.state import TrainState
from bertjax.train_step import EvalStep, TrainStep

HostBatch = dict[str, np.ndarray]
# state -> (metrics to keep, score of the checkpoint or None)
Evaluate = Callable[[TrainState], tuple[dict[str, float], float | None]]


@dataclasses.dataclass(frozen=True)
class Timetable:
    """How many steps there are, and after how many something happens; all end with one.

    Raises:
      UserError: a number below 1.
    """

    total_steps: int
    log_every: int
    eval_every: int
    save_every: int

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")

    def due(self, step: int, every: int) -> bool:
        return step == self.total_steps or step % every == 0


class _Interval:
    """Collects the metrics of the steps since the last log line."""

    def __init__(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._tokens = self._positions = 0
        self._waited = 0.0
        self._start = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array], batch: HostBatch, waited: float) -> None:
        self._metrics.append(metrics)
        # Compact records tell how long a row is, the others where it is padded.
        real = batch["lengths"] if "lengths" in batch else batch["input_mask"]
        self._tokens += int(real.sum())
        self._positions += batch["input_ids"].size
        self._waited += waited

    def leave_out(self, seconds: float) -> None:
        """Takes time that was not spent on training out of the rates."""
        self._start += seconds

    def close(self, steps_left: int) -> dict[str, float]:
        """Averages and rates; waits for the devices."""
        values = jax.device_get(self._metrics)
        seconds = time.perf_counter() - self._start
        averages = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
        return averages | {
            # Every process sees its own rows; all have about as many.
            "tokens_per_second": self._tokens * jax.process_count() / seconds,
            "padding_share": 1 - self._tokens / self._positions,
            "input_wait_share": self._waited / seconds,
            "seconds_per_step": seconds / len(values),
            "eta_seconds": seconds / len(values) * steps_left,
        }


class _StopSignal:
    """Remembers that SIGTERM came, so that the step under way can be finished and saved."""

    def __init__(self) -> None:
        self.received = False
        self._before = signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def restore(self) -> None:
        signal.signal(signal.SIGTERM, self._before)


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
) -> TrainState:
    """Trains from the state's step to the last one.

    In every step, in this order: batch, update, log, evaluate, save, stop if asked to.

    Raises:
      UserError: the loss is not finite.
      SystemExit: with 143 after SIGTERM, when the state is saved.
    """
    stop = _StopSignal()
    interval = _Interval()
    step = int(state.step)
    previous: Any = None
    try:
        while step < timetable.total_steps:
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            state, metrics = train_step(state, partition.global_batch(batch, mesh))
            step += 1
            interval.add(metrics, batch, waited)
            # One step is queued while another runs; more would only pile up batches.
            jax.block_until_ready(previous)
            previous = metrics["loss"]

            if timetable.due(step, timetable.log_every):
                averages = interval.close(timetable.total_steps - step)
                _check_finite(step, averages["loss"])
                log.write(step, averages)
                interval = _Interval()
            score = None
            evaluated = evaluate is not None and timetable.due(step, timetable.eval_every)
            if evaluate is not None and evaluated:
                began = time.perf_counter()
                found, score = evaluate(state)
                log.keep(step, found)
                interval.leave_out(time.perf_counter() - began)
            if evaluated or timetable.due(step, timetable.save_every) or stop.received:
                _check_finite(step, float(metrics["loss"]))
                checkpoints.save(state, score)
            if stop.received:
                log.say(f"stopped at step {step:,}, all saved; the same command goes on from here")
                raise SystemExit(143)
    finally:
        stop.restore()
    return state


def _check_finite(step: int, loss: float) -> None:
    """Nothing that is not finite is ever saved."""
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is not finite at step {step:,}; start again in another --workdir with a "
            "lower learning rate or a longer warm-up"
        )


def evaluate_batches(
    eval_step: EvalStep, params: Any, batches: Iterator[HostBatch], mesh: Mesh
) -> dict[str, float]:
    """Averages over all batches: one sum over one count, every example once."""
    totals: Any = None
    for batch in batches:
        found = jax.device_get(eval_step(params, partition.global_batch(batch, mesh)))
        totals = found if totals is None else jax.tree.map(np.add, totals, found)
    sums, counts = totals
    return {
        f"{part}_{name}": float(value / max(counts[part], 1))
        for part, values in sums.items()
        for name, value in values.items()
    }
