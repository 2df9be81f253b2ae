"""Scores of whole splits hang neither on the batch nor on how far it is padded."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import partition
from bertjax.data.rows import Row, Shape
from bertjax.finetuning.predictor import Predictor, conclude, shown
from bertjax.models.config import BertConfig
from bertjax.models.heads import TASK_HEADS, TaskModel
from bertjax.scores import metrics
from bertjax.tasks.base import Context, Encoded, Options
from bertjax.tasks.sentences import Classification, Example, Prediction
from bertjax.text.tokenizer import WordPieceTokenizer


@pytest.fixture(scope="module")
def rows(tiny_config: BertConfig) -> list[Row]:
    """Rows of 2 to 40 tokens in one or two segments; few lengths, as each is compiled."""
    rng = random.Random(0)
    found = []
    for _ in range(18):
        ids = [rng.randrange(1, tiny_config.vocab_size) for _ in range(rng.choice((2, 17, 40)))]
        found.append(Row(ids, rng.randint(1, len(ids))))
    return found


def scorer(model: TaskModel, params: Any) -> Callable[[Row], np.ndarray]:
    """Scores a row in a batch of its own, without any padding."""
    apply = jax.jit(model.apply)

    def alone(row: Row) -> np.ndarray:
        ids = jnp.asarray([row.ids])
        segments = (jnp.arange(len(row.ids)) >= row.length_a)[None].astype(jnp.int32)
        return np.asarray(apply({"params": params}, ids, jnp.ones_like(ids), segments))[0]

    return alone


@pytest.mark.parametrize("head", ["classification", "tagging"])
def test_grouped_by_length_and_padded_a_row_has_the_scores_it_has_alone(
    head: str, rows: list[Row], tiny_config: BertConfig, random_params: Callable[..., Any]
) -> None:
    model = TaskModel(tiny_config, head, 3)
    params = random_params(model)
    shape = Shape(head, 8, 48, pad_id=0)
    found = Predictor(model, partition.make_mesh())(params, Encoded(rows, {}), shape)
    assert len(found) == len(rows)
    alone = scorer(model, params)
    for row, scores in zip(rows, found, strict=True):
        wanted = alone(row)
        assert scores.shape == wanted.shape
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-5)


def test_choices_are_scored_together_and_missing_ones_never_chosen(
    rows: list[Row], tiny_config: BertConfig, random_params: Callable[..., Any]
) -> None:
    model = TaskModel(tiny_config, "choice", TASK_HEADS["choice"].num_outputs or 0)
    params = random_params(model)
    given = rows[:9]
    given[5] = Row([], 0)
    shape = Shape("choice", 8, 48, pad_id=0)
    found = Predictor(model, partition.make_mesh())(params, Encoded(given, {}, choices=3), shape)
    assert [scores.shape for scores in found] == [(3,)] * 3
    alone = scorer(model, params)
    for number, row in enumerate(given):
        score = found[number // 3][number % 3]
        wanted = alone(row)[0] if row.ids else -1e9
        assert score == pytest.approx(wanted, abs=1e-5)


def test_parameters_go_to_the_devices_once_for_all_batches(
    rows: list[Row],
    tiny_config: BertConfig,
    random_params: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mesh, model = partition.make_mesh(), TaskModel(tiny_config, "classification", 3)
    params, predictor = random_params(model), Predictor(model, mesh)
    predict, seen = predictor._predict, []

    def spied(given: Any, batch: Any) -> Any:
        seen.append(jax.tree.leaves(given))
        return predict(given, batch)

    monkeypatch.setattr(predictor, "_predict", spied)
    predictor(params, Encoded(rows, {}), Shape("classification", 8, 48, pad_id=0))
    first, *others = seen
    assert others and all(list(map(id, leaves)) == list(map(id, first)) for leaves in others)
    wanted = jax.tree.leaves(partition.tree_shardings(params, mesh))
    assert [leaf.sharding for leaf in first] == wanted


_SOME = "dev: no scores, for 2 of 3 examples have no label or answer; the first is dev.tsv:3\n"


@pytest.mark.parametrize(
    ("labels", "said"), [(["no", None, None], _SOME), ([None] * 3, ""), (["no"] * 3, "")]
)
def test_a_split_without_scores_says_why_where_some_examples_have_gold(
    labels: list[str | None],
    said: str,
    tiny_tokenizer: WordPieceTokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    examples = [Example("a", None, g, f"dev.tsv:{n}") for n, g in enumerate(labels, start=2)]
    found = [Prediction("no", np.array([0.75, 0.25]))] * len(examples)
    context = Context(tiny_tokenizer, ["no", "yes"], Options())
    family = Classification(metrics.accuracy)
    written, scores = conclude(family, "dev", examples, found, context, tmp_path)
    assert written == [tmp_path / "predictions-dev.tsv"]
    assert scores == ({} if None in labels else {"accuracy": 1.0})
    assert capsys.readouterr().out == said


def test_what_is_counted_is_shown_as_a_whole_number() -> None:
    scores = {"f1": 88.5, "HasAns_total": 5928, "missing": 0, "examples": 25000}
    assert shown(scores) == "f1 88.5000, HasAns_total 5,928, missing 0, examples 25,000"
