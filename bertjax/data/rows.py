"""Encoded examples to batches: grouped by length, in few shapes, every example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.lengths import fewest_padded, padded, price_of_one

Batch = dict[str, np.ndarray]
# Examples are sorted by length within this many batches, so that a batch holds similar ones.
_GROUP = 32
# How often rows are gone through, about: the paper's epochs. Of an evaluation, whose program is
# compiled in half the time for the same arithmetic, and found again by later runs.
_PASSES, _EVALUATIONS = 3, 20


class Row(NamedTuple):
    """One input of the encoder: [CLS] a [SEP] or [CLS] a [SEP] b [SEP].

    Attributes:
      ids: token ids, special ones included.
      length_a: tokens of the first segment with [CLS] and [SEP].
      target: what is to be predicted; None if it is unknown. A label's id (classification), a
        number (regression), a tag's id for every token with -1 where there is none (tagging), the
        places of first and last token (span), the number of the right choice (choice).
      note: what its task needs to turn the model's output into a prediction.
    """

    ids: list[int]
    length_a: int
    target: Any = None
    note: Any = None


class Shape(NamedTuple):
    """How rows are laid out as batches.

    Attributes:
      head: a key of TARGETS.
      batch_size: B, examples in a batch.
      max_seq_length: no row is longer.
      pad_id: the token that fills rows up.
      choices: C, consecutive rows that belong to one example; 1 but for "choice".
      price: positions that one more length must save, see lengths.price_of_one; by default that
        of 10M parameters on CPU cores.
    """

    head: str
    batch_size: int
    max_seq_length: int
    pad_id: int
    choices: int = 1
    price: float = price_of_one(10_000_000, "cpu")

    def lengths(self, longest: Sequence[int], passes: int = _PASSES) -> list[int]:
        """Those that batches are padded to, given the longest row of each."""
        positions = self.price / passes / (self.batch_size * self.choices)
        return fewest_padded(longest, self.max_seq_length, positions)


def _numbers(kind: type) -> Callable[[Sequence[Row], int], np.ndarray]:
    return lambda rows, length: np.array([row.target or 0 for row in rows], kind)


def _tags(rows: Sequence[Row], length: int) -> np.ndarray:
    tags = np.full((len(rows), length), -1, np.int32)
    for place, row in enumerate(rows):
        if row.target is not None:
            tags[place, : len(row.target)] = row.target
    return tags


def _spans(rows: Sequence[Row], length: int) -> np.ndarray:
    return np.array([row.target or (0, 0) for row in rows], np.int32)


# By the kind of head: (rows, T) -> "labels", [B] or [B, T] or [B, 2].
TARGETS: dict[str, Callable[[Sequence[Row], int], np.ndarray]] = {
    "classification": _numbers(np.int32),
    "regression": _numbers(np.float32),
    "choice": _numbers(np.int32),
    "tagging": _tags,
    "span": _spans,
}


def collate(
    examples: Sequence[Sequence[Row]], shape: Shape, padded_to: Sequence[int] = ()
) -> Batch:
    """Lays out examples of C rows each; examples that only fill the batch up have weight 0.

    A row without tokens stands for a choice that its example does not have.

    Args:
      padded_to: T is the next of these, or max_seq_length.

    Returns:
      input_ids, input_mask, segment_ids: [B C, T] int32; labels: see TARGETS;
      example_weights: [B] float32; for "choice" also choice_mask: [B, C] int32.
    """
    rows = [row for example in examples for row in example]
    number = shape.batch_size * shape.choices
    length = padded(max(len(row.ids) for row in rows), padded_to, shape.max_seq_length)
    ids = np.full((number, length), shape.pad_id, np.int32)
    # Rows that fill the batch up have one token, so that no softmax is over nothing.
    lengths, firsts = np.ones(number, np.int32), np.ones(number, np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = row.ids
        lengths[place], firsts[place] = max(len(row.ids), 1), max(row.length_a, 1)
    column = np.arange(length)
    mask = column < lengths[:, None]
    empty = [Row([], 0)] * (shape.batch_size - len(examples))
    heads = [example[0] for example in examples] + empty
    batch = {
        "input_ids": ids,
        "input_mask": mask.astype(np.int32),
        "segment_ids": (mask & (column >= firsts[:, None])).astype(np.int32),
        "labels": TARGETS[shape.head](heads, length),
        "example_weights": (np.arange(shape.batch_size) < len(examples)).astype(np.float32),
    }
    if shape.head == "choice":
        there = np.ones(number, np.int32)
        there[: len(rows)] = [bool(row.ids) for row in rows]
        batch["choice_mask"] = there.reshape(shape.batch_size, shape.choices)
    return batch


def _examples(rows: Sequence[Row], choices: int) -> list[Sequence[Row]]:
    return [rows[i : i + choices] for i in range(0, len(rows), choices)]


def _lengths(examples: Sequence[Sequence[Row]]) -> np.ndarray:
    return np.array([max(len(row.ids) for row in example) for example in examples])


def _longest(lengths: np.ndarray, batches: Sequence[np.ndarray]) -> list[int]:
    return [int(lengths[batch].max()) for batch in batches]


def epoch_order(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of an epoch as arrays of example numbers; a function of its arguments alone.

    All examples are shuffled; within groups of batches they are then sorted by length, and the
    batches are shuffled again. Every example comes exactly once.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), _GROUP * batch_size):
        group = order[start : start + _GROUP * batch_size]
        group = group[np.argsort(lengths[group], kind="stable")]
        batches.extend(group[i : i + batch_size] for i in range(0, len(group), batch_size))
    return [batches[i] for i in rng.permutation(len(batches))]


def train_batches(
    rows: Sequence[Row], shape: Shape, *, seed: int, start_step: int = 0
) -> Iterator[Batch]:
    """The endless stream of training batches from a step on."""
    examples = _examples(rows, shape.choices)
    lengths = _lengths(examples)
    # Of one seed for all, so that all seeds share their compiled shapes.
    typical = _longest(lengths, epoch_order(lengths, shape.batch_size, 0, 0))
    # Batches of other epochs may be longer than any of these, but not than the longest example.
    shapes = shape.lengths([*typical, lengths.max()])
    epoch, first = divmod(start_step, steps_per_epoch(len(examples), shape.batch_size))
    while True:
        for chosen in epoch_order(lengths, shape.batch_size, seed, epoch)[first:]:
            yield collate([examples[i] for i in chosen], shape, shapes)
        epoch, first = epoch + 1, 0


def steps_per_epoch(examples: int, batch_size: int) -> int:
    return -(-examples // batch_size)


def eval_batches(rows: Sequence[Row], shape: Shape) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every example once, by length; yields (numbers of the real examples, batch)."""
    examples = _examples(rows, shape.choices)
    lengths = _lengths(examples)
    order = np.argsort(lengths, kind="stable")
    # The one that is not full has the shortest rows, where filling it up costs least.
    batches = np.split(order, range(len(order) % shape.batch_size, len(order), shape.batch_size))
    batches = [batch for batch in batches if len(batch)]
    shapes = shape.lengths(_longest(lengths, batches), _EVALUATIONS) if batches else []
    for chosen in batches:
        yield chosen, collate([examples[i] for i in chosen], shape, shapes)
