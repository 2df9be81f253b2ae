"""Counted operations are those of the products that the model really asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax.extend import core

from bertjax.models import flops, language_models, masked_lm, objectives
from bertjax.models.config import SIZES, BertConfig
from bertjax.models.elmo import SIZES as SIZES_OF_ELMO
from bertjax.models.elmo import ElmoConfig


def products(jaxpr: Any) -> Iterator[int]:
    """Operations of every product of matrices in a program, also inside of functions it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            summed = int(np.prod([left[axis] for axis in contracted]))
            yield 2 * summed * int(np.prod(equation.outvars[0].aval.shape))
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in core.jaxprs_in_params(equation.params):
            yield from [times * found for found in products(inner)]


def test_they_are_the_products_of_forward_and_backward(
    tiny_config: BertConfig,
    tiny_batch: dict[str, np.ndarray],
    random_params: Callable[..., Any],
) -> None:
    model = masked_lm.PretrainingModel(tiny_config)
    params = random_params(model)
    objective = masked_lm.objective(model)

    def loss(params: Any) -> Any:
        sums = objective.sums(params, tiny_batch, None)
        return objectives.total_loss(sums, objective.counts(tiny_batch))

    (rows, length), predictions = tiny_batch["input_ids"].shape, 4
    counted = flops.pretraining_step(tiny_config, rows, length, predictions)
    forward = sum(products(jax.make_jaxpr(loss)(params).jaxpr))
    both = sum(products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))
    # A product with one-hot segments looks rows up; it is no arithmetic of the model.
    width = tiny_config.hidden_size
    lookup = 2 * rows * length * 2 * width
    # Of the last layer the program leaves out what nobody reads: all but masked places and [CLS].
    each = 2 * (width**2 + 2 * width * tiny_config.intermediate_size) + 4 * length * width
    unread = rows * (length - predictions - 1) * each
    assert 3 * (forward - lookup + unread) == counted
    assert both - 2 * lookup + 3 * unread == counted


@pytest.mark.parametrize("words", ["characters", "table"])
def test_they_are_those_of_elmo(
    words: str, tiny_batch: dict[str, np.ndarray], random_params: Callable[..., Any]
) -> None:
    size: dict[str, Any] = SIZES_OF_ELMO["tiny"] | {"words": words}
    config = ElmoConfig(vocab_size=1000, **size)
    drawing = dataclasses.replace(config, sampler="unigram", num_sampled=50)
    (rows, length), wide = tiny_batch["input_ids"].shape, config.projection_size
    model = language_models.BidirectionalModel(config)
    params = random_params(model)
    parts = ("forward_lm", "backward_lm")
    log_probs = np.zeros(config.vocab_size, np.float32)

    def loss(params: Any, number: int) -> Any:
        objective = language_models.objective(model, parts, log_probs, number)
        key = jax.random.key(0) if number else None
        sums = objective.sums(params, tiny_batch, key)
        return objectives.total_loss(sums, objective.counts(tiny_batch))

    for shape, number in ((config, 0), (drawing, 50)):
        counted = flops.pretraining_step(shape, rows, length, length)
        forward = sum(products(jax.make_jaxpr(loss, static_argnums=1)(params, number).jaxpr))
        both = jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, number)
        # The right word's score is no product of matrices where others are drawn.
        right = 2 * 2 * rows * length * wide if number else 0
        assert 3 * (forward + right) == counted
        assert sum(products(both.jaxpr)) + 3 * right == counted


def test_the_papers_pretraining_takes_what_is_said_of_it() -> None:
    """BERT-base: some 6 operations a parameter and token, 85 million of them in layers."""
    base = BertConfig(vocab_size=30522, **SIZES["base"])
    step = flops.pretraining_step(base, 256, 128, 20)
    assert step == pytest.approx(6 * 85e6 * 256 * 128, rel=0.15)
