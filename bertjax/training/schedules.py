"""Learning rates: a linear warm-up, then one of several ways down; again in every stretch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bertjax.settings import choose


class Stretch(NamedTuple):
    """The numbers of a schedule over a stretch of the run.

    Attributes:
      peak: the highest rate.
      warmup_steps: how long the rate grows, linearly from 0.
      total_steps: how long the stretch is, warm-up and all.
      decay_share: the last part of the stretch, in which "wsd" falls.
      first_step: where it begins.
    """

    peak: float | Array
    warmup_steps: int | Array
    total_steps: int | Array
    decay_share: float | Array = 0.1
    first_step: int | Array = 0


def _left(step: Array, stretch: Stretch) -> Array:
    """1 - step / total, of the whole stretch: what the warm-up took is no longer left behind it."""
    left = jnp.maximum(stretch.total_steps - step, 0)
    return left / jnp.maximum(stretch.total_steps, 1)


def _cosine(step: Array, stretch: Stretch) -> Array:
    left = jnp.maximum(stretch.total_steps - step, 0)
    # 1 when the warm-up is over.
    share = left / jnp.maximum(stretch.total_steps - stretch.warmup_steps, 1)
    return (1 - jnp.cos(jnp.pi * share)) / 2


def _stable_then_down(step: Array, stretch: Stretch) -> Array:
    share = (stretch.total_steps - step) / (stretch.decay_share * stretch.total_steps)
    return jnp.clip(share, 0.0, 1.0)


def _inverse_root(step: Array, stretch: Stretch) -> Array:
    return jnp.sqrt(jnp.maximum(stretch.warmup_steps, 1) / (step + 1))


# name -> (step of the stretch, behind the warm-up; its numbers) -> share of the peak.
SCHEDULES: dict[str, Callable[[Array, Stretch], Array]] = {
    # Devlin et al. 2018, appendix A.2: polynomial_decay in optimization.py of their code.
    "linear": _left,
    # Loshchilov and Hutter 2017, without restarts.
    "cosine": _cosine,
    # Warm-up, stable, decay: Hu et al. 2024 (MiniCPM).
    "wsd": _stable_then_down,
    # The root of it, with which LAMB's recipe is run in NVIDIA's examples (PolyWarmUpScheduler).
    "sqrt": lambda step, stretch: jnp.sqrt(_left(step, stretch)),
    # Vaswani et al. 2017: without an end.
    "inverse_sqrt": _inverse_root,
}


class Schedule(NamedTuple):
    """A key of SCHEDULES, and the stretches that follow one another."""

    name: str
    stretches: tuple[Stretch, ...]

    def rate(self, step: Array) -> Array:
        """The rate of a step, which is counted from 0.

        Step i of a warm-up uses the rate of i + 1, so that the first step is not lost (in the code
        of 2018 it is).
        """
        fall = choose(SCHEDULES, self.name, "train.schedule")

        def inside(stretch: Stretch) -> Array:
            done = step - stretch.first_step
            rising = (done + 1) / jnp.maximum(stretch.warmup_steps, 1)
            return stretch.peak * jnp.where(
                done < stretch.warmup_steps, rising, fall(done, stretch)
            )

        rate = inside(self.stretches[0])
        for stretch in self.stretches[1:]:
            rate = jnp.where(step < stretch.first_step, rate, inside(stretch))
        return rate


def linear(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """The schedule of 2018: up to the peak, then the line from it at 0 to 0 at total_steps.

    So from the end of the warm-up on the rate is peak * (1 - step / total_steps).
    """
    return Schedule("linear", (Stretch(peak, warmup_steps, total_steps),))


class _Scheduled(NamedTuple):
    step: Array
    stretches: tuple[Stretch, ...]


def scale_by_schedule(schedule: Schedule) -> optax.GradientTransformation:
    """Multiplies updates by minus the rate.

    Unlike in optax, the schedule's numbers are part of the state and not of the program, so that
    runs which differ only in them share one compiled step.
    """

    def init(params: Any) -> _Scheduled:
        del params
        numbers = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), schedule.stretches)
        return _Scheduled(jnp.zeros((), jnp.int32), numbers)

    def update(updates: Any, state: _Scheduled, params: Any = None) -> tuple[Any, _Scheduled]:
        del params
        rate = Schedule(schedule.name, state.stretches).rate(state.step)
        scaled = jax.tree.map(lambda u: -rate * u, updates)
        return scaled, _Scheduled(state.step + 1, state.stretches)

    return optax.GradientTransformation(init, update)
