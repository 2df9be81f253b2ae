"""How fast a run is: what its steps say on average, and where the time goes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np

from bertjax.training import chips
from bertjax.training.run_log import History

HostBatch = dict[str, np.ndarray]
_GIB = 2**30
# Of the whole process; JAX tells of every program that it compiles or loads.
_COMPILE = "/jax/core/compile/backend_compile_duration"
_compiled = [0]


def _heard(event: str, duration_secs: float, **_: str | int) -> None:
    _compiled[0] += event == _COMPILE


jax.monitoring.register_event_duration_secs_listener(_heard)


class Meter:
    """Collects the steps since the last log line.

    Args:
      rows: how many rows of the global batch stand for one of this process's.
      flops: operations that the model's arithmetic takes for a batch of this process.
    """

    def __init__(
        self, history: History, rows: float = 1.0, flops: Callable[[HostBatch], float] | None = None
    ) -> None:
        self._history, self._rows, self._flops_of = history, rows, flops
        self._trained = history.train_seconds
        self._begin()

    def _begin(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._tokens = self._positions = 0
        self._flops = self._waited = self._apart = 0.0
        self._start = time.perf_counter()

    @property
    def steps(self) -> int:
        """So many since the last line."""
        return len(self._metrics)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Around what is not training."""
        start = time.perf_counter()
        yield
        self._apart += time.perf_counter() - start

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Around the call of the step, which compiles it where it has a new shape."""
        start, known = time.perf_counter(), _compiled[0]
        yield
        if _compiled[0] > known:
            self._apart += time.perf_counter() - start

    def add(self, metrics: dict[str, jax.Array], batch: HostBatch) -> None:
        self._metrics.append(metrics)
        # Compact records tell how long a row is, the others where it is padded.
        real = batch["lengths"] if "lengths" in batch else batch["input_mask"]
        if "example_weights" in batch:  # An example has one row or, of choices, several.
            weights = batch["example_weights"]
            real = real.reshape(len(weights), -1)[weights > 0]
        self._tokens += int(real.sum())
        self._positions += batch["input_ids"].size
        if self._flops_of is not None:
            self._flops += self._flops_of(batch)

    def close(self, steps_left: int) -> dict[str, float]:
        """Averages and rates since the last call; waits for the devices."""
        values = jax.device_get(self._metrics)
        seconds = time.perf_counter() - self._start - self._apart
        self._trained += seconds - self._waited
        found = {
            **_averages(values),
            "tokens_per_second": self._tokens * self._rows / seconds,
            "padding_share": 1 - self._tokens / self._positions,
            "input_wait_share": self._waited / seconds,
            "seconds_per_step": seconds / len(values),
            "eta_seconds": seconds / len(values) * steps_left,
            "train_seconds": seconds - self._waited,
            "goodput": self._trained / (time.time() - self._history.started),
            **self._utilization(seconds),
            **memory(),
        }
        self._begin()
        return found

    def _utilization(self, seconds: float) -> dict[str, float]:
        if not self._flops:
            return {}
        device = self._flops * self._rows / seconds / jax.device_count()
        peak = chips.peak(jax.devices()[0])
        return {"teraflops_per_device": device / 1e12} | ({"mfu": device / peak} if peak else {})


def _averages(values: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Means over the steps, without those that were not measured or not finite; last of counts."""
    found = {}
    for name in values[0]:
        series = np.array([value[name] for value in values])
        if series.dtype.kind == "i":
            found[name] = float(series[-1])
        elif np.isfinite(series).any():
            found[name] = float(np.mean(series[np.isfinite(series)]))
    return found


def memory() -> dict[str, float]:
    """The most that this process and its fullest device have held so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB}
    held = [device.memory_stats() or {} for device in jax.local_devices()]
    used = [stats["peak_bytes_in_use"] for stats in held if "peak_bytes_in_use" in stats]
    return found | ({"device_memory_gib": max(used) / _GIB} if used else {})
