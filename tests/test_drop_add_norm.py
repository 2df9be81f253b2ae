"""The kernel of dropout, sum and norm does what its arithmetic says; here it is interpreted."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from bertjax import partition, programs, shares
from bertjax.models import flash
from bertjax.models.drop_add_norm import drop_add_norm

EPSILON = 1e-12


def _arrays(rows: int) -> list[jax.Array]:
    """x, added, scale, bias and the slope of the result; rows of 64 tokens of width 128."""
    rng = np.random.default_rng(0)
    shapes = [(rows, 64, 128)] * 2 + [(128,)] * 2 + [(rows, 64, 128)]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def _run(arrays: list[jax.Array], rng: jax.Array | None, rate: float) -> Any:
    def normal(*inputs: jax.Array) -> jax.Array:
        return drop_add_norm(*inputs, rng, rate, EPSILON)

    @jax.jit
    def both(arrays: list[jax.Array]) -> Any:
        found, pull = jax.vjp(normal, *arrays[:4])
        return [found, *pull(arrays[4])]

    return both(arrays)


def _plain(x: jax.Array, added: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    total = x + added
    centred = total - total.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True)) * scale + bias


def test_values_and_slopes_are_those_of_the_arithmetic() -> None:
    arrays = _arrays(3)
    found, pull = jax.vjp(_plain, *arrays[:4])
    wanted = [found, *pull(arrays[4])]
    for part, expected in zip(_run(arrays, None, 0.5), wanted, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-4)


def test_what_is_dropped_forward_is_dropped_backward() -> None:
    arrays, rng, rate = _arrays(2), jax.random.key(3), 0.25
    arrays[0], arrays[3] = jnp.zeros_like(arrays[0]), jnp.zeros_like(arrays[3])
    # Of zeros and ones: what is kept has the larger of two values.
    ones = [arrays[0], jnp.ones_like(arrays[1]), jnp.ones(128), *arrays[3:]]
    normal, x_slope, added_slope, *_ = _run(ones, rng, rate)
    kept = np.asarray(normal) > 0
    assert kept.mean() == pytest.approx(1 - rate, abs=0.01)
    assert not np.array_equal(kept[0], kept[1])
    np.testing.assert_allclose(added_slope, np.where(kept, x_slope / (1 - rate), 0.0), rtol=1e-5)
    # With the kept ones known, it is the plain arithmetic.
    masked = np.where(kept, arrays[1] / (1 - rate), 0.0)
    expected = _plain(arrays[0], masked, *arrays[2:4])
    np.testing.assert_allclose(_run(arrays, rng, rate)[0], expected, rtol=1e-4, atol=1e-4)
    assert not np.array_equal(np.asarray(_run(ones, jax.random.key(4), rate)[0]) > 0, kept)


def test_devices_drop_what_one_would() -> None:
    arrays, rng = _arrays(8), jax.random.key(5)
    wanted = _run(arrays, rng, 0.1)
    mesh = partition.make_mesh(data=2, fsdp=4)
    rows = shares.batch_sharding(mesh)
    for place in (0, 1, 4):
        arrays[place] = jax.device_put(arrays[place], rows)
    for part, expected in zip(programs.knowing(mesh, _run)(arrays, rng, 0.1), wanted, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-4)


def test_kernels_tell_the_cycles_of_the_chip_that_is_compiled_for() -> None:
    told = {}
    for kind in ("TPU v4", "TPU v5 lite", "a chip to come"):
        device = AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
        mesh = AbstractMesh((1,), ("data",), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            told[kind] = flash.cycles(1, 8, 512, 12)
    assert told["TPU v4"] > 1.2 * told["TPU v5 lite"]
    assert told["a chip to come"] == told["TPU v5 lite"]
