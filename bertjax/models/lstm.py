"""LSTMs with a projection, both directions at once (Sak et al. 2014; Peters et al. 2018).

A step is one product that hangs on the step before; whatever does not, the products with the
inputs and the sums of all gradients of the weights, is one large product outside of the loop. So
the gradient is written out here: differentiated by itself, a loop would add to the whole of the
weights' gradients in every step.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class Limits(NamedTuple):
    """Cell states and projected outputs are kept between -limit and limit; 0: as they are."""

    cell: float
    projection: float


def _clip(x: Array, limit: float) -> Array:
    return jnp.clip(x, -limit, limit) if limit else x


def _passes(clipped: Array, limit: float) -> Array:
    """1 where the gradient passes _clip."""
    inside = jnp.abs(clipped) < (limit or math.inf)
    return inside.astype(clipped.dtype)


class _Step(NamedTuple):
    """What a step leaves for the gradient; each [T, 2, B, ...] when all steps are done.

    Attributes:
      output: [P], cell: [U], both after clipping; inner: [U], what is projected.
      gates: [4, U], of input, candidate, forgetting and output, after their functions.
    """

    output: Array
    cell: Array
    inner: Array
    gates: Array


def _recur(inputs: Array, keep: Array, recurrent: Array, project: Array, limits: Limits) -> _Step:
    def step(carry: tuple[Array, Array], xs: tuple[Array, Array]) -> tuple[Any, _Step]:
        (output, cell), (given, kept) = carry, xs
        # [2, B, P] x [2, P, 4, U] -> [2, B, 4, U]
        state = (output * kept).astype(recurrent.dtype)
        summed = given + jnp.einsum("dbp,dpgu->dbgu", state, recurrent)
        i, j, f, o = (summed[:, :, gate].astype(jnp.float32) for gate in range(4))
        i, j, f, o = jax.nn.sigmoid(i), jnp.tanh(j), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
        cell = _clip(f * (cell * kept) + i * j, limits.cell)
        inner = o * jnp.tanh(cell)
        # [2, B, U] x [2, U, P] -> [2, B, P]
        projected = jnp.einsum(
            "dbu,dup->dbp",
            inner.astype(project.dtype),
            project,
            preferred_element_type=jnp.float32,
        )
        output = _clip(projected, limits.projection)
        return (output, cell), _Step(output, cell, inner, jnp.stack([i, j, f, o], axis=2))

    _, directions, batch, _, units = inputs.shape
    start = (
        jnp.zeros((directions, batch, project.shape[-1]), jnp.float32),
        jnp.zeros((directions, batch, units), jnp.float32),
    )
    return jax.lax.scan(step, start, (inputs, keep))[1]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def recur(inputs: Array, keep: Array, recurrent: Array, project: Array, limits: Limits) -> Array:
    """Runs through time.

    Args:
      inputs: [T, 2, B, 4, U], products with the inputs, with bias.
      keep: [T, 2, B, 1] float32, 0 where a sequence begins and nothing is remembered.
      recurrent: [2, P, 4, U]; project: [2, U, P]; their type is that of the products.

    Returns:
      [T, 2, B, P] float32.
    """
    return _recur(inputs, keep, recurrent, project, limits).output


def _forward(inputs: Array, keep: Array, recurrent: Array, project: Array, limits: Limits) -> Any:
    steps = _recur(inputs, keep, recurrent, project, limits)
    return steps.output, (steps, keep, recurrent, project)


def _backward(limits: Limits, saved: Any, given: Array) -> tuple[Array | None, ...]:
    steps, keep, recurrent, project = saved
    low = recurrent.dtype

    def before(x: Array) -> Array:
        """What a step was given of the step before."""
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]]) * keep

    def step(carry: tuple[Array, Array], xs: Any) -> tuple[Any, tuple[Array, Array]]:
        (d_output, d_cell), (given, done, old_cell, kept) = carry, xs
        i, j, f, o = (done.gates[:, :, gate] for gate in range(4))
        d_projected = (d_output + given) * _passes(done.output, limits.projection)
        d_inner = jnp.einsum("dbp,dup->dbu", d_projected.astype(low), project).astype(jnp.float32)
        bent = jnp.tanh(done.cell)
        d_cell = (d_inner * o * (1 - bent * bent) + d_cell) * _passes(done.cell, limits.cell)
        d_gates = jnp.stack(
            [
                d_cell * j * i * (1 - i),
                d_cell * i * (1 - j * j),
                d_cell * old_cell * f * (1 - f),
                d_inner * bent * o * (1 - o),
            ],
            axis=2,
        ).astype(low)
        d_output = jnp.einsum("dbgu,dpgu->dbp", d_gates, recurrent).astype(jnp.float32)
        return (d_output * kept, d_cell * f * kept), (d_gates, d_projected.astype(low))

    start = (jnp.zeros_like(steps.output[0]), jnp.zeros_like(steps.cell[0]))
    old = before(steps.cell)
    _, (d_gates, d_projected) = jax.lax.scan(step, start, (given, steps, old, keep), reverse=True)
    d_recurrent = jnp.einsum("tdbp,tdbgu->dpgu", before(steps.output).astype(low), d_gates)
    d_project = jnp.einsum("tdbu,tdbp->dup", steps.inner.astype(low), d_projected)
    return d_gates, None, d_recurrent, d_project


recur.defvjp(_forward, _backward)


class LstmLayer(nn.Module):
    """A layer of an LSTM for each direction, with weights of its own.

    Attributes:
      units: U, of the cell; width: P, of what is given on.
      dtype: of the products.
    """

    units: int
    width: int
    limits: Limits
    dtype: str

    @nn.compact
    def __call__(self, x: Array, keep: Array) -> Array:
        """x [T, 2, B, P_in], of each direction in its own order; keep as in recur."""
        even = nn.initializers.glorot_uniform(in_axis=-3, out_axis=(-2, -1), batch_axis=(0,))
        gates = (2, x.shape[-1], 4, self.units)
        given = self.param("input_kernel", even, gates)
        recurrent = self.param("recurrent_kernel", even, (2, self.width, 4, self.units))
        narrow = nn.initializers.glorot_uniform(batch_axis=(0,))
        project = self.param("projection_kernel", narrow, (2, self.units, self.width))
        bias = self.param("bias", _forgetful, (2, 4, self.units))
        # [T, 2, B, P] x [2, P, 4, U] -> [T, 2, B, 4, U]
        inputs = jnp.einsum("tdbp,dpgu->tdbgu", x.astype(self.dtype), given.astype(self.dtype))
        inputs = inputs + bias[:, None].astype(self.dtype)
        low = [kernel.astype(self.dtype) for kernel in (recurrent, project)]
        return recur(inputs, keep, *low, self.limits).astype(x.dtype)


def _forgetful(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Zeros, but 1 for the gates of forgetting, so that cells remember at first."""
    del key
    return jnp.zeros(shape, dtype).at[:, 2].set(1.0)
