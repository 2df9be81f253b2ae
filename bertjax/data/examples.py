"""Labelled examples to batches: encoded once, grouped by length, every example exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.tokenizer import Tokenizer

Batch = dict[str, np.ndarray]
# Batches are padded to the next of these lengths; each is compiled once.
LENGTHS = (16, 32, 64, 128, 256, 384, 512)
# Examples are sorted by length within this many batches, so that a batch holds similar ones.
_GROUP = 32


class Example(NamedTuple):
    """One text or pair of texts with its label; `where` ("dev.tsv:17") is for messages.

    `label` is None where it is to be predicted.
    """

    text_a: str
    text_b: str | None
    label: str | None
    where: str


class Encoded(NamedTuple):
    """One example: [CLS] a [SEP] or [CLS] a [SEP] b [SEP]; label -1 if it is unknown."""

    ids: list[int]
    length_a: int  # tokens of the first segment with [CLS] and [SEP]
    label: int
    was_cut: bool


def _encode_one(example: Example, tokenizer: Tokenizer, label: int, limit: int) -> Encoded:
    a = tokenizer.encode(example.text_a)
    b = None if example.text_b is None else tokenizer.encode(example.text_b)
    room = limit - (2 if b is None else 3)
    was_cut = len(a) + len(b or ()) > room
    # The longer one is shortened from its end, as in the 2018 code's run_classifier.py.
    while len(a) + len(b or ()) > room:
        if b is None or len(a) > len(b):
            a.pop()
        else:
            b.pop()
    first = [tokenizer.cls_id, *a, tokenizer.sep_id]
    second = [] if b is None else [*b, tokenizer.sep_id]
    return Encoded(first + second, len(first), label, was_cut)


def encode(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    max_seq_length: int,
) -> list[Encoded]:
    """Encodes examples with labels as their index in `labels`.

    Raises:
      UserError: a label that is not in `labels`, file and line are named; no room for a text.
    """
    if max_seq_length < 8:
        raise UserError(f"max_seq_length {max_seq_length} is too short; use at least 8")
    ids = {label: index for index, label in enumerate(labels)}
    encoded = []
    for example in examples:
        if example.label is not None and example.label not in ids:
            raise UserError(
                f"{example.where}: unknown label '{example.label}'; the labels are: "
                f"{', '.join(labels)}"
            )
        label = -1 if example.label is None else ids[example.label]
        encoded.append(_encode_one(example, tokenizer, label, max_seq_length))
    return encoded


def _padded_length(longest: int, max_seq_length: int) -> int:
    return next((n for n in LENGTHS if longest <= n < max_seq_length), max_seq_length)


def collate(chosen: Sequence[Encoded], batch_size: int, max_seq_length: int, pad_id: int) -> Batch:
    """Lays examples out as rows; rows that only fill the batch up have example_weights 0.

    Returns:
      input_ids, input_mask, segment_ids: [B, T] int32; labels: [B] int32;
      example_weights: [B] float32.
    """
    length = _padded_length(max(len(example.ids) for example in chosen), max_seq_length)
    ids = np.full((batch_size, length), pad_id, np.int32)
    lengths, firsts = np.ones(batch_size, np.int32), np.ones(batch_size, np.int32)
    labels = np.zeros(batch_size, np.int32)
    for row, example in enumerate(chosen):
        ids[row, : len(example.ids)] = example.ids
        lengths[row], firsts[row] = len(example.ids), example.length_a
        labels[row] = max(example.label, 0)
    place = np.arange(length)
    mask = place < lengths[:, None]
    return {
        "input_ids": ids,
        "input_mask": mask.astype(np.int32),
        "segment_ids": (mask & (place >= firsts[:, None])).astype(np.int32),
        "labels": labels,
        "example_weights": (np.arange(batch_size) < len(chosen)).astype(np.float32),
    }


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
    encoded: Sequence[Encoded],
    *,
    batch_size: int,
    max_seq_length: int,
    pad_id: int,
    seed: int,
    start_step: int = 0,
) -> Iterator[Batch]:
    """The endless stream of training batches from a step on."""
    lengths = np.array([len(example.ids) for example in encoded])
    steps_per_epoch = -(-len(encoded) // batch_size)
    epoch, first = divmod(start_step, steps_per_epoch)
    while True:
        for chosen in epoch_order(lengths, batch_size, seed, epoch)[first:]:
            yield collate([encoded[i] for i in chosen], batch_size, max_seq_length, pad_id)
        epoch, first = epoch + 1, 0


def eval_batches(
    encoded: Sequence[Encoded], *, batch_size: int, max_seq_length: int, pad_id: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every example once, by length; yields (example numbers of the real rows, batch)."""
    order = np.argsort([len(example.ids) for example in encoded], kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield chosen, collate([encoded[i] for i in chosen], batch_size, max_seq_length, pad_id)
