"""Compact batches to what the model takes, within the jitted step.

Masks hang on (seed, record, epoch) alone: they change from epoch to epoch, and a run that is
continued repeats them bit for bit. Everything else can be read off the ids, because text never
holds a special token: a sequence begins with [CLS], a segment ends with [SEP].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bertjax.data import masking
from bertjax.data.manifest import Manifest
from bertjax.data.masking import MaskingSettings, Pieces
from bertjax.text.tokenizer import Tokenizer

Batch = dict[str, Array]


def expander(
    manifest: Manifest, tokenizer: Tokenizer, settings: MaskingSettings | None, seed: int
) -> Callable[[Batch], Batch]:
    """Builds the function from the records' batches to the model's; it is to be jitted.

    Masked records pass as they are. Of compact ones, rows shorter than the manifest's have
    accordingly fewer predictions.

    Args:
      settings: None for a model that is to see every token; masked records then get theirs back.
    """
    if not manifest.dynamic:
        return unmask if settings is None else lambda batch: batch
    pieces = masking.pieces(
        tokenizer.vocab_size, tokenizer.mask_id, tokenizer.never_random, tokenizer.starts_word()
    )

    def expand(batch: Batch) -> Batch:
        length = batch["input_ids"].shape[1]
        padded = jnp.arange(length) >= batch["lengths"][:, None]
        batch = {**batch, "input_ids": jnp.where(padded, tokenizer.pad_id, batch["input_ids"])}
        rows = structure(batch, tokenizer, manifest)
        weights = batch.get("example_weights")
        if weights is not None:
            rows["example_weights"] = weights
        if settings is None:
            return {**rows, "input_ids": batch["input_ids"]}
        share = length / manifest.max_seq_length
        fewer = dataclasses.replace(
            settings, max_predictions=max(1, round(settings.max_predictions * share))
        )
        masked = mask(batch, fewer, pieces, seed)
        if weights is not None:
            masked["masked_lm_weights"] *= weights[:, None]
        return {**rows, **masked}

    return expand


def unmask(batch: Batch) -> Batch:
    """Puts the hidden tokens of masked records back into their places."""
    ids, there = batch["input_ids"], batch["masked_lm_weights"] > 0
    # Places without a prediction are moved out of the row, where nothing is written.
    places = jnp.where(there, batch["masked_lm_positions"], ids.shape[1])
    rows = jnp.arange(len(ids))[:, None]
    return {**batch, "input_ids": ids.at[rows, places].set(batch["masked_lm_ids"], mode="drop")}


def mask(batch: Batch, settings: MaskingSettings, pieces: Pieces, seed: int) -> Batch:
    """Hides tokens of input_ids [B, T]; adds the three masked_lm arrays."""
    rows, length = batch["input_ids"].shape
    shapes = masking.shapes(rows, length, settings)
    sizes = np.cumsum([shape[1] for shape in shapes])

    def bits(record: Array, epoch: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), record), epoch)
        return jax.random.bits(key, (int(sizes[-1]),), jnp.uint32)

    # [B] -> [B, all numbers of a row] -> one array for each use
    drawn = jax.vmap(bits)(batch["record"], batch["epoch"])
    draws = masking.Draws(*jnp.split(drawn, sizes[:-1], axis=1))
    # Tables of the vocabulary are constants of the compiled step.
    tables: Any = Pieces(pieces.mask_id, *map(jnp.asarray, pieces[1:]))
    return masking.mask(batch["input_ids"], batch["lengths"], settings, tables, draws)


def structure(batch: Batch, tokenizer: Tokenizer, manifest: Manifest) -> Batch:
    """Reads sequences and segments off the ids.

    Returns:
      input_mask and segment_ids [B, T]; next_sentence_labels [B, S] if there are labels; of packed
      rows also position_ids [B, T], starts and next_sentence_weights [B, S].
    """
    ids, number = batch["input_ids"], manifest.max_sequences
    place = jnp.arange(ids.shape[1])
    present = place < batch["lengths"][:, None]
    begins = present & (ids == tokenizer.cls_id)
    # [B, T]: 1 in the first sequence, 2 in the second, ...
    sequence = jnp.cumsum(begins, axis=1)
    start = jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
    ends = present & (ids == tokenizer.sep_id)
    before = jnp.cumsum(ends, axis=1) - ends  # [SEP]s before a token
    inside = before - jnp.take_along_axis(before, start, axis=1)
    second = present & (inside > 0) & manifest.pairs
    found = {"segment_ids": second.astype(jnp.int32)}
    if manifest.has_label:
        found["next_sentence_labels"] = batch["next_sentence_labels"]
    if not manifest.packed:
        return {**found, "input_mask": present.astype(jnp.int32)}
    # [B, T] -> [B, S]: the places of [CLS], then whatever stands behind
    starts = jnp.sort(jnp.where(begins, place, ids.shape[1]), axis=1)[:, :number]
    there = starts < ids.shape[1]
    return {
        **found,
        "input_mask": jnp.where(present, sequence, 0),
        "position_ids": jnp.where(present, place - start, 0),
        "starts": jnp.where(there, starts, 0),
        "next_sentence_weights": there.astype(jnp.float32),
    }
