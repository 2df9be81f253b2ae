"""Pretrains BERT on prepared records: masked LM and next sentence.

example:
  python -m bertjax.pretrain --config=configs/bert.py:tiny --workdir=runs/tiny \\
      data.records=records/books train.steps=2000 train.batch_size=32
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from bertjax import checkpoint, errors, loop, memory, optimizer, partition, settings, tokenizer
from bertjax.data import input as data_input
from bertjax.errors import UserError
from bertjax.models import config as model_config
from bertjax.models import heads, objectives
from bertjax.run_log import RunLog
from bertjax.state import TrainState, abstract_state, init_state
from bertjax.train_step import make_eval_step, make_train_step


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bertjax.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", required=True, help="configs/FILE.py:ARGUMENT, e.g. configs/bert.py:mini")
    add("--workdir", type=Path, required=True, help="folder of the run; continued if it has one")
    add("overrides", nargs="*", metavar="name=value", help="settings of the config to change")
    return parser.parse_args(argv)


def open_records(folder: str, flag: str) -> data_input.Records:
    if not folder:
        raise UserError(f"{flag} is not set; give the --output folder of bertjax.prepare")
    return data_input.Records(Path(folder))


def build_model(config: ConfigDict, records: data_input.Records) -> model_config.BertConfig:
    """The model that fits the records; what the manifest says is not repeated in the config."""
    manifest = records.manifest
    wanted = config.model.to_dict()
    if manifest.max_seq_length > wanted["max_positions"]:
        raise UserError(
            f"{records.folder}: records of length {manifest.max_seq_length}, the model has "
            f"{wanted['max_positions']} positions; set model.max_positions"
        )
    dimensions = model_config.size(wanted.pop("size"))
    return model_config.BertConfig(vocab_size=manifest.vocab_size, **dimensions, **wanted)


def check_same(records: data_input.Records, other: data_input.Records) -> None:
    """Training and held-out records must share the tokenizer."""
    if records.manifest.tokenizer != other.manifest.tokenizer:
        raise UserError(
            f"{other.folder}: made with another vocabulary than {records.folder}; prepare it with "
            f"--vocab {records.folder}"
        )


def resolved(
    config: ConfigDict, model: model_config.BertConfig, records: data_input.Records
) -> dict[str, Any]:
    manifest = records.manifest
    return {
        "kind": "pretrain",
        "model": model.to_dict(),
        "tokenizer": manifest.tokenizer,
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


def main() -> None:
    flags = parse_arguments()
    memory.keep_freed_memory()
    config = settings.load(flags.config, flags.overrides)

    # What goes in: records, checked against the config before anything is computed.
    records = open_records(config.data.records, "data.records")
    held_out = data_input.Records(Path(config.data.eval_records)) if config.data.eval_records \
        else None
    if held_out is not None:
        check_same(records, held_out)
    bert = build_model(config, records)
    mesh = partition.make_mesh(**config.mesh.to_dict())
    words = tokenizer.load(records.folder)
    if words.fingerprint != records.manifest.tokenizer["fingerprint"]:
        raise UserError(f"{records.folder}: the vocabulary is not the one of the manifest")
    checkpoint.save_config(flags.workdir, resolved(config, bert, records))
    words.save(flags.workdir)

    # What is trained.
    model = heads.PretrainingModel(bert)
    objective = objectives.pretraining(model)
    train = config.train
    schedule = optimizer.linear_schedule(train.learning_rate, train.warmup_steps, train.steps)
    tx = optimizer.adam_2018(
        schedule, weight_decay=train.weight_decay, clip_norm=train.clip_norm
    )
    train_step = make_train_step(
        objective, tx, seed=train.seed, microbatches=train.microbatches
    )
    eval_step = make_eval_step(objective)
    init = init_function(model, records.manifest.max_predictions_per_seq)
    entropy = records.manifest.corpus["unigram_entropy"]
    hosts = {"host": jax.process_index(), "num_hosts": jax.process_count()}

    with checkpoint.Checkpoints(flags.workdir, keep_last=config.keep_last) as checkpoints:
        state = start_state(init, tx, mesh, train.seed, checkpoints)
        start = int(state.step)
        batches = data_input.train_batches(
            records, batch_size=train.batch_size, seed=train.seed, start_step=start, **hosts
        )
        timetable = loop.Timetable(
            train.steps, config.log_every, config.eval_every, config.save_every
        )
        with RunLog(flags.workdir, "pretraining", train.steps, start) as log:
            log.say(f"the masked-LM loss must fall below {entropy:.3f} (unigram entropy, nats)")

            def evaluate(state: TrainState) -> tuple[dict[str, float], float | None]:
                assert held_out is not None
                found = loop.evaluate_batches(
                    eval_step,
                    state.params,
                    data_input.eval_batches(held_out, batch_size=train.batch_size, **hosts),
                    mesh,
                )
                log.say(
                    f"held out, step {int(state.step):,}: masked-LM loss "
                    f"{found['masked_lm_loss']:.3f}, accuracy {found['masked_lm_accuracy']:.3f}, "
                    f"next-sentence accuracy {found['next_sentence_accuracy']:.3f}"
                )
                warn_if_stuck(found["masked_lm_loss"], entropy, log)
                return {f"eval_{name}": value for name, value in found.items()}, None

            loop.train(
                state,
                train_step,
                batches,
                mesh=mesh,
                timetable=timetable,
                log=log,
                checkpoints=checkpoints,
                evaluate=evaluate if held_out is not None else None,
            )


if __name__ == "__main__":
    sys.exit(errors.run(main))
