"""What a plan is made for: the run on records that are there, or on such as are imagined."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax.data import input as data_input
from bertjax.data.manifest import Manifest
from bertjax.data.records import FEATURES, Records
from bertjax.errors import UserError
from bertjax.models import encoders
from bertjax.models.config import EncoderConfig
from bertjax.planner.estimate import Shapes
from bertjax.training import arithmetic, inputs, phases, program
from bertjax.training.phases import Phase
from bertjax.training.program import Program


class Work(NamedTuple):
    """What is to be trained: settings, encoder, and batches in phases.

    Attributes:
      build: mesh -> the functions of the run.
      shapes: (phase, rows) -> what its batches are, as they are read.
      scored: phase -> the positions of a row that are to be named.
    """

    config: ConfigDict
    encoder: EncoderConfig
    phases: list[Phase]
    build: Callable[[Mesh | None], Program]
    shapes: Callable[[Phase, int], Shapes]
    scored: Callable[[Phase], int]


def prepared(config: ConfigDict) -> Work:
    """The work on the records that the config names: what bertjax.pretrain compiles.

    Raises:
      UserError: whatever would hinder the run itself.
    """
    given = inputs.open_inputs(config)

    def shapes(phase: Phase, rows: int) -> Shapes:
        one = next(data_input.train_batches(phase.records, batch_size=1, seed=0))
        return {name: ((rows, *value.shape[1:]), value.dtype) for name, value in one.items()}

    def build(mesh: Mesh | None) -> Program:
        return inputs.build_program(config, given, mesh)

    def scored(phase: Phase) -> int:
        return arithmetic.scored(config, given, phase)

    return Work(config, given.encoder, given.phases, build, shapes, scored)


def imagined(config: ConfigDict, lengths: list[int], vocab_size: int) -> Work:
    """The work as if records were there: padded rows of 2018, of whose tokens 15 % are predicted,
    or what data.masked_lm_prob says.

    Args:
      lengths: of rows; two for two phases, split as train.long_share says.

    Raises:
      UserError: lengths that are none, settings that do not go together.
    """
    if not 1 <= len(lengths) <= 2 or min(lengths) < 8:
        raise UserError("--seq_length: give one length, or two for two phases, of 8 or more")
    if len(lengths) == 1 and (config.train.long_batch_size or config.train.long_learning_rate):
        raise UserError(
            f"--seq_length={lengths[0]}: the config has a second phase, of longer records; give "
            "two lengths"
        )
    config.train.steps = _steps(config)
    encoder = encoders.from_settings(config, vocab_size)
    pretraining, share = encoders.pretraining(encoder), config.data.masked_lm_prob or 0.15
    opened: list[Any] = [
        SimpleNamespace(folder="records", manifest=_manifest(length, vocab_size, share))
        for length in lengths
    ]
    for records in opened:
        phases.check_length(records, encoder.max_positions)
    plan = phases.plan(config, opened[0], opened[1] if opened[1:] else None)
    schedule = phases.schedule(config, plan)
    labels = config.train.get("next_sentence", True)

    def scored(phase: Phase) -> int:
        manifest = phase.records.manifest
        return manifest.max_predictions_per_seq if pretraining.masks else manifest.max_seq_length

    def build(mesh: Mesh | None) -> Program:
        return program.build(
            config,
            encoder,
            schedule,
            text=encoders.Text(labels, lambda: np.ones(encoder.vocab_size)),
            words=None,
            expand=lambda batch: batch,
            mesh=mesh,
        )

    return Work(config, encoder, plan, build, _padded_rows, scored)


def _steps(config: ConfigDict) -> int:
    """Raises UserError: none, or as many as only records could tell."""
    train, unknown = config.train, cast(Records, ())
    if train.get("epochs", 0.0) > 0 and not train.steps:
        raise UserError(
            f"train.epochs={train.epochs:g}: only records tell how many steps that makes; give "
            "train.steps, or data.records that are there"
        )
    return phases.count_steps(config, unknown)


def _manifest(length: int, vocab_size: int, share: float) -> Manifest:
    return Manifest(
        max_seq_length=length,
        max_predictions_per_seq=math.ceil(share * length),
        vocab_size=vocab_size,
        tokenizer={},
        settings={},
        corpus={},
        source={},
        padding_share=0.0,
        shards=(),
        bertjax_version="",
    )


def _padded_rows(phase: Phase, rows: int) -> Shapes:
    """As records.parse gives them: int32 and float32."""
    manifest = phase.records.manifest
    sizes = {"T": manifest.max_seq_length, "P": manifest.max_predictions_per_seq, "1": 1}
    return {
        name: ((rows, sizes[size]), np.dtype("float32" if kind == "float32" else "int32"))
        for name, (size, kind) in FEATURES.items()
    }
