"""The LSTM with a projection: its equations in NumPy, its gradient by differentiation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models import lstm
from bertjax.models.lstm import Limits

LENGTH, BATCH, WIDTH, UNITS = 5, 3, 4, 6
# Small enough to bite.
TIGHT = Limits(cell=0.4, projection=0.3)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstmp(
    x: np.ndarray, keep: np.ndarray, params: dict[str, np.ndarray], limits: Limits
) -> np.ndarray:
    """One direction, step by step: Sak et al. 2014, in the gates' order of TensorFlow's LSTMCell.

    x [T, B, P], keep [T, B], parameters of one direction -> [T, B, P].
    """
    output, cell = np.zeros((BATCH, WIDTH)), np.zeros((BATCH, UNITS))
    found = []
    for given, kept in zip(x, keep, strict=True):
        output, cell = output * kept[:, None], cell * kept[:, None]
        i, j, f, o = (
            given @ params["input_kernel"][:, gate]
            + output @ params["recurrent_kernel"][:, gate]
            + params["bias"][gate]
            for gate in range(4)
        )
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(j)
        cell = np.clip(cell, -limits.cell, limits.cell)
        output = (_sigmoid(o) * np.tanh(cell)) @ params["projection_kernel"]
        output = np.clip(output, -limits.projection, limits.projection)
        found.append(output)
    return np.stack(found)


@pytest.fixture(scope="module")
def case() -> tuple[jax.Array, jax.Array, Any]:
    """x [T, 2, B, P], keep [T, 2, B, 1] with a new sequence in the middle of two rows, params."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(LENGTH, 2, BATCH, WIDTH)), jnp.float32)
    keep = np.ones((LENGTH, 2, BATCH, 1), np.float32)
    keep[0] = 0
    keep[3, 0, 1] = keep[2, 1, 2] = 0
    layer = lstm.LstmLayer(UNITS, WIDTH, TIGHT, "float32")
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x, keep)["params"]
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.7, leaf.shape).astype(np.float32), dict(shapes)
    )
    return x, jnp.asarray(keep), params


@pytest.mark.parametrize("limits", [TIGHT, Limits(0, 0)], ids=["limits", "no limits"])
def test_both_directions_are_lstms_of_their_own(case: Any, limits: Limits) -> None:
    x, keep, params = case
    layer = lstm.LstmLayer(UNITS, WIDTH, limits, "float32")
    found: Any = layer.apply({"params": params}, x, keep)
    endless = Limits(limits.cell or np.inf, limits.projection or np.inf)
    for direction in range(2):
        own = {name: value[direction] for name, value in params.items()}
        expected = lstmp(np.asarray(x)[:, direction], keep[:, direction, :, 0], own, endless)
        np.testing.assert_allclose(found[:, direction], expected, atol=1e-5)
    if limits is TIGHT:
        assert float(jnp.abs(found).max()) == pytest.approx(0.3)


def test_the_written_gradient_is_that_of_differentiation(case: Any) -> None:
    x, keep, params = case
    rng = np.random.default_rng(1)
    inputs = jnp.asarray(rng.normal(size=(LENGTH, 2, BATCH, 4, UNITS)), jnp.float32)
    kernels = [jnp.asarray(params[name]) for name in ("recurrent_kernel", "projection_kernel")]

    def gradients(function: Any) -> Any:
        def loss(inputs: jax.Array, *kernels: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(3 * function(inputs, keep, *kernels, TIGHT)))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(inputs, *kernels)

    written = gradients(lstm.recur)
    derived = gradients(lambda *given: lstm._recur(*given).output)
    for ours, theirs in zip(written, derived, strict=True):
        assert float(jnp.abs(theirs).max()) > 0.01
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_cells_remember_at_first() -> None:
    layer = lstm.LstmLayer(UNITS, WIDTH, TIGHT, "float32")
    x, keep = jnp.zeros((2, 2, 1, WIDTH)), jnp.zeros((2, 2, 1, 1))
    bias = np.asarray(layer.init(jax.random.key(0), x, keep)["params"]["bias"])
    assert (bias[:, 2] == 1).all()
    assert (bias[:, [0, 1, 3]] == 0).all()
