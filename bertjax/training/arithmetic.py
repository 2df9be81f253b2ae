"""What a batch takes in operations of the model; the share of peak in the log goes by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from bertjax.models import flops
from bertjax.models.config import EncoderConfig
from bertjax.training import phases
from bertjax.training.inputs import Inputs

Operations = Callable[[dict[str, np.ndarray]], float]


def of_pretraining(config: ConfigDict, inputs: Inputs) -> Operations | None:
    """Counts one update's; None for an encoder whose arithmetic nobody has counted."""
    encoder = inputs.encoder
    if not isinstance(encoder, flops.Counted):
        return None
    # Scored positions of a token, and sequences of a row, by the length of records.
    known: dict[int, tuple[float, int]] = {}
    for phase in inputs.phases:
        manifest = phase.records.manifest
        length = manifest.max_seq_length
        known[length] = scored(config, inputs, phase) / length, manifest.max_sequences

    def operations(batch: dict[str, np.ndarray]) -> float:
        rows, length = batch["input_ids"].shape
        share, sequences = known[min(each for each in known if each >= length)]
        return flops.pretraining_step(encoder, rows, length, round(share * length), sequences)

    return operations


def scored(config: ConfigDict, inputs: Inputs, phase: phases.Phase) -> int:
    """The positions of a row that are to be named: those that are masked, or all."""
    masks = phases.masks(config, phase.records, inputs.pretraining.masks)
    return masks.max_predictions if masks else phase.records.manifest.max_seq_length


def of_tuning(encoder: EncoderConfig, *, frozen: bool) -> Operations | None:
    """The same of a task, whose head is small beside the encoder and left out."""
    if not isinstance(encoder, flops.Counted):
        return None

    def operations(batch: dict[str, np.ndarray]) -> float:
        return (1 if frozen else 3) * flops.encoder(encoder, *batch["input_ids"].shape)

    return operations
