"""Predictions for whole splits: every example once, in order, and written as one file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from bertjax import partition
from bertjax.data import examples as data_examples
from bertjax.data.examples import Encoded, Example
from bertjax.models.heads import Classifier
from bertjax.models.objectives import Batch
from bertjax.whole_file import write_whole


class Predictor:
    """Probabilities of the labels for all examples of a split."""

    def __init__(
        self, model: Classifier, mesh: Mesh, *, batch_size: int, max_seq_length: int, pad_id: int
    ):
        def predict(params: Any, batch: Batch) -> Array:
            logits: Any = model.apply(
                {"params": params}, batch["input_ids"], batch["input_mask"], batch["segment_ids"]
            )
            return jax.nn.softmax(logits)

        self._predict, self._mesh = jax.jit(predict), mesh
        self._layout = {
            "batch_size": batch_size,
            "max_seq_length": max_seq_length,
            "pad_id": pad_id,
        }

    def __call__(self, params: Any, encoded: Sequence[Encoded]) -> np.ndarray:
        """Returns [N, labels] float32, in the order of `encoded`."""
        found: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        for chosen, batch in data_examples.eval_batches(encoded, **self._layout):
            output = self._predict(params, partition.global_batch(batch, self._mesh))
            found.append(np.asarray(output)[: len(chosen)])
            rows.append(chosen)
        return np.concatenate(found)[np.argsort(np.concatenate(rows))]


def write_predictions(
    path: Path, examples: Sequence[Example], labels: Sequence[str], probabilities: np.ndarray
) -> None:
    """One line an example: index, prediction, label, confidence, texts; tabs between them."""
    content = io.StringIO()
    writer = csv.writer(content, delimiter="\t", lineterminator="\n")
    pair = examples[0].text_b is not None
    writer.writerow(["index", "prediction", "label", "confidence", "text_a"] + ["text_b"] * pair)
    for index, (example, row) in enumerate(zip(examples, probabilities, strict=True)):
        best = int(row.argmax())
        texts = [example.text_a, example.text_b] if pair else [example.text_a]
        writer.writerow([index, labels[best], example.label, f"{row[best]:.4f}", *texts])
    write_whole(path, content.getvalue().encode())
