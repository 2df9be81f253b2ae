"""Pretrains BERT on prepared records: masked LM and next sentence.

example:
  python -m bertjax.pretrain --config=configs/bert.py:tiny --workdir=runs/tiny \\
      data.records=records/books train.steps=2000 train.batch_size=32
"""

from __future__ import annotations

import argparse
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
    errors,
    loop,
    memory,
    optimizer,
    partition,
    settings,
    tokenizer,
)
from bertjax.command_line import new_parser
from bertjax.data import input as data_input
from bertjax.errors import UserError
from bertjax.models import config as model_sizes
from bertjax.models import heads, objectives
from bertjax.models.config import BertConfig
from bertjax.run_log import RunLog, read_metrics
from bertjax.state import TrainState, abstract_state, init_state
from bertjax.train_step import make_eval_step, make_train_step


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("pretrain", __doc__)
    add = parser.add_argument
    add("--config", required=True, help="configs/FILE.py:ARGUMENT, e.g. configs/bert.py:mini")
    add("--workdir", type=Path, required=True, help="folder of the run; continued if it has one")
    add("overrides", nargs="*", metavar="name=value", help="settings of the config to change")
    return parser.parse_args(argv)


def open_records(folder: str, flag: str) -> data_input.Records:
    """Opens a folder of records whose vocabulary is the one its manifest names."""
    if not folder:
        raise UserError(f"{flag} is not set; give the --output folder of bertjax.prepare")
    records = data_input.Records(Path(folder))
    if tokenizer.load(folder).fingerprint != records.manifest.tokenizer["fingerprint"]:
        raise UserError(
            f"{folder}: the vocabulary is not the one of {folder}/manifest.json; prepare the "
            "records again"
        )
    return records


def build_model(config: ConfigDict, records: data_input.Records) -> BertConfig:
    """The model that fits the records; what the manifest says is not repeated in the config."""
    wanted: dict[str, Any] = config.model.to_dict()
    wanted |= model_sizes.size(wanted.pop("size"))
    return BertConfig(vocab_size=records.manifest.vocab_size, **wanted)


def check_length(records: data_input.Records, positions: int) -> None:
    """The model must have a position for every token of a record."""
    length = records.manifest.max_seq_length
    if length > positions:
        raise UserError(
            f"{records.folder}: records of length {length}, the model has {positions} positions; "
            "set model.max_positions"
        )


def check_same(records: data_input.Records, other: data_input.Records) -> None:
    """Training and held-out records must share the tokenizer."""
    if records.manifest.tokenizer != other.manifest.tokenizer:
        raise UserError(
            f"{other.folder}: made with another vocabulary than {records.folder}; prepare it with "
            f"--vocab {records.folder}"
        )


def resolved(config: ConfigDict, model: BertConfig, records: data_input.Records) -> dict[str, Any]:
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
    init: Any, tx: Any, mesh: Any, seed: int, checkpoints: checkpoint.Checkpoints
) -> TrainState:
    """1. this run's own checkpoint; 2. scratch."""
    if checkpoints.latest_step() is None:
        return init_state(init, tx, mesh, seed)
    state = checkpoints.restore(abstract_state(init, tx, mesh))
    print(f"continuing at step {int(state.step):,}")
    return state


def warn_if_stuck(loss: float, entropy: float, log: RunLog) -> None:
    if loss >= entropy:
        log.say(
            f"warning: the masked-LM loss {loss:.3f} is not below {entropy:.3f}, what the "
            "frequencies of the pieces alone would give: nothing is learnt from context yet. Train "
            "longer, or try another train.learning_rate; look for duplicate or shuffled text."
        )


class Inputs(NamedTuple):
    """Records to train on and, if wanted, records held out; the model that fits them."""

    records: data_input.Records
    held_out: data_input.Records | None
    bert: BertConfig


def open_inputs(config: ConfigDict) -> Inputs:
    """Opens the records and checks them against each other and the config.

    Raises:
      UserError: anything that would fail later, before anything is computed or written.
    """
    records = open_records(config.data.records, "data.records")
    check_length(records, config.model.max_positions)
    held_out = None
    if config.data.eval_records:
        held_out = open_records(config.data.eval_records, "data.eval_records")
        check_length(held_out, config.model.max_positions)
        check_same(records, held_out)
    return Inputs(records, held_out, build_model(config, records))


def make_evaluate(
    inputs: Inputs, objective: objectives.Objective, mesh: Mesh, batch_size: int, log: RunLog
) -> loop.Evaluate | None:
    """Evaluation on the held-out records, every example once; None if there are none."""
    held_out = inputs.held_out
    if held_out is None:
        return None
    eval_step = make_eval_step(objective)
    entropy = inputs.records.manifest.corpus["unigram_entropy"]

    def evaluate(state: TrainState) -> tuple[dict[str, float], float | None]:
        batches = data_input.eval_batches(held_out, batch_size=batch_size, **hosts())
        found = loop.evaluate_batches(eval_step, state.params, batches, mesh)
        log.say(
            f"held out, step {int(state.step):,}: masked-LM loss {found['masked_lm_loss']:.3f}, "
            f"accuracy {found['masked_lm_accuracy']:.3f}, "
            f"next-sentence accuracy {found['next_sentence_accuracy']:.3f}"
        )
        warn_if_stuck(found["masked_lm_loss"], entropy, log)
        return {f"eval_{name}": value for name, value in found.items()}, None

    return evaluate


def hosts() -> dict[str, int]:
    return {"host": jax.process_index(), "num_hosts": jax.process_count()}


def train(
    config: ConfigDict, workdir: Path, inputs: Inputs, mesh: Mesh, timetable: loop.Timetable
) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step."""
    wanted, manifest = config.train, inputs.records.manifest
    entropy = manifest.corpus["unigram_entropy"]
    model = heads.PretrainingModel(inputs.bert)
    objective = objectives.pretraining(model)
    schedule = optimizer.LinearSchedule(wanted.learning_rate, wanted.warmup_steps, wanted.steps)
    tx = optimizer.adamw(schedule, weight_decay=wanted.weight_decay, clip_norm=wanted.clip_norm)
    train_step = make_train_step(objective, tx, microbatches=wanted.microbatches)
    init = init_function(model, manifest.max_predictions_per_seq)
    with checkpoint.Checkpoints(workdir, keep_last=config.keep_last) as checkpoints:
        state = start_state(init, tx, mesh, wanted.seed, checkpoints)
        start = int(state.step)
        batches = data_input.train_batches(
            inputs.records,
            batch_size=wanted.batch_size,
            seed=wanted.seed,
            start_step=start,
            **hosts(),
        )
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
                evaluate=make_evaluate(inputs, objective, mesh, wanted.batch_size, log),
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
    partition.check_batch_size(config.train.batch_size, mesh, config.train.microbatches)
    timetable = loop.Timetable(
        config.train.steps, config.log_every, config.eval_every, config.save_every
    )
    checkpoint.save_config(flags.workdir, resolved(config, inputs.bert, inputs.records))
    tokenizer.load(inputs.records.folder).save(flags.workdir)
    train(config, flags.workdir, inputs, mesh, timetable)


if __name__ == "__main__":
    sys.exit(errors.run(main))
