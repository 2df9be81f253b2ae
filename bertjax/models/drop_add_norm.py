"""Layer normalisation of x + dropped(y), in one pass over memory on TPUs.

Written as arithmetic it is several passes: each sum over a row waits for the whole row, and random
bits are written and read again for the gradient. The kernel keeps rows in fast memory meanwhile and
draws the bits a second time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bertjax import partition, programs
from bertjax.models import kernels

# Tokens that a step of the grid reads, and that are worked on together.
_TOKENS, _TOGETHER = 512, 32
_MEMORY = 16 * 2**20
# Cycles of 1,024 numbers, forward and backward, as libtpu 0.0.42 schedules them (between those of
# length 128 and of 512, a tenth dropped). Memory takes longer.
_CYCLES = {
    kernels.V4: (14.7, 17.6),
    kernels.V5E: (7.2, 9.6),
    kernels.V5P: (7.5, 10.3),
    kernels.V6E: (6.1, 8.9),
}


def fits(length: int, width: int) -> bool:
    """Whether rows of so many tokens of a width fill the chip's registers."""
    return length % _TOGETHER == 0 and length <= 2 * _TOKENS and width % kernels.LANES == 0


def drop_add_norm(
    x: Array,
    added: Array,
    scale: Array,
    bias: Array,
    rng: Array | None,
    rate: float,
    epsilon: float,
) -> Array:
    """(s - mean(s)) / sqrt(var(s) + epsilon) * scale + bias, of s = x + dropped(added).

    Args:
      x, added: [B, T, D], see fits.
      scale, bias: [D] float32.
      rng: None: nothing is dropped.
      rate: probability of dropping a value.
    """
    rate = 0.0 if rng is None else rate
    return _normal(x, added, scale, bias, kernels.seeds(rng if rate else None), rate, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _normal(
    x: Array, added: Array, scale: Array, bias: Array, seeds: Array, rate: float, epsilon: float
) -> Array:
    return _forward(x, added, scale, bias, seeds, rate, epsilon)[0]


def _forward(
    x: Array, added: Array, scale: Array, bias: Array, seeds: Array, rate: float, epsilon: float
) -> tuple[Array, tuple[Array, ...]]:
    kernel = functools.partial(_forward_kernel, rate=rate, epsilon=epsilon)
    normal, total = _over_mesh(kernel, 0, seeds, [scale, bias], [x, added], [x, x])
    return normal, (total, scale, seeds)


def _backward(
    rate: float, epsilon: float, saved: tuple[Array, ...], slope: Array
) -> tuple[Array | None, ...]:
    total, scale, seeds = saved
    kernel = functools.partial(_backward_kernel, rate=rate, epsilon=epsilon)
    outputs = [slope] * (2 if rate else 1)
    *slopes, sums = _over_mesh(kernel, 1, seeds, [scale], [total, slope], outputs)
    # [steps, 2, 8, D] -> [2, D]
    scale_slope, bias_slope = sums.sum(axis=(0, 2))
    return slopes[0], slopes[-1], scale_slope, bias_slope, None


_normal.defvjp(_forward, _backward)


def _each(
    seeds: Any, block: Any, rate: float, work: Callable[[tuple[Any, Any], Callable[..., Any]], None]
) -> None:
    """Calls work with places of some tokens of a block [rows, T, D], and what drops from them."""
    rows, length, _ = block.shape
    first = seeds[1] + pl.program_id(0) * rows

    def row(r: Any, _: None) -> None:
        if rate and kernels.on_tpu():
            pltpu.prng_seed(seeds[0], first + r)

        def tokens(t: Any, _: None) -> None:
            def drop(x: Array) -> Array:
                if not rate:
                    return x
                stays = kernels.kept(x.shape, rate, (seeds[0], first + r, t))
                return jnp.where(stays, x * (1.0 / (1.0 - rate)), 0.0)

            work((r, pl.ds(pl.multiple_of(t * _TOGETHER, _TOGETHER), _TOGETHER)), drop)

        jax.lax.fori_loop(0, length // _TOGETHER, tokens, None)

    jax.lax.fori_loop(0, rows, row, None)


def _standard(total: Array, epsilon: float) -> tuple[Array, Array]:
    """[N, D] -> with mean 0 and variance 1 in each row, and [N, 1] what it was divided by."""
    centred = total - total.mean(axis=1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(axis=1, keepdims=True) + epsilon)
    return centred * inverse, inverse


def _forward_kernel(
    seeds: Any,
    scale: Any,
    bias: Any,
    x: Any,
    added: Any,
    normal: Any,
    sums: Any,
    rate: float,
    epsilon: float,
) -> None:
    def work(place: tuple[Any, Any], drop: Callable[[Array], Array]) -> None:
        total = x[place].astype(jnp.float32) + drop(added[place].astype(jnp.float32))
        sums[place] = total.astype(sums.dtype)
        standard, _ = _standard(total, epsilon)
        normal[place] = (standard * scale[...] + bias[...]).astype(normal.dtype)

    _each(seeds, x, rate, work)


def _backward_kernel(
    seeds: Any, scale: Any, total: Any, slope: Any, *outputs: Any, rate: float, epsilon: float
) -> None:
    """Outputs: slopes of x and, if some are dropped, of what is added; sums for scale and bias."""
    *slopes, sums = outputs
    sums[...] = jnp.zeros_like(sums)

    def work(place: tuple[Any, Any], drop: Callable[[Array], Array]) -> None:
        given = slope[place].astype(jnp.float32)
        standard, inverse = _standard(total[place].astype(jnp.float32), epsilon)
        # [N, D] -> [8, D]: whole registers are added up
        for which, part in enumerate((given * standard, given)):
            sums[0, which] += part.reshape(-1, kernels.SUBLANES, part.shape[1]).sum(axis=0)
        pulled = given * scale[...]
        along = (pulled * standard).mean(axis=1, keepdims=True)
        found = (pulled - pulled.mean(axis=1, keepdims=True) - standard * along) * inverse
        slopes[0][place] = found.astype(slope.dtype)
        if rate:
            slopes[1][place] = drop(found).astype(slope.dtype)

    _each(seeds, total, rate, work)


def _over_mesh(
    kernel: Any,
    backward: int,
    seeds: Array,
    vectors: Sequence[Array],
    arrays: Sequence[Array],
    outputs: Sequence[Any],
) -> Any:
    """Runs a kernel on every device's rows; what is dropped hangs on the rows' numbers."""

    def part(seeds: Array, numbers: Array, *rest: Array) -> Any:
        own = seeds.at[1].add(numbers[0])
        return _call(kernel, backward, own, rest[: len(vectors)], rest[len(vectors) :], outputs)

    whole, rows = partition.WHOLE, partition.ROWS_OF_BATCH
    batch = arrays[0].shape[0]
    kinds = [whole, rows, *[whole] * len(vectors), *[rows] * len(arrays)]
    run = programs.in_parts(part, kinds, [rows] * (len(outputs) + backward), batch, 1)
    return run(seeds, jnp.arange(batch, dtype=jnp.int32), *vectors, *arrays)


def _call(
    kernel: Any,
    backward: int,
    seeds: Array,
    vectors: Sequence[Array],
    arrays: Sequence[Array],
    outputs: Sequence[Any],
) -> Any:
    batch, length, width = arrays[0].shape
    rows = math.gcd(batch, max(1, _TOKENS // length))
    block = pl.BlockSpec((rows, length, width), lambda step, *_: (step, 0, 0))
    vector = pl.BlockSpec((1, width), lambda step, *_: (0, 0))
    shapes = [jax.ShapeDtypeStruct(arrays[0].shape, out.dtype) for out in outputs]
    blocks = [block] * len(shapes)
    if backward:
        # Of every step by itself, as steps may run on several cores.
        sums = (2, kernels.SUBLANES, width)
        shapes.append(jax.ShapeDtypeStruct((batch // rows, *sums), jnp.float32))
        blocks.append(pl.BlockSpec((1, *sums), lambda step, *_: (step, 0, 0, 0)))
    cycles = kernels.of_chip(_CYCLES)[backward] * math.prod(arrays[0].shape) / 1024
    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch // rows,),
            in_specs=[vector] * len(vectors) + [block] * len(arrays),
            out_specs=blocks,
        ),
        out_shape=shapes,
        compiler_params=kernels.parameters(_MEMORY),
        interpret=not kernels.on_tpu(),
        name=kernels.named("drop_add_norm", backward, round(cycles)),
    )(seeds, *(vector[None] for vector in vectors), *arrays)
