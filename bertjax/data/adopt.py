"""Takes over TFRecords that the builder of 2018 made: checks them and writes their manifest."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.example import example_pb2

import bertjax
from bertjax.data import records, tfrecord
from bertjax.data.build_settings import BuildSettings
from bertjax.data.corpus_facts import piece_facts
from bertjax.data.manifest import Manifest, Shard
from bertjax.data.shards import entry_of, shard_name
from bertjax.errors import UserError
from bertjax.files.whole_file import whole
from bertjax.progress_bar import progress_bar
from bertjax.text.tokenizer import Tokenizer

_AT_ONCE = 1024


def adopt(
    paths: Sequence[Path], tokenizer: Tokenizer, output: Path, source: dict[str, Any]
) -> Manifest:
    """Reads every record once; links the files into `output` (copies, where links do not work).

    Raises:
      UserError: a damaged record (with its byte), features other than those of 2018, an id beyond
        the vocabulary.
    """
    output.mkdir(parents=True, exist_ok=True)
    length, predictions = _widths(paths[0])
    manifest = Manifest(
        max_seq_length=length,
        max_predictions_per_seq=predictions,
        vocab_size=tokenizer.vocab_size,
        tokenizer={"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint},
        settings={},
        corpus={},
        source=source,
        padding_share=0.0,
        shards=(),
        bertjax_version=bertjax.__version__,
    )
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    shards, filled = [], 0
    for number, path in enumerate(paths):
        lengths: list[int] = []
        stream = _messages(path)
        while messages := list(islice(stream, _AT_ONCE)):
            batch = _parse(messages, manifest, path)
            filled += int(batch["input_mask"].sum())
            counts += _count(batch, tokenizer, path)
            lengths += map(len, messages)
        shards.append(_take(path, output / shard_name(number, len(paths)), lengths))
    special = tokenizer.never_random[tokenizer.never_random != tokenizer.unk_id]
    counts[special] = 0
    found = dataclasses.replace(
        manifest,
        settings={"adopted": True, "masked_lm_prob": BuildSettings.masked_lm_prob},
        corpus={"tokens": int(counts.sum()), **piece_facts(counts, tokenizer.unk_id)},
        padding_share=1 - filled / max(sum(s.examples for s in shards) * length, 1),
        shards=tuple(shards),
    )
    tokenizer.save(output)
    found.save(output)
    return found


def _messages(path: Path) -> Iterator[bytes]:
    try:
        lengths = tfrecord.scan(path)
        yield from progress_bar(tfrecord.Reader(path, lengths), desc=path.name, unit=" records")
    except tfrecord.Damaged as error:
        raise UserError(f"{path}: {error}; copy it again or leave the file out") from None


def _widths(path: Path) -> tuple[int, int]:
    """T and P, which a 2018 record does not name but has."""
    message = next(_messages(path), None)
    if message is None:
        raise UserError(f"{path}: no records in it; leave the file out")
    features = example_pb2.Example.FromString(message).features.feature
    missing = [name for name in records.FEATURES if name not in features]
    if missing:
        raise UserError(
            f"{path}: its records have no {missing[0]}, so the builder of 2018 has not made them"
        )
    return (
        len(features["input_ids"].int64_list.value),
        len(features["masked_lm_positions"].int64_list.value),
    )


def _parse(messages: Sequence[bytes], manifest: Manifest, path: Path) -> dict[str, np.ndarray]:
    try:
        parsed = records.parse(tf.constant(messages), manifest)
    except tf.errors.InvalidArgumentError:
        raise UserError(
            f"{path}: not all of its records have length {manifest.max_seq_length} and "
            f"{manifest.max_predictions_per_seq} predictions; take over one kind at a time"
        ) from None
    return {name: value.numpy() for name, value in parsed.items()}


def _count(batch: dict[str, np.ndarray], tokenizer: Tokenizer, path: Path) -> np.ndarray:
    """How often each piece stands in the text, before it was masked."""
    ids = batch["input_ids"].copy()
    rows, columns = np.nonzero(batch["masked_lm_weights"])
    ids[rows, batch["masked_lm_positions"][rows, columns]] = batch["masked_lm_ids"][rows, columns]
    ids = ids[batch["input_mask"] > 0]
    if len(ids) and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
        wrong = ids[(ids < 0) | (ids >= tokenizer.vocab_size)][0]
        raise UserError(
            f"{path}: holds the id {wrong}, --vocab has {tokenizer.vocab_size} entries; give the "
            "vocabulary that the records were made with"
        )
    return np.bincount(ids, minlength=tokenizer.vocab_size)


def _take(path: Path, target: Path, lengths: list[int]) -> Shard:
    with whole(target) as partial:
        try:
            os.link(path.resolve(), partial)
        except OSError:
            shutil.copyfile(path, partial)
    return entry_of(target, lengths)
