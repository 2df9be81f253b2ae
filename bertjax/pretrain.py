"""Pretrains an encoder on prepared records: BERT on masked LM and next sentence.

example:
  python -m bertjax.pretrain --config=configs/bert.py:tiny --workdir=runs/tiny \\
      data.records=records/books train.steps=2000 train.warmup_steps=200 train.batch_size=32
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax import compile_cache, distributed, memory, partition, shares
from bertjax.command_line import new_parser
from bertjax.data import input as data_input
from bertjax.files import storage
from bertjax.runs import checkpoint, run_folder
from bertjax.runs.state import TrainState, abstract_state, init_state
from bertjax.text import tokenizer
from bertjax.training import arithmetic, continuation, loop, phases, profiler, program, wandb_log
from bertjax.training.inputs import Inputs, open_run
from bertjax.training.pulse import Pulse, heed_sigterm
from bertjax.training.run_log import RunLog, read_metrics, shown, with_perplexities
from bertjax.training.timetable import Timetable
from bertjax.training.train_step import make_eval_step

# Settings that may be others when a run goes on: nothing that it learns hangs on them (on
# microbatches only which numbers dropout and a sampled softmax draw). Of records the contents are
# compared, not where they lie.
MAY_CHANGE = tuple(
    f"settings.{name}"
    for name in (
        *("log_every", "save_every", "eval_every", "keep_last", "max_skipped", "stuck_after"),
        *("train.microbatches", "data.records", "data.long_records", "data.eval_records"),
    )
)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("pretrain", __doc__)
    add = parser.add_argument
    add("--config", required=True, help="configs/FILE.py:ARGUMENT, e.g. configs/bert.py:mini")
    add(
        "--workdir",
        type=storage.path,
        required=True,
        help="folder of the run; continued if it has one",
    )
    add("--profile", metavar="A:B", help="trace the steps A to B for TensorBoard's profile page")
    add("--wandb", metavar="PROJECT", help="send the metrics to Weights & Biases, too")
    add("overrides", nargs="*", metavar="name=value", help="settings of the config to change")
    return parser.parse_intermixed_args(argv)  # settings may stand before and behind flags


class Watching(NamedTuple):
    """What a user wants to see beside the run's own log; see RunLog and loop.train."""

    mirror: Callable[[float], Any] | None
    profiler: profiler.Profiler


def resolved(config: ConfigDict, inputs: Inputs) -> dict[str, Any]:
    """The config of a run as it is saved, with fingerprints of all that it reads."""
    model, manifest, settings = inputs.encoder, inputs.records.manifest, config.to_dict()
    del settings["mesh"]  # A run may go on with other devices.
    later, held_out = inputs.phases[1:], inputs.held_out
    return {
        "kind": "pretrain",
        "encoder": model.encoder,
        "model": model.to_dict(),
        "tokenizer": manifest.tokenizer,
        "records": manifest.fingerprint,
        "long_records": later[0].records.manifest.fingerprint if later else "",
        "eval_records": held_out.manifest.fingerprint if held_out else "",
        "max_seq_length": manifest.max_seq_length,
        "unigram_entropy": manifest.corpus["unigram_entropy"],
        "settings": settings,
    }


def start_state(
    made: program.Program,
    mesh: Mesh,
    seed: int,
    checkpoints: checkpoint.Checkpoints,
    inputs: Inputs,
) -> TrainState:
    """1. this run's own checkpoint; 2. the model to go on from; 3. scratch."""
    restored = checkpoints.restore(abstract_state(made.init, made.optimizer, mesh))
    if restored is not None:
        return restored
    state = init_state(made.init, made.optimizer, mesh, seed)
    if inputs.start is None:
        return state
    words = tokenizer.load(inputs.records.folder)
    merged, lines = continuation.merge(inputs.start, distributed.on_host(state.params), words)
    print("\n".join([f"weights from {inputs.start.name}", *lines]))
    return state.replace(params=partition.placed(merged, mesh))


def warn_if_stuck(found: dict[str, float], inputs: Inputs, log: RunLog) -> None:
    """Compares every loss over words with what their frequencies alone would give."""
    for part, name in inputs.pretraining.losses.items():
        loss, entropy = found.get(f"{part}_loss"), inputs.entropy
        # None where no update of the last line was finite.
        if loss is not None and loss >= entropy:
            log.say(
                f"warning: the {name} loss {loss:.3f} is not below {entropy:.3f}, what the "
                "frequencies of the pieces alone would give: nothing is learnt from context yet. "
                "Train longer, or try another train.learning_rate; look for duplicate or shuffled "
                "text."
            )


def say_what_to_expect(config: ConfigDict, inputs: Inputs, log: RunLog) -> None:
    """What the losses must fall below, and a warm-up that the run will not see the end of."""
    for name in inputs.pretraining.losses.values():
        log.say(f"the {name} loss must fall below {inputs.entropy:.3f} (unigram entropy, nats)")
    stretches = phases.schedule(config, inputs.phases).stretches
    for setting, stretch in zip(("warmup_steps", "long_warmup_steps"), stretches, strict=False):
        if stretch.warmup_steps > stretch.total_steps:
            log.say(
                f"warning: train.{setting}={stretch.warmup_steps} of {stretch.total_steps:,} "
                f"steps: the rate never reaches {stretch.peak:g}; give a shorter warm-up"
            )


def make_evaluate(
    config: ConfigDict,
    inputs: Inputs,
    made: program.Program,
    mesh: Mesh,
    log: RunLog,
) -> loop.Evaluate | None:
    """Evaluation on the held-out records, each example at most once; None if there are none."""
    held_out = inputs.held_out
    if held_out is None:
        return None
    hide = inputs.pretraining.masks
    # Masked as prepared, so that the loss means the same whatever masks are trained with.
    expand = phases.expander(config, [held_out], config.train.seed, hide, as_prepared=True)
    eval_step = make_eval_step(made.objective, **made.parts._asdict(), expand=expand, mesh=mesh)
    parts, num_parts = shares.local_parts(mesh)

    def evaluate(state: TrainState, pulse: Pulse) -> tuple[dict[str, float], float | None]:
        batches = data_input.eval_batches(
            held_out, batch_size=config.train.batch_size, parts=parts, num_parts=num_parts,
            most=config.data.eval_examples,
        )  # fmt: skip
        read = pulse.through(batches)
        found = with_perplexities(loop.evaluate_batches(eval_step, state.params, read, mesh))
        told = [name.removesuffix("_loss") for name in found if name.endswith("_loss")]
        names = {part: part.replace("_", " ") for part in told} | dict(inputs.pretraining.losses)
        losses = [f"{name} loss {found[f'{part}_loss']:.3f}" for part, name in names.items()]
        log.say(f"held out, step {int(state.step):,}: {' | '.join([*losses, shown(found)])}")
        warn_if_stuck(found, inputs, log)
        return {f"eval_{name}": value for name, value in found.items()}, None

    return evaluate


def train(
    config: ConfigDict,
    workdir: Path,
    inputs: Inputs,
    made: program.Program,
    mesh: Mesh,
    timetable: Timetable,
    watching: Watching,
) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step."""
    seed, steps = config.train.seed, config.train.steps
    with checkpoint.Checkpoints(workdir, keep_last=config.keep_last) as checkpoints:
        state = start_state(made, mesh, seed, checkpoints, inputs)
        start = int(state.step)
        watching.profiler.tell(start)
        # What reads ahead is closed before the interpreter ends, which would wait for it.
        batches = closing(phases.batches(inputs.phases, start, seed, *shares.local_parts(mesh)))
        with (
            RunLog(workdir, "pretraining", steps, start, watching.mirror) as log,
            batches as stream,
        ):
            say_what_to_expect(config, inputs, log)
            loop.train(
                state,
                made.train_step,
                stream,
                mesh=mesh,
                timetable=timetable,
                log=log,
                checkpoints=checkpoints,
                evaluate=make_evaluate(config, inputs, made, mesh, log),
                flops=arithmetic.of_pretraining(config, inputs),
                profiler=watching.profiler,
            )
            last = read_metrics(workdir)[-1:]
            if inputs.held_out is None and last:
                warn_if_stuck(last[0], inputs, log)


def main() -> None:
    flags = parse_arguments()
    memory.keep_freed_memory()
    heed_sigterm()
    compile_cache.turn_on()
    traced = profiler.parse_steps(flags.profile) if flags.profile else None
    config, inputs, mesh, made, timetable = open_run(flags.config, flags.overrides)
    trace = profiler.of_run(flags.workdir, traced, config.train.steps)
    facts = resolved(config, inputs)
    watching = Watching(
        wandb_log.opener(flags.wandb, flags.workdir, facts) if flags.wandb else None,
        trace,
    )
    run_folder.save_config(flags.workdir, facts, MAY_CHANGE)
    if distributed.is_first():
        tokenizer.load(inputs.records.folder).save(flags.workdir)
    train(config, flags.workdir, inputs, made, mesh, timetable, watching)


if __name__ == "__main__":
    sys.exit(distributed.run(main))
