"""Learning rates: each schedule's claim, stretches, and numbers that are data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.training.optimizer import make_optimizer
from bertjax.training.schedules import SCHEDULES, Schedule, Stretch, linear


def rates(schedule: Schedule, steps: int) -> np.ndarray:
    """[steps] rates, each computed by itself."""
    return np.asarray(jax.vmap(schedule.rate)(jnp.arange(steps, dtype=jnp.int32)))


def test_linear_rises_to_the_peak_and_falls_to_zero() -> None:
    schedule = linear(1e-4, warmup_steps=10, total_steps=110)
    rates = [float(schedule.rate(np.int32(step))) for step in range(111)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[4] == pytest.approx(5e-5)
    assert rates[9] == pytest.approx(max(rates)) == pytest.approx(1e-4)
    assert rates[10] == pytest.approx(1e-4 * 100 / 110)
    assert rates[55] == pytest.approx(5e-5)
    assert rates[109] == pytest.approx(1e-4 / 110, rel=1e-5)
    assert rates[110] == 0.0
    assert float(schedule.rate(np.int32(1000))) == 0.0


def of_2018(peak: float, step: int, warmup: int, total: int) -> float:
    """create_optimizer of google-research/bert, but for the first step, which moves nothing there:
    polynomial_decay to 0 with power 1, and the warm-up in its place as long as it takes."""
    decayed = peak * (1 - step / total)
    return peak * (step + 1) / warmup if step < warmup else decayed


def of_nvidia(peak: float, step: int, warmup: int, total: int) -> float:
    """PolyWarmUpScheduler of NVIDIA's BERT in PyTorch, but for its last step, which moves nothing
    there: behind the warm-up, too, it counts steps from 1."""
    return peak * (step + 1) / warmup if step < warmup else peak * (1 - step / total) ** 0.5


@pytest.mark.parametrize(("warmup", "total"), [(10_000, 1_000_000), (36, 360), (0, 50)])
@pytest.mark.parametrize(("name", "source"), [("linear", of_2018), ("sqrt", of_nvidia)])
def test_rates_are_those_of_the_sources(
    name: str, source: Callable[..., float], warmup: int, total: int
) -> None:
    """In pretraining, in fine-tuning and without a warm-up; the last steps, too, to 6 digits."""
    schedule = Schedule(name, (Stretch(2e-4, warmup, total),))
    steps = {0, warmup // 2, warmup - 1, warmup, warmup + 1, total // 2, total - 2, total - 1}
    for step in steps - {-1}:
        expected = source(2e-4, step, warmup, total)
        assert float(schedule.rate(np.int32(step))) == pytest.approx(expected, rel=1e-6), step


@pytest.mark.parametrize("warmup", [0, 1])
def test_schedule_without_warm_up_begins_at_the_peak(warmup: int) -> None:
    assert float(linear(1e-4, warmup, 100).rate(np.int32(0))) == pytest.approx(1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_warms_up_alike_and_never_rises_again(name: str) -> None:
    found = rates(Schedule(name, (Stretch(2e-3, 20, 200),)), 200)
    np.testing.assert_allclose(found[:20], 2e-3 * np.arange(1, 21) / 20, rtol=1e-5)
    assert found.max() == pytest.approx(2e-3)
    assert (np.diff(found[20:]) <= 1e-9).all()


def test_shapes_of_the_schedules() -> None:
    """100 steps without warm-up; the shares of the peak at a quarter, a half and at the end."""
    expected = {
        "linear": (0.75, 0.5, 0.0),
        "cosine": ((1 + np.sqrt(0.5)) / 2, 0.5, 0.0),
        "wsd": (1.0, 1.0, 0.0),
        "sqrt": (np.sqrt(0.75), np.sqrt(0.5), 0.0),
        "inverse_sqrt": (1 / np.sqrt(26), 1 / np.sqrt(51), 1 / np.sqrt(101)),
    }
    assert expected.keys() == SCHEDULES.keys()
    for name, shares in expected.items():
        found = rates(Schedule(name, (Stretch(1.0, 0, 100),)), 101)
        np.testing.assert_allclose(found[[25, 50, 100]], shares, atol=1e-6, err_msg=name)


def test_wsd_falls_in_the_last_share_of_the_steps() -> None:
    found = rates(Schedule("wsd", (Stretch(1.0, 10, 100, decay_share=0.2),)), 101)
    np.testing.assert_allclose(found[10:81], 1.0)
    np.testing.assert_allclose(found[80:], np.linspace(1, 0, 21), atol=1e-6)


def test_a_second_stretch_warms_up_again() -> None:
    """As LAMB's recipe does at the switch to length 512 (You et al. 2020, section 4.1)."""
    begin, rest = Stretch(6e-3, 20, 70), Stretch(4e-3, 4, 16, first_step=70)
    found = rates(Schedule("sqrt", (begin, rest)), 87)
    np.testing.assert_allclose(found[:70], rates(Schedule("sqrt", (begin,)), 70))
    alone = rates(Schedule("sqrt", (rest._replace(first_step=0),)), 17)
    np.testing.assert_allclose(found[70:], alone)
    assert found[70] == pytest.approx(1e-3)
    assert found[73] == pytest.approx(4e-3)


def test_runs_with_other_rates_share_one_program() -> None:
    """The numbers of the schedule are data: the update is traced and compiled once."""
    tree = {"kernel": jnp.full((3, 3), 0.1)}
    traced = []

    @jax.jit
    def update(gradients: Any, state: Any) -> Any:
        traced.append(1)
        return make_optimizer("adam2018", linear(0, 0, 0)).update(gradients, state, tree)[0]

    moved = []
    for rate in (0.1, 0.2):
        state = make_optimizer("adam2018", linear(rate, 0, 10)).init(tree)
        moved.append(np.abs(update(tree, state)["kernel"]))
    assert len(traced) == 1
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-5)
