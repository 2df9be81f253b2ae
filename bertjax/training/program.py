"""What pretraining compiles, built from settings: the same for a run and for the plan of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax.errors import UserError
from bertjax.models import encoders
from bertjax.models.config import EncoderConfig
from bertjax.models.objectives import Batch, Objective
from bertjax.training import optimizer
from bertjax.training.schedules import Schedule, scale_by_schedule
from bertjax.training.train_step import TrainStep, make_row_step, make_train_step

# Numbers of a TPU's activations [T, D] that are worked on at once: what is measured to stay in its
# fast memory (v5e, 128 MiB), with the inner widths and attention of their layer.
_AT_ONCE = 8192 * 768


class Parts(NamedTuple):
    """In how many parts a step works on its batch; see train_step.make_train_step."""

    microbatches: int
    tokens_at_once: int


class Program(NamedTuple):
    """The pure functions of a pretraining run.

    Attributes:
      init: key -> parameters.
      optimizer: what the state is born with, and updates are made by.
      objective: what is minimised.
      train_step: (state, batch as it is read) -> (state, metrics), jitted.
      parts: in which an evaluation, too, works on a batch.
    """

    init: Callable[[Array], Any]
    optimizer: optax.GradientTransformation
    objective: Objective
    train_step: TrainStep
    parts: Parts


def build(
    config: ConfigDict,
    encoder: EncoderConfig,
    schedule: Schedule,
    *,
    text: encoders.Text,
    words: Any,
    expand: Callable[[Batch], Batch],
    mesh: Mesh | None,
) -> Program:
    """Builds everything from a config's train settings; nothing is computed yet.

    Args:
      text: what is known of the text that is trained on.
      words: the tokenizer, for encoders that read the letters of its entries.
      expand: from batches as they are read to those the objective takes.
      mesh: of the devices that it will run on; see make_train_step.

    Raises:
      UserError: settings that no optimizer or schedule knows; no words for one who needs them.
    """
    pretraining = encoders.pretraining(encoder)
    model = pretraining.model(encoder, words, text)
    init = init_function(model, pretraining.inputs)
    if pretraining.updates is not None:
        if words is None:
            raise UserError(f"{encoder.encoder} needs the words of records; set data.records")
        updates = pretraining.updates(encoder, text.counts(), words)
        tx = scale_by_schedule(schedule)
        step = make_row_step(updates, tx, expand=expand, mesh=mesh)
        return Program(init, tx, updates.objective, step, Parts(1, 0))
    train = config.train
    tx = optimizer.make_optimizer(
        train.optimizer,
        schedule,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
        moment_dtype=train.moment_dtype,
    )
    objective = pretraining.objective(model, text)
    parts = Parts(train.microbatches, _AT_ONCE // encoder.hidden_size)
    step = make_train_step(
        objective,
        tx,
        **parts._asdict(),
        expand=expand,
        mesh=mesh,
        norms_every=config.log_every,
    )
    return Program(init, tx, objective, step, parts)


def init_function(model: nn.Module, inputs: tuple[str, ...]) -> Callable[[Array], Any]:
    """key -> parameters; shapes do not depend on batch or length."""

    def init(key: Array) -> Any:
        row = np.zeros((1, 8), np.int32)
        return model.init(key, *[row] * len(inputs))["params"]

    return init
