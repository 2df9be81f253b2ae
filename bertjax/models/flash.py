"""Attention as a TPU kernel: scores and weights live in fast memory only, forward and backward.

Scores are kept transposed, keys along sublanes and queries along lanes: then maxima and sums over
the keys are plain additions of registers, and products with 64 wide heads fill the matrix units.
Lanes are 128 wide, so heads narrower than that stand in groups; a head's part of a product is
picked by zeroing the others' lanes of one factor. Dropped weights are drawn by the chip's own
generator from a seed and the row's number, backward as forward; nothing of them is stored.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bertjax import partition, programs
from bertjax.models import kernels
from bertjax.models.kernels import LANES as _LANES
from bertjax.models.kernels import kept, on_tpu
from bertjax.models.reach import How

# Queries whose scores are worked on together.
_BLOCK = 128
# Tokens of the rows that a step of the grid works on, and of the groups of heads that are worked
# on as one piece of code.
_ROWS, _UNROLLED = 256, 768
_MEMORY = 32 * 2**20


def fits(length: int, heads: int, width: int) -> bool:
    """Whether rows of so many tokens and so many heads of a width fill the chip's registers."""
    whole = width % 32 == 0 and (_LANES % width == 0 or width % _LANES == 0)
    return whole and length % _BLOCK == 0 and heads * width % _LANES == 0


def _dot(x: Array, y: Array, contracted: tuple[int, int]) -> Array:
    axes = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)


def _lanes(width: int, how: How) -> int:
    """Lanes of a group of heads."""
    return max(_LANES, width // how.heads)


def _count(size: int) -> Array:
    return jnp.arange(size, dtype=jnp.int32)


def _head(x: Array, number: int, width: int) -> Array:
    """x [T, lanes] with the lanes of all other heads zeroed; on bits, as v5e has no bfloat16."""
    if x.shape[1] == width:
        return x
    words = pltpu.bitcast(x, jnp.uint32)
    lanes = jax.lax.broadcasted_iota(jnp.int32, words.shape, 1)
    ones = jnp.where(lanes // width == number, jnp.uint32(0xFFFFFFFF), jnp.uint32(0))
    return pltpu.bitcast(words & ones, x.dtype)


def _bias(sequences: Array, queries: Array, start: Any, how: How) -> Array:
    """[T, block]: 0 where a query may attend to a key, else a large negative number.

    Args:
      sequences: [1, T] int32 of the keys.
      queries: [1, block] int32.
      start: place of the first query.
    """
    # [1, T] -> [block, T] -> [T, block]
    keys = jnp.broadcast_to(sequences, (queries.shape[1], sequences.shape[1])).T
    may = keys > 0
    if how.packed:
        may &= keys == queries
    # From the query to the key.
    steps = jax.lax.broadcasted_iota(jnp.int32, keys.shape, 0) - start
    steps -= jax.lax.broadcasted_iota(jnp.int32, keys.shape, 1)
    if how.reach.causal:
        may &= steps <= 0
    if how.reach.window:
        may &= jnp.abs(steps) <= how.reach.window // 2
    return jnp.where(may, 0.0, -1e9)


def _weights(key: Array, query: Array, bias: Array) -> tuple[Array, Array]:
    """exp(scores - their maximum) [T, block] and their sums over the keys [1, block]."""
    scores = _dot(key, query, (1, 1)) + bias
    weights = jnp.exp(scores - scores.max(axis=0, keepdims=True))
    return weights, weights.sum(axis=0, keepdims=True)


def _times(count: int, body: Callable[[Any], None], together: int = 1) -> None:
    """body(0), body(1), ...; so many `together` as one piece of straight code."""

    def step(index: Any, carry: None) -> None:
        body(index)

    jax.lax.fori_loop(0, count, step, None, unroll=max(1, min(count, together)))


def _slice(index: Any, size: int) -> Any:
    return pl.ds(pl.multiple_of(index * size, size), size)


class _Place(NamedTuple):
    """Row, number and slice of a block of queries, lanes of a group of heads; the row's seeds."""

    row: Any
    number: Any
    block: Any
    lanes: Any
    seeds: tuple[Any, Any]

    def key(self, head: int) -> tuple[Any, ...]:
        """What tells the weights of a head of the group from all others."""
        return (*self.seeds, self.block.start, self.lanes.start + head)


def _each(
    seeds: Any, sequences: Any, query: Any, bias: Any, how: How, work: Callable[[_Place], None]
) -> None:
    """Calls work for all places of a step of the grid, with the block's bias filled in.

    Args:
      seeds: [2] int32.
      sequences: [rows, 1, T] int32.
      query: [rows, T, D].
      bias: [T, block].
    """
    rows, length, width = query.shape
    lanes = _lanes(width, how)
    first = seeds[1] + pl.program_id(0) * rows

    def row(r: Any) -> None:
        own = (seeds[0], first + r)
        if how.rate and on_tpu():
            pltpu.prng_seed(*own)

        def block(b: Any) -> None:
            where = _slice(b, _BLOCK)
            bias[...] = _bias(sequences[r], sequences[r, :, where], where.start, how)
            together = _UNROLLED // length
            _times(
                width // lanes, lambda g: work(_Place(r, b, where, _slice(g, lanes), own)), together
            )

        _times(length // _BLOCK, block)

    _times(rows, row)


def _forward_kernel(
    seeds: Any, sequences: Any, query: Any, key: Any, value: Any, mixed: Any, bias: Any, how: How
) -> None:
    head = query.shape[2] // how.heads

    def work(place: _Place) -> None:
        row, _, block, lanes, _ = place
        q, k = query[row, block, lanes], key[row, :, lanes]
        # [T, lanes] -> [lanes, T]
        turned = value[row, :, lanes].astype(jnp.float32).T
        parts = []
        for number in range(turned.shape[0] // head):
            weights, sums = _weights(_head(k, number, head), q, bias[...])
            if how.rate:
                weights = jnp.where(kept(weights.shape, how.rate, place.key(number)), weights, 0.0)
            own = turned[number * head : (number + 1) * head].astype(q.dtype)
            # [K, T] x [T, block] -> [K, block]
            part = _dot(own, weights.astype(q.dtype), (1, 0))
            parts.append(part / (sums * (1.0 - how.rate)))
        mixed[row, block, lanes] = jnp.concatenate(parts).T.astype(mixed.dtype)

    _each(seeds, sequences, query, bias, how, work)


def _backward_kernel(
    seeds: Any,
    sequences: Any,
    query: Any,
    key: Any,
    value: Any,
    slope: Any,
    *rest: Any,
    how: How,
    outputs: int,
) -> None:
    """Weights are computed again; slopes of keys and values add up over blocks of queries.

    Args:
      rest: slopes of queries, keys and values, or one of all side by side; then what _call adds.
    """
    slopes, (bias, *sums) = _columns(rest[:outputs], query.shape[2]), rest[outputs:]
    query_slope, *others = slopes
    head = query.shape[2] // how.heads

    def work(place: _Place) -> None:
        row, number, block, lanes, _ = place
        q, s = query[row, block, lanes], slope[row, block, lanes]
        k, v = key[row, :, lanes], value[row, :, lanes]
        turned = k.astype(jnp.float32).T
        parts, totals = [], [jnp.zeros((key.shape[1], turned.shape[0]), jnp.float32)] * 2
        for index in range(turned.shape[0] // head):
            weights, total = _weights(_head(k, index, head), q, bias[...])
            weights = weights / total
            # [T, lanes] x [block, lanes] -> [T, block]
            wanted, used = _dot(_head(v, index, head), s, (1, 1)), weights
            if how.rate:
                stays = kept(weights.shape, how.rate, place.key(index))
                used = jnp.where(stays, weights, 0.0) / (1.0 - how.rate)
                wanted = jnp.where(stays, wanted, 0.0) / (1.0 - how.rate)
            pulled = weights * wanted
            pulled -= weights * pulled.sum(axis=0, keepdims=True)
            own = turned[index * head : (index + 1) * head].astype(q.dtype)
            # [K, T] x [T, block] -> [K, block]
            parts.append(_dot(own, pulled.astype(q.dtype), (1, 0)))
            # [T, block] x [block, lanes] -> [T, lanes], of which this head's count
            found = [_dot(pulled.astype(q.dtype), q, (1, 0)), _dot(used.astype(q.dtype), s, (1, 0))]
            mine = jax.lax.broadcasted_iota(jnp.int32, found[0].shape, 1) // head == index
            totals = [jnp.where(mine, new, old) for new, old in zip(found, totals, strict=True)]
        query_slope[row, block, lanes] = jnp.concatenate(parts).T.astype(q.dtype)
        for which, (out, total) in enumerate(zip(others, totals, strict=True)):
            if sums:
                total += jnp.where(number == 0, 0.0, sums[which][:, lanes])
                sums[which][:, lanes] = total
            out[row, :, lanes] = total.astype(out.dtype)

    _each(seeds, sequences, query, bias, how, work)


def _columns(refs: Sequence[Any], width: int) -> list[Any]:
    """Views of so many lanes, several of an array that has more."""
    return [
        ref.at[:, :, pl.ds(start, width)] for ref in refs for start in range(0, ref.shape[2], width)
    ]


# Cycles of a head's block of queries, and of each block of keys for it, forward and backward, as
# libtpu 0.0.42 schedules them (heads of width 64, a tenth dropped).
_CYCLES = {
    kernels.V4: ((52, 170), (0, 384)),
    kernels.V5E: ((56, 112), (16, 296)),
    kernels.V5P: ((61, 112), (10, 304)),
    kernels.V6E: ((76, 99), (102, 218)),
}


def cycles(backward: int, rows: int, length: int, heads: int) -> int:
    """Of one core, for all rows."""
    block, pair = kernels.of_chip(_CYCLES)[backward]
    blocks = length // _BLOCK
    return rows * heads * blocks * (block + blocks * pair)


def _call(
    kernel: Any, how: How, seeds: Array, sequences: Array, qkv: Sequence[Array], *slope: Array
) -> Any:
    """Runs a kernel over all rows, a few in every step of its grid."""
    batch, length, total = qkv[0].shape
    width = total if len(qkv) > 1 else total // 3
    rows = math.gcd(batch, max(1, _ROWS // length))

    def block(wide: int, column: int = 0) -> Any:
        return pl.BlockSpec((rows, length, wide), lambda step, *_: (step, 0, column))

    inputs = [(x, c) for x in (*qkv, *slope) for c in range(x.shape[2] // width)]
    outputs = qkv if slope else [jax.ShapeDtypeStruct((batch, length, width), qkv[0].dtype)]
    numbers = pl.BlockSpec((rows, 1, length), lambda step, *_: (step, 0, 0))
    scratch = [pltpu.VMEM((length, _BLOCK), jnp.float32)]
    if slope and length > _BLOCK:
        scratch += [pltpu.VMEM((length, width), jnp.float32)] * 2
    return pl.pallas_call(
        functools.partial(kernel, how=how, **({"outputs": len(outputs)} if slope else {})),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch // rows,),
            in_specs=[numbers, *(block(width, column) for _, column in inputs)],
            out_specs=[block(out.shape[2]) for out in outputs],
            scratch_shapes=scratch,
        ),
        out_shape=[jax.ShapeDtypeStruct(out.shape, out.dtype) for out in outputs],
        compiler_params=kernels.parameters(_MEMORY),
        interpret=not on_tpu(),
        name=kernels.named("attention", len(slope), cycles(len(slope), batch, length, how.heads)),
    )(seeds, sequences[:, None, :], *(x for x, _ in inputs))


def _over_mesh(
    kernel: Any, how: How, seeds: Array, sequences: Array, qkv: Sequence[Array], *slope: Array
) -> Any:
    """_call on every device's rows and groups of heads; what is dropped hangs on their numbers."""
    batch, _, total = qkv[0].shape
    width = total if len(qkv) > 1 else total // 3
    groups = width // _lanes(width, how)

    def part(seeds: Array, rows: Array, columns: Array, sequences: Array, *arrays: Array) -> Any:
        own = seeds + jnp.stack([columns[0], rows[0]])
        heads = how.heads * len(columns) // groups
        split = len(qkv)
        return _call(
            kernel, how._replace(heads=heads), own, sequences, arrays[:split], *arrays[split:]
        )

    numbers, wide = partition.ROWS_OF_BATCH, partition.ROWS_AND_COLUMNS
    outputs = len(qkv) if slope else 1
    kinds = [partition.WHOLE, numbers, partition.COLUMNS, numbers, *[wide] * len((*qkv, *slope))]
    run = programs.in_parts(part, kinds, [wide] * outputs, batch, groups)
    return run(seeds, _count(batch), _count(groups), sequences, *qkv, *slope)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(qkv: tuple[Array, ...], sequences: Array, seeds: Array, how: How) -> Array:
    return _over_mesh(_forward_kernel, how, seeds, sequences, qkv)[0]


def _forward(
    qkv: tuple[Array, ...], sequences: Array, seeds: Array, how: How
) -> tuple[Array, tuple[Any, ...]]:
    return _attend(qkv, sequences, seeds, how), (qkv, sequences, seeds)


def _backward(how: How, saved: tuple[Any, ...], slope: Array) -> tuple[Any, ...]:
    qkv, sequences, seeds = saved
    return tuple(_over_mesh(_backward_kernel, how, seeds, sequences, qkv, slope)), None, None


_attend.defvjp(_forward, _backward)


def attend(qkv: Sequence[Array], sequences: Array, rng: Array | None, how: How) -> Array:
    """See attention.Implementation; columns that stand side by side are read where they are."""
    return _attend(tuple(qkv), sequences, kernels.seeds(rng if how.rate else None), how)
