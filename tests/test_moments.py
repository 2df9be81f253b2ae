"""Moments in bfloat16 follow those in float32; rounding at random is what lets them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax.training.moments import rounded_at_random, scale_by_adam


def second_moment(dtype: object, scales: np.ndarray) -> float:
    """The mean of v after gradients of the given sizes, one a step."""
    adam = scale_by_adam(correct=True, dtype=dtype)
    draws = np.random.default_rng(0).normal(size=(len(scales), 512)).astype(np.float32)
    gradients = jnp.asarray(draws * scales[:, None])

    def update(state: object, gradient: jax.Array) -> tuple[object, None]:
        return adam.update(gradient, state)[1], None

    start = adam.init(jnp.zeros(512))
    return float(jax.lax.scan(update, start, gradients)[0].square.astype(jnp.float32).mean())


def test_the_second_moment_in_bfloat16_rises_and_falls_as_in_float32() -> None:
    scales = np.concatenate([np.full(2000, 1.0), np.full(2000, 0.1)]).astype(np.float32)
    for steps in (2000, 4000):
        exact = second_moment(jnp.float32, scales[:steps])
        assert abs(second_moment(jnp.bfloat16, scales[:steps]) / exact - 1) < 0.02
    # What rounding to the nearest would do: 0.999 v is v again, for good.
    v = jnp.bfloat16(1.0)
    assert (v.astype(jnp.float32) * 0.999).astype(jnp.bfloat16) == v


def test_random_rounding_is_exact_on_average_and_reaches_both_neighbours() -> None:
    x = jnp.full((400, 500), 1.0 + 0.3 * 2**-7)
    found = np.asarray(rounded_at_random(x, jnp.int32(7), jnp.bfloat16), np.float32)
    assert set(np.unique(found)) == {1.0, 1.0 + 2**-7}
    up = (found > 1).mean()
    assert abs(up - 0.3) < 5 * np.sqrt(0.3 * 0.7 / x.size)
    # Rows, columns and steps are drawn by themselves.
    for axis in (0, 1):
        spread = (found > 1).mean(axis=axis).std()
        expected = np.sqrt(0.3 * 0.7 / x.shape[axis])
        assert 0.8 < spread / expected < 1.2
    other = np.asarray(rounded_at_random(x, jnp.int32(8), jnp.bfloat16), np.float32)
    assert abs(((other > 1) & (found > 1)).mean() - 0.09) < 0.005


def test_what_bfloat16_holds_is_not_touched() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.bfloat16)
    found = rounded_at_random(x.astype(jnp.float32), jnp.int32(1), jnp.bfloat16)
    np.testing.assert_array_equal(found, x)


def test_a_step_is_computed_before_its_moments_are_rounded() -> None:
    gradient = jnp.asarray(np.random.default_rng(0).normal(size=100), jnp.float32)
    wide, narrow = (scale_by_adam(correct=True, dtype=d) for d in (jnp.float32, jnp.bfloat16))
    first, second = (tx.update(gradient, tx.init(gradient))[0] for tx in (wide, narrow))
    np.testing.assert_array_equal(first, second)
    assert optax.tree.norm(first) > 1
