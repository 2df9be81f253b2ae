"""The softmax over some words: exact when all are drawn, right on average when not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.models import softmax

ROWS, WIDTH, VOCAB = 6, 4, 40


@pytest.fixture(scope="module")
def case() -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    x, table = rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(VOCAB, WIDTH))
    labels = jnp.asarray(rng.integers(0, VOCAB, ROWS))
    bias = rng.normal(size=VOCAB)
    return (*(jnp.asarray(a, jnp.float32) for a in (x, table, bias)), labels)


def log_softmax(case: tuple[jax.Array, ...]) -> np.ndarray:
    """[N, V] in float64."""
    x, table, bias = (np.asarray(a, np.float64) for a in case[:3])
    scores = x @ table.T + bias
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("at_once", [softmax._AT_ONCE, VOCAB * 2], ids=["at once", "in parts"])
def test_full_is_the_negative_log_probability(
    case: tuple[jax.Array, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax, "_AT_ONCE", at_once)
    losses, best = softmax.full(*case)
    expected, labels = log_softmax(case), np.asarray(case[3])
    np.testing.assert_allclose(losses, -expected[np.arange(ROWS), labels], atol=1e-5)
    np.testing.assert_array_equal(best, expected.argmax(axis=1) == labels)
    gradient = jax.grad(lambda x: softmax.full(x, *case[1:])[0].sum())(case[0])
    error = np.exp(expected) - np.eye(VOCAB)[labels]
    np.testing.assert_allclose(gradient, error @ np.asarray(case[1]), atol=1e-5)


@pytest.mark.parametrize("name", softmax.SAMPLERS)
def test_all_words_drawn_is_the_full_softmax(name: str, case: tuple[jax.Array, ...]) -> None:
    log_probs = jnp.asarray(softmax.sampler(name)(np.arange(VOCAB)))
    found = softmax.sampled(*case, log_probs, VOCAB, jax.random.key(0))
    np.testing.assert_allclose(found, softmax.full(*case)[0], atol=1e-5)


def test_the_sum_over_the_vocabulary_is_right_on_average(case: tuple[jax.Array, ...]) -> None:
    """exp(loss) times the right word's weight is the estimated sum; its mean must be the sum."""
    log_probs = jnp.asarray(softmax.sampler("log_uniform")(np.zeros(VOCAB)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 20_000)
    draw = jax.jit(jax.vmap(lambda key: softmax.sampled(*case, log_probs, 12, key)))
    sums = np.exp(np.asarray(draw(keys), np.float64))
    expected = np.exp(-log_softmax(case)[np.arange(ROWS), np.asarray(case[3])])
    error = sums.std(axis=0) / np.sqrt(len(keys))
    assert (np.abs(sums.mean(axis=0) - expected) < 4 * error).all()
    assert (error / expected < 0.02).all()


def test_a_frequent_word_is_drawn_more_often() -> None:
    """Zipf's law over the ranks, as TensorFlow's log-uniform sampler has it."""
    found = np.exp(softmax.sampler("log_uniform")(np.zeros(VOCAB)))
    assert found.sum() == pytest.approx(1)
    ranks = np.arange(VOCAB)
    np.testing.assert_allclose(found, np.log((ranks + 2) / (ranks + 1)) / np.log(VOCAB + 1))
    counted = np.exp(softmax.sampler("unigram")(np.array([6, 2, 0])))
    np.testing.assert_allclose(counted, [6 / 9, 2 / 9, 1 / 9])


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(UserError, match="sampler 'zipf' is unknown; choose one of log_uniform"):
        softmax.sampler("zipf")
