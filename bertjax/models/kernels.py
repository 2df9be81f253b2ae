"""What the TPU kernels share: where they run, and random numbers within them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import tpu as pltpu

from bertjax import programs

# Of a register of vectors.
LANES, SUBLANES = 128, 8
# Device kinds of the chips whose kernels' cycles were counted (benchmarks/kernel_cycles.py).
V4, V5E, V5P, V6E = "TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite"
T = TypeVar("T")


def on_tpu() -> bool:
    """Elsewhere kernels are interpreted: slow, but right."""
    return programs.platform() == "tpu"


def parameters(memory: int) -> Any:
    """Of a kernel whose steps may run in any order, on all cores; it may use so many bytes."""
    return pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=memory)


def seeds(rng: Array | None) -> Array:
    """[2] int32 of a random key; zeros where nothing is drawn."""
    if rng is None:
        return jnp.zeros(2, jnp.int32)
    return jax.random.key_data(rng)[:2].astype(jnp.int32)


def kept(shape: tuple[int, ...], rate: float, place: Sequence[Any]) -> Array:
    """Which values are kept, drawn by the chip; where there is none, hashed from a place.

    The chip's generator is to be seeded before, by the same place or what determines it.
    """
    if on_tpu():
        bits = pltpu.bitcast(pltpu.prng_random_bits(shape), jnp.uint32)
    else:
        bits = jax.lax.broadcasted_iota(jnp.uint32, shape, 0) * jnp.uint32(shape[1])
        bits += jax.lax.broadcasted_iota(jnp.uint32, shape, 1)
        for number in (*place, 0):
            # The finalizer of MurmurHash3.
            bits = (bits ^ jnp.uint32(number)) * jnp.uint32(0x85EBCA6B)
            bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
            bits ^= bits >> 16
    return bits < jnp.uint32(round((1.0 - rate) * 2**32))


def of_chip(table: Mapping[str, T]) -> T:
    """The row of the chip that is traced for, by its device kind; v5e's where there is none."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return table.get(device.device_kind if device else V5E, table[V5E])


def named(name: str, backward: int, cycles: int) -> str:
    """The name of a kernel, which tells its cycles of a run to hlo_cost: the compiler does not.

    Args:
      backward: 0 forward, 1 backward.
      cycles: of one core, counted in the schedule that the compiler made of it.
    """
    return f"{name}_{('forward', 'backward')[backward]}_of_{cycles}_cycles"
