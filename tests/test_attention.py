"""All ways to compute attention agree, in values, gradients and on packed rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import partition, programs, shares
from bertjax.errors import UserError
from bertjax.models import attention
from bertjax.models.config import KERNELS
from bertjax.models.reach import How, Reach

Arrays = list[jax.Array]


def _arrays(*shape: int) -> Arrays:
    """Queries, keys, values, and the slope of the result; heads' scores are a few units large.

    Args:
      shape: B, T, H, K.
    """
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(4)]


def _numbers(rows: int, length: int, packed: bool) -> jax.Array:
    """Three sequences and padding, or one; every row has its own ends."""
    ends = np.linspace(0.2, 0.9, 3)[:, None, None] * length + 7 * np.arange(rows)[None, :, None]
    place = np.arange(length)
    found = 1 + (place >= ends[:2]).sum(axis=0) if packed else np.ones((rows, length), int)
    return jnp.asarray(np.where(place < ends[2], found, 0), jnp.int32)


def _attend(
    name: str, arrays: Arrays, numbers: jax.Array, rng: jax.Array | None, how: How, apart: bool
) -> jax.Array:
    """Of queries, keys and values that stand apart, or side by side."""
    flat = [x.reshape(*x.shape[:2], -1) for x in arrays]
    qkv = flat if apart else [jnp.concatenate(flat, axis=-1)]
    return attention.attend(name, qkv, numbers, rng, how).reshape(arrays[0].shape)


def _run(name: str, arrays: Arrays, numbers: jax.Array, how: How, apart: bool = True) -> Arrays:
    """The result and the slopes of queries, keys and values."""

    def attend(*qkv: jax.Array) -> jax.Array:
        return _attend(name, list(qkv), numbers, None, how, apart)

    @jax.jit
    def both(arrays: Arrays) -> Any:
        mixed, pull = jax.vjp(attend, *arrays[:3])
        return [mixed, *pull(arrays[3])]

    return both(arrays)


@pytest.mark.parametrize("name", ["dot_product", "flash"])
@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((2, 128, 4, 32), How(4)),
        ((2, 128, 2, 64), How(2, packed=True)),
        ((2, 256, 2, 64), How(2, reach=Reach(causal=True))),
        ((2, 256, 2, 128), How(2, reach=Reach(window=50))),
    ],
)
def test_all_give_what_einsum_gives(name: str, shape: tuple[int, ...], how: How) -> None:
    arrays, numbers = _arrays(*shape), _numbers(*shape[:2], how.packed)
    real = np.asarray(numbers > 0)
    # What padding attends to is nobody's business, and nothing hangs on it.
    arrays[3] *= real[..., None, None]
    wanted = _run("einsum", arrays, numbers, how)
    # Both arrangements, in turn.
    apart = how.packed or how.reach.causal
    for found, expected in zip(_run(name, arrays, numbers, how, apart), wanted, strict=True):
        np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=5e-5)


def test_what_the_kernel_drops_forward_it_drops_backward() -> None:
    query, key, value, slope = _arrays(3, 128, 2, 64)
    numbers, rng = _numbers(3, 128, False), jax.random.key(5)

    @jax.jit
    def run(query: jax.Array, rng: jax.Array) -> Any:
        def attend(query: jax.Array, value: jax.Array) -> jax.Array:
            return _attend("flash", [query, key, value], numbers, rng, How(2, rate=0.25), False)

        mixed, pull = jax.vjp(attend, query, value)
        return mixed, *pull(slope)

    mixed, query_slope, value_slope = run(query, rng)
    # The result is linear in the values.
    assert np.vdot(slope, mixed) == pytest.approx(np.vdot(value, value_slope), rel=1e-4)
    step = 1e-3 * np.sign(query_slope)
    rise = np.vdot(slope, run(query + step, rng)[0] - run(query - step, rng)[0]) / 2
    assert rise == pytest.approx(np.vdot(step, query_slope), rel=1e-2)
    assert np.array_equal(run(query, rng)[0], mixed)
    assert not np.allclose(run(query, jax.random.key(6))[0], mixed)


def test_the_kernel_drops_at_its_rate_and_keeps_the_mean() -> None:
    zeros, ones = jnp.zeros((2, 128, 4, 32)), jnp.ones((2, 128, 4, 32))
    numbers = jnp.ones((2, 128), jnp.int32)
    found = _attend(
        "flash", [zeros, zeros, ones], numbers, jax.random.key(0), How(4, rate=0.3), True
    )
    # Every query of every head: the share of its 128 weights that are kept, over 0.7.
    shares = np.asarray(found[..., 0]) * 0.7
    assert shares.mean() == pytest.approx(0.7, abs=0.005)
    assert shares.std() == pytest.approx((0.3 * 0.7 / 128) ** 0.5, rel=0.1)
    assert not np.allclose(shares[0], shares[1])


def test_devices_compute_their_own_rows_and_heads() -> None:
    arrays, how = _arrays(4, 128, 4, 64), How(4)
    numbers = _numbers(4, 128, False)
    mesh = partition.make_mesh(data=2, fsdp=2, tensor=2)
    wanted = _run("flash", arrays, numbers, how)
    arrays, numbers = jax.device_put((arrays, numbers), shares.batch_sharding(mesh))
    found = programs.knowing(mesh, _run)("flash", arrays, numbers, how)
    for part, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-6)


def test_auto_takes_what_suits_and_a_name_is_taken_at_its_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def named(name: str) -> attention.Implementation:
        kind = attention.ATTENTIONS[name]
        return kind._replace(attend=lambda *arguments: name)

    monkeypatch.setattr(
        attention, "ATTENTIONS", {name: named(name) for name in attention.ATTENTIONS}
    )
    taken = {}
    for platform in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(programs, "platform", lambda platform=platform: platform)
        for length in (128, 100):
            qkv = [jnp.zeros((1, length, 3 * 2 * 64))]
            taken[platform, length] = attention.attend("auto", qkv, None, None, How(2))
    assert taken == {
        ("cpu", 128): "einsum",
        ("cpu", 100): "einsum",
        ("gpu", 128): "dot_product",
        ("gpu", 100): "dot_product",
        ("tpu", 128): "flash",
        ("tpu", 100): "einsum",
    }
    with pytest.raises(UserError, match="rows of 100 tokens.*set model.attention_kernel=auto"):
        attention.attend("flash", qkv, None, None, How(2))
    assert ("auto", *attention.ATTENTIONS) == KERNELS
