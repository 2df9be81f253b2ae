"""Pretraining's data: records of one length, then of another; opened, checked, read in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from itertools import islice, pairwise
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from bertjax.data import dynamic
from bertjax.data import input as data_input
from bertjax.data.masking import MaskingSettings
from bertjax.data.records import Records
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.text import tokenizer
from bertjax.training.schedules import Schedule, Stretch

# What says nothing of masks.
_AS_PREPARED = ConfigDict({"mask_unit": "", "masked_lm_prob": 0.0, "mask_shares": ()})


class Phase(NamedTuple):
    """A stretch of training on one folder of records.

    Attributes:
      batch_size: rows of a batch (of the longest rows, where there are several shapes).
      first_step: where it begins; num_steps: how long it is.
      shapes: lengths to group its records by, besides their own.
      first_row: rows of the records that phases before it have read.
    """

    records: Records
    batch_size: int
    first_step: int
    num_steps: int
    shapes: tuple[int, ...]
    first_row: int = 0


def open_records(folder: str, flag: str, skip_damaged: bool = False) -> Records:
    """Opens a folder of records whose vocabulary is the one its manifest names."""
    if not folder:
        raise UserError(f"{flag} is not set; give the --output folder of bertjax.prepare")
    records = Records(storage.path(folder), skip_damaged)
    if tokenizer.load(folder).fingerprint != records.manifest.tokenizer["fingerprint"]:
        raise UserError(
            f"{folder}: the vocabulary is not the one of {folder}/manifest.json; prepare the "
            "records again"
        )
    return records


def check_length(records: Records, positions: int) -> None:
    """The model must have a position for every token of a record."""
    length = records.manifest.max_seq_length
    if length > positions:
        raise UserError(
            f"{records.folder}: records of length {length}, the model has {positions} positions; "
            "set model.max_positions"
        )


def check_same(records: Records, other: Records) -> None:
    """All records of a run must share the tokenizer, and have labels or not."""
    if records.manifest.tokenizer != other.manifest.tokenizer:
        raise UserError(
            f"{other.folder}: made with another vocabulary than {records.folder}; prepare it with "
            f"--vocab {records.folder}"
        )
    if records.manifest.has_label != other.manifest.has_label:
        raise UserError(
            f"{other.folder}: made with --segments={other.manifest.settings['segments']}, "
            f"{records.folder} with {records.manifest.settings['segments']}; one of them has "
            "labels of sequences, the other has none"
        )


def plan(config: ConfigDict, records: Records, longer: Records | None) -> list[Phase]:
    """One phase, or two: the last train.long_share of the steps on longer records.

    A batch of the second has about as many tokens as the last one before, unless
    train.long_batch_size tells its rows. data.shapes up to the first records' length are theirs,
    longer ones the second's. The first is cut where its batches grow (train.batch_growth).

    Raises:
      UserError: a share that is none or leaves a phase without steps, second records that are not
        longer, shapes that no record has or whose rows are all of one length, batches that grow at
        no step of the first phase, rows of a second phase where there is none.
    """
    train, length = config.train, records.manifest.max_seq_length
    shorter, rest = _shapes(config, records, longer)
    if longer is None:
        if train.long_batch_size:
            raise UserError("train.long_batch_size: data.long_records is not set")
        return _growing(Phase(records, train.batch_size, 0, train.steps, shorter), config)
    other = longer.manifest.max_seq_length
    if other <= length:
        raise UserError(
            f"data.long_records: of length {other}, not longer than {length} of data.records"
        )
    if not 0 < train.long_share < 1:
        raise UserError(f"train.long_share={train.long_share}: give a share between 0 and 1")
    first = train.steps - round(train.steps * train.long_share)
    if not 0 < first < train.steps:
        raise UserError(
            f"train.long_share={train.long_share}: of {train.steps:,} steps that is {first:,} on "
            f"records of length {length} and {train.steps - first:,} of {other}; both need one"
        )
    begin = _growing(Phase(records, train.batch_size, 0, first, shorter), config)
    rows = train.long_batch_size or max(1, begin[-1].batch_size * length // other)
    return [*begin, Phase(longer, rows, first, train.steps - first, rest)]


def _shapes(
    config: ConfigDict, records: Records, longer: Records | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """data.shapes up to the first records' length, and those above it, of the second."""
    shapes, length = tuple(config.data.shapes), records.manifest.max_seq_length
    longest = length if longer is None else max(length, longer.manifest.max_seq_length)
    if any(not 8 <= shape <= longest for shape in shapes):
        raise UserError(f"data.shapes={shapes}: give lengths from 8 to the records', {longest}")
    shorter = tuple(shape for shape in shapes if shape <= length)
    rest = tuple(shape for shape in shapes if shape > length)
    for opened, own in ((records, shorter), (longer, rest)):
        if opened is not None and own:
            data_input.check_lengths(opened)
    return shorter, rest


def _growing(phase: Phase, config: ConfigDict) -> list[Phase]:
    """Cuts a phase at the steps of train.batch_growth; its records go on where they were."""
    growth = tuple(config.train.batch_growth)
    name = f"train.batch_growth={growth}"
    if not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(type(n) is int for n in pair)
        for pair in growth
    ):
        raise UserError(f"{name}: give pairs of a step and its rows: ((1000, 512), (2000, 1024))")
    if growth and phase.shapes:
        raise UserError(f"{name}: not together with data.shapes; leave one of them out")
    end = phase.first_step + phase.num_steps
    borders = [phase.first_step, *(step for step, _ in growth), end]
    if growth and any(after <= before for before, after in pairwise(borders)):
        raise UserError(f"{name}: its steps must grow, from 1 to {end - 1:,}")
    found, first_row = [], 0
    sizes = [phase.batch_size, *(rows for _, rows in growth)]
    for (step, after), rows in zip(pairwise(borders), sizes, strict=True):
        found.append(Phase(phase.records, rows, step, after - step, phase.shapes, first_row))
        first_row += rows * (after - step)
    return found


def count_steps(config: ConfigDict, records: Records) -> int:
    """train.steps; where that is 0, as many as make train.epochs of the records.

    Raises:
      UserError: both are 0, or one is negative or not finite.
    """
    train = config.train
    epochs = train.get("epochs", 0.0)
    if not 0 <= epochs < math.inf:
        raise UserError(f"train.epochs={epochs:g}: give 0 or more")
    if train.batch_size < 1:
        raise UserError(f"train.batch_size={train.batch_size}: give at least 1")
    steps = train.steps or math.ceil(epochs * len(records) / train.batch_size)
    if steps < 1:
        raise UserError(f"train.steps={train.steps} train.epochs={epochs:g}: give at least one")
    return steps


def schedule(config: ConfigDict, plan: list[Phase]) -> Schedule:
    """The learning rate: one stretch, or another one where the longer records begin.

    Raises:
      UserError: numbers that make no schedule.
    """
    train, last = config.train, plan[-1]
    for name in ("learning_rate", "warmup_steps", "long_learning_rate", "long_warmup_steps"):
        if not 0 <= train[name] < math.inf:
            raise UserError(f"train.{name}={train[name]:g}: give 0 or more")
    if not 0 < train.decay_share <= 1:
        raise UserError(f"train.decay_share={train.decay_share}: give a share above 0, at most 1")
    if not train.long_learning_rate:
        if train.long_warmup_steps:
            raise UserError("train.long_warmup_steps: train.long_learning_rate is not set")
        only = Stretch(train.learning_rate, train.warmup_steps, train.steps, train.decay_share)
        return Schedule(train.schedule, (only,))
    if last.records is plan[0].records:
        raise UserError("train.long_learning_rate: data.long_records is not set")
    first = last.first_step
    begin = Stretch(train.learning_rate, train.warmup_steps, first, train.decay_share)
    rest = Stretch(
        train.long_learning_rate, train.long_warmup_steps, last.num_steps, train.decay_share, first
    )
    return Schedule(train.schedule, (begin, rest))


def batches(
    phases: list[Phase],
    start_step: int,
    seed: int,
    parts: tuple[int, ...] = (0,),
    num_parts: int = 1,
) -> Generator[data_input.Batch]:
    """This process's batches, its parts of the global ones, from a step to the last one."""
    for phase in phases:
        done = max(0, start_step - phase.first_step)
        if done < phase.num_steps:
            stream = data_input.train_batches(
                phase.records,
                batch_size=phase.batch_size,
                seed=seed,
                start_step=done,
                shapes=phase.shapes,
                first_row=phase.first_row,
                parts=parts,
                num_parts=num_parts,
            )
            yield from islice(stream, phase.num_steps - done)


def masks(
    config: ConfigDict, records: Records, hide: bool = True, as_prepared: bool = False
) -> MaskingSettings | None:
    """The masks of compact records: as the manifest says, or as the config says otherwise.

    Args:
      hide: False for a model that sees every token.
      as_prepared: as the manifest says, whatever the config does.

    Raises:
      UserError: settings of masks where there are none, or for records that are masked already.
    """
    made = records.manifest.settings
    wanted = _AS_PREPARED if as_prepared else config.data
    changes = {
        "mask_unit": wanted.mask_unit,
        "masked_lm_prob": wanted.masked_lm_prob,
        "mask_shares": tuple(wanted.mask_shares),
    }
    changed = [f"data.{name}" for name, value in changes.items() if value]
    if changed and not hide:
        raise UserError(f"{changed[0]}: this model sees every token; leave the setting out")
    if changed and not records.manifest.dynamic:
        raise UserError(
            f"{changed[0]}: {records.folder} is masked already; prepare it with --masking=dynamic"
        )
    if len(wanted.mask_shares) not in (0, 2):
        raise UserError("data.mask_shares: give two shares, of [MASK] and of other pieces: 0.8,0.1")
    if not hide:
        return None
    rate = made.get("masked_lm_prob", 0.15)
    share = (wanted.masked_lm_prob or rate) / rate
    shares = wanted.mask_shares or (made.get("mask_share", 0.8), made.get("random_share", 0.1))
    return MaskingSettings(
        max_predictions=max(1, round(records.manifest.max_predictions_per_seq * share)),
        masked_lm_prob=wanted.masked_lm_prob or rate,
        unit=wanted.mask_unit or made.get("mask_unit", "token"),
        mask_share=shares[0],
        random_share=shares[1],
    )


def expander(
    config: ConfigDict,
    opened: list[Records],
    seed: int,
    hide: bool = True,
    as_prepared: bool = False,
) -> Callable[[dynamic.Batch], dynamic.Batch]:
    """From any of the records' batches to the model's; their length tells which they are of."""
    found: dict[int, Any] = {
        records.manifest.max_seq_length: dynamic.expander(
            records.manifest,
            tokenizer.load(records.folder),
            masks(config, records, hide, as_prepared),
            seed,
        )
        for records in opened
    }

    def expand(batch: dynamic.Batch) -> dynamic.Batch:
        length = batch["input_ids"].shape[1]
        return found[min(known for known in found if known >= length)](batch)

    return expand
