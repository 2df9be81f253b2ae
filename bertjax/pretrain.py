"""Pretrains BERT on prepared records: masked LM and next sentence.

example:
  python -m bertjax.pretrain --config=configs/bert.py:tiny --workdir=runs/tiny \\
      data.records=records/books train.steps=2000 train.batch_size=32
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax import (
    checkpoint,
    compile_cache,
    continuation,
    errors,
    loop,
    memory,
    optimizer,
    partition,
    phases,
    pretrained,
    settings,
    tokenizer,
)
from bertjax.command_line import new_parser
from bertjax.data import input as data_input
from bertjax.data.records import Records
from bertjax.models import config as model_sizes
from bertjax.models import heads, objectives
from bertjax.models.config import BertConfig
from bertjax.run_log import RunLog, read_metrics
from bertjax.state import TrainState, abstract_state, init_state, with_params
from bertjax.train_step import make_eval_step, make_train_step


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("pretrain", __doc__)
    add = parser.add_argument
    add("--config", required=True, help="configs/FILE.py:ARGUMENT, e.g. configs/bert.py:mini")
    add("--workdir", type=Path, required=True, help="folder of the run; continued if it has one")
    add("overrides", nargs="*", metavar="name=value", help="settings of the config to change")
    return parser.parse_intermixed_args(argv)  # settings may stand before and behind flags


def build_model(
    config: ConfigDict, records: Records, start: pretrained.Pretrained | None
) -> BertConfig:
    """The model that fits the records; what the manifest says is not repeated in the config.

    A model to go on from tells its own sizes.
    """
    if start is not None:
        kept = ("hidden_dropout", "attention_dropout", "dtype")
        changes = {name: config.model[name] for name in kept}
        return dataclasses.replace(start.config, vocab_size=records.manifest.vocab_size, **changes)
    wanted: dict[str, Any] = config.model.to_dict()
    wanted |= model_sizes.size(wanted.pop("size"))
    return BertConfig(vocab_size=records.manifest.vocab_size, **wanted)


def resolved(config: ConfigDict, model: BertConfig, records: Records) -> dict[str, Any]:
    manifest = records.manifest
    return {
        "kind": "pretrain",
        "model": model.to_dict(),
        "tokenizer": manifest.tokenizer,
        "records": manifest.fingerprint,
        "max_seq_length": manifest.max_seq_length,
        "unigram_entropy": manifest.corpus["unigram_entropy"],
        "settings": config.to_dict(),
    }


def init_function(model: heads.PretrainingModel, predictions: int):
    """key -> parameters; shapes do not depend on batch or length."""

    def init(key: Array) -> Any:
        ids = np.zeros((1, 8), np.int32)
        positions = np.zeros((1, predictions), np.int32)
        return model.init(key, ids, ids, ids, positions)["params"]

    return init


def start_state(
    init: Any, tx: Any, mesh: Any, seed: int, checkpoints: checkpoint.Checkpoints, inputs: Inputs
) -> TrainState:
    """1. this run's own checkpoint; 2. the model to go on from; 3. scratch."""
    if checkpoints.latest_step() is not None:
        state = checkpoints.restore(abstract_state(init, tx, mesh))
        print(f"continuing at step {int(state.step):,}")
        return state
    state = init_state(init, tx, mesh, seed)
    if inputs.start is None:
        return state
    words = tokenizer.load(inputs.records.folder)
    merged, lines = continuation.merge(inputs.start, jax.device_get(state.params), words)
    print("\n".join([f"weights from {inputs.start.name}", *lines]))
    return with_params(state, merged)


def warn_if_stuck(loss: float, entropy: float, log: RunLog) -> None:
    if loss >= entropy:
        log.say(
            f"warning: the masked-LM loss {loss:.3f} is not below {entropy:.3f}, what the "
            "frequencies of the pieces alone would give: nothing is learnt from context yet. Train "
            "longer, or try another train.learning_rate; look for duplicate or shuffled text."
        )


class Inputs(NamedTuple):
    """What to train on, in phases; the model that fits it.

    If wanted, records held out and a model to go on from.
    """

    phases: list[phases.Phase]
    held_out: Records | None
    bert: BertConfig
    start: pretrained.Pretrained | None

    @property
    def records(self) -> Records:
        """Those of the first phase."""
        return self.phases[0].records


def open_inputs(config: ConfigDict) -> Inputs:
    """Opens the records and checks them against each other and the config.

    Raises:
      UserError: anything that would fail later, before anything is computed or written.
    """
    data = config.data
    records = phases.open_records(data.records, "data.records", data.skip_damaged)
    opened: list[Records | None] = [None, None]
    for place, name in enumerate(("long_records", "eval_records")):
        if data[name]:
            found = phases.open_records(data[name], f"data.{name}", data.skip_damaged)
            phases.check_same(records, found)
            opened[place] = found
    longer, held_out = opened
    start = pretrained.load(Path(config.init)) if config.init else None
    if start is not None:
        continuation.check_vocabulary(start, tokenizer.load(records.folder))
    bert = build_model(config, records, start)
    for each in filter(None, (records, longer, held_out)):
        phases.check_length(each, bert.max_positions)
        phases.masks(config, each)
    return Inputs(phases.plan(config, records, longer), held_out, bert, start)


def make_evaluate(
    config: ConfigDict,
    inputs: Inputs,
    objective: objectives.Objective,
    mesh: Mesh,
    log: RunLog,
) -> loop.Evaluate | None:
    """Evaluation on the held-out records, every example once; None if there are none."""
    held_out = inputs.held_out
    if held_out is None:
        return None
    eval_step = make_eval_step(objective, phases.expander(config, [held_out], config.train.seed))
    entropy = inputs.records.manifest.corpus["unigram_entropy"]

    def evaluate(state: TrainState) -> tuple[dict[str, float], float | None]:
        batches = data_input.eval_batches(
            held_out, batch_size=config.train.batch_size, **phases.hosts()
        )
        found = loop.evaluate_batches(eval_step, state.params, batches, mesh)
        text = (
            f"held out, step {int(state.step):,}: masked-LM loss {found['masked_lm_loss']:.3f}, "
            f"accuracy {found['masked_lm_accuracy']:.3f}"
        )
        if "next_sentence_accuracy" in found:
            text += f", next-sentence accuracy {found['next_sentence_accuracy']:.3f}"
        log.say(text)
        warn_if_stuck(found["masked_lm_loss"], entropy, log)
        return {f"eval_{name}": value for name, value in found.items()}, None

    return evaluate


def train(
    config: ConfigDict, workdir: Path, inputs: Inputs, mesh: Mesh, timetable: loop.Timetable
) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step."""
    wanted, manifest = config.train, inputs.records.manifest
    entropy = manifest.corpus["unigram_entropy"]
    model = heads.PretrainingModel(inputs.bert)
    objective = objectives.pretraining(model, next_sentence=manifest.has_label)
    schedule = optimizer.LinearSchedule(wanted.learning_rate, wanted.warmup_steps, wanted.steps)
    tx = optimizer.adamw(schedule, weight_decay=wanted.weight_decay, clip_norm=wanted.clip_norm)
    expand = phases.expander(config, [phase.records for phase in inputs.phases], wanted.seed)
    train_step = make_train_step(objective, tx, microbatches=wanted.microbatches, expand=expand)
    init = init_function(model, manifest.max_predictions_per_seq)
    with checkpoint.Checkpoints(workdir, keep_last=config.keep_last) as checkpoints:
        state = start_state(init, tx, mesh, wanted.seed, checkpoints, inputs)
        start = int(state.step)
        batches = phases.batches(inputs.phases, start, wanted.seed)
        with RunLog(workdir, "pretraining", wanted.steps, start) as log:
            log.say(f"the masked-LM loss must fall below {entropy:.3f} (unigram entropy, nats)")
            loop.train(
                state,
                train_step,
                batches,
                mesh=mesh,
                timetable=timetable,
                log=log,
                checkpoints=checkpoints,
                evaluate=make_evaluate(config, inputs, objective, mesh, log),
            )
            last = read_metrics(workdir)[-1:]
            if inputs.held_out is None and last:
                warn_if_stuck(last[0]["masked_lm_loss"], entropy, log)


def main() -> None:
    flags = parse_arguments()
    memory.keep_freed_memory()
    compile_cache.turn_on()
    config = settings.load(flags.config, flags.overrides)
    inputs = open_inputs(config)
    mesh = partition.make_mesh(**config.mesh.to_dict())
    for phase in inputs.phases:
        partition.check_batch_size(phase.batch_size, mesh, config.train.microbatches)
    timetable = loop.Timetable(
        config.train.steps, config.log_every, config.eval_every, config.save_every
    )
    checkpoint.save_config(flags.workdir, resolved(config, inputs.bert, inputs.records))
    tokenizer.load(inputs.records.folder).save(flags.workdir)
    train(config, flags.workdir, inputs, mesh, timetable)


if __name__ == "__main__":
    sys.exit(errors.run(main))
