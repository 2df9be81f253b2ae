"""Outputs of a task's model for whole splits: every example once, in order; and what they give."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from bertjax import distributed, partition, programs, shares
from bertjax.data import lengths
from bertjax.data import rows as data_rows
from bertjax.files.whole_file import write_whole
from bertjax.models import objectives
from bertjax.models.heads import TASK_HEADS, TaskModel
from bertjax.models.objectives import Batch
from bertjax.tasks.base import Context, Encoded, Family

T = TypeVar("T")
# Passes batches on, one by one: a pulse beats at each.
Through = Callable[[Iterable[Any]], Iterator[Any]]


def row_shape(model: TaskModel, params: Any, context: Context, batch_size: int) -> data_rows.Shape:
    """How the rows of a task are laid out for a model; of params, arrays or their shapes."""
    options, tokenizer = context.options, context.tokenizer
    leaves = jax.tree_util.tree_leaves_with_path(params)
    met = sum(leaf.size for path, leaf in leaves if "embedding" not in partition.path_name(path))
    price = lengths.price_of_one(met, jax.devices()[0].platform)
    return data_rows.Shape(
        model.head, batch_size, options.max_seq_length, tokenizer.pad_id, price=price
    )


def conclude(
    family: Family,
    split: str,
    examples: Sequence[Any],
    predictions: Sequence[Any],
    context: Context,
    folder: Path,
) -> tuple[list[Path], dict[str, float]]:
    """Writes what the family writes for a split; returns the files, and scores if all have gold."""
    files = family.files(split, examples, predictions, context)
    for name, content in files.items() if distributed.is_first() else ():
        write_whole(folder / name, content.encode())
    written = [folder / name for name in files]
    without = [example for example in examples if example.gold is None]
    if without:
        if len(without) < len(examples):
            print(
                f"{split}: no scores, for {len(without):,} of {len(examples):,} examples have no "
                f"label or answer; the first is {without[0].where}"
            )
        return written, {}
    return written, family.score(examples, predictions)


def shown(scores: Mapping[str, float]) -> str:
    """Scores for a line; what is counted is a whole number."""
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4f}"
        for name, value in scores.items()
    )


class Predictor:
    """Runs a model without dropout; compiled once for each length."""

    def __init__(self, model: TaskModel, mesh: Mesh):
        self._model, self._mesh = model, mesh
        self._per_token = TASK_HEADS[model.head].per_token
        self._predict, self._words_met = self._compiled(), self._words()

    def _words(self) -> int:
        """A vocabulary may take in new words, which a program compiled before does not know."""
        return 0 if self._model.words is None else self._model.words.vocab_size

    def _compiled(self) -> Any:
        model = self._model

        def predict(params: Any, batch: Batch) -> Array:
            inputs = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
            scores: Any = model.apply({"params": params}, *inputs)
            if model.head == "choice":
                return objectives.choice_scores(scores, batch["choice_mask"])
            return scores

        return programs.jit(self._mesh, predict)

    def __call__(
        self, params: Any, encoded: Encoded, shape: data_rows.Shape, through: Through = iter
    ) -> list[np.ndarray]:
        """Scores as base.Family.predict takes them, float32: [K], [T, K] or, of choices, [C].

        Args:
          through: what the batches are passed through.
        """
        if self._words() != self._words_met:
            self._predict, self._words_met = self._compiled(), self._words()
        # As in a training, and once for all batches.
        params = partition.placed(params, self._mesh)
        shape = shape._replace(choices=encoded.choices)
        found: list[np.ndarray] = [np.empty(0)] * (len(encoded.rows) // encoded.choices)
        batches = through(data_rows.eval_batches(encoded.rows, shape))
        for numbers, outputs in _one_ahead(self._started(params, batches)):
            for number, output in zip(numbers, distributed.on_host(outputs), strict=False):
                length = len(encoded.rows[number].ids) if self._per_token else None
                found[number] = output[:length]
        return found

    def _started(self, params: Any, batches: Iterable[Any]) -> Iterator[tuple[np.ndarray, Array]]:
        for numbers, batch in batches:
            own = shares.own_share(batch, self._mesh)
            yield numbers, self._predict(params, shares.global_batch(own, self._mesh))


def _one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The items; when one is handed out the next has been started, and devices do not wait."""
    for item, _ in itertools.pairwise(itertools.chain(items, [None])):
        assert item is not None
        yield item
