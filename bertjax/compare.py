"""Trains the systems that BERT is explained against on one text, each with the same time; compares.

example:
  python -m bertjax.compare --input books/*.txt.xz --data_dir=data --workdir=runs/compare
DIR holds glue/SST-2, CoLA, RTE and STS-B as GLUE has them; squad/train-v1.1.json, dev-v1.1.json;
ner/wnut17train.conll, emerging.dev.conll; wordsim/EN-WS-353-ALL.txt, EN-SIMLEX-999.txt,
questions-words.txt. Tasks whose files are not there are named and left out; other files are a line
of the config. Killed and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from functools import partial
from pathlib import Path

from bertjax import errors, own_command, settings
from bertjax.command_line import new_parser
from bertjax.comparison import budget, contexts, jobs, pages, systems
from bertjax.comparison.systems import GROUPS, VECTORS, Comparison, System, Trial
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.finetuning import flags as finetune_flags
from bertjax.finetuning import from_flags, sweep, word_tests
from bertjax.models import encoders
from bertjax.own_command import Failed, call
from bertjax.tasks import own
from bertjax.tasks.table import TASKS
from bertjax.tasks.word_lists import WORD_TASKS, find
from bertjax.training import run_log

# Held-out rows of each evaluation: as many as tell losses apart by a hundredth.
_EVALUATED = 2048
# Options of bertjax.prepare that say how a vocabulary is made.
_VOCABULARY = ("--vocab", "--min_count", "--extend")
# A vocabulary of any size, to see whether a model can be made.
_PIECES = 2**15


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("compare", __doc__)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help="text, as for bertjax.prepare")
    add("--data_dir", type=storage.path, required=True, metavar="DIR", help="of all tasks' files")
    add("--workdir", type=storage.local_path, default=Path("runs/compare"), metavar="RUNS",
        help="continued if it has runs (%(default)s)")  # fmt: skip
    add("--config", default="configs/compare.py", help="what is compared (%(default)s)")
    add(
        "--budget",
        default="2h",
        metavar="TIME",
        help="half of it for the steps of pretraining; evaluation and tasks take some 1.5 h on two "
        "cores, whatever it is (%(default)s)",
    )
    add("--held_out", type=float, default=0.03, metavar="P", help="share of the text (%(default)s)")
    add("--jobs", type=int, metavar="N",
        help="at a time, on a share of the cores each (one a core; on accelerators 1)")  # fmt: skip
    add("--seeds", type=int, default=3, metavar="N", help="runs of each task (%(default)s)")
    return parser.parse_args(argv)


def check(wanted: Comparison) -> None:
    """Reads all that the commands to come will read, but for the text.

    Raises:
      UserError: a setting that a config does not have or a model cannot be made of, a task with
        longer rows than a model has positions, or a file of one that cannot be read.
      SystemExit: an option that bertjax.finetune does not have.
    """
    positions = {system.name: _positions(system) for system in wanted.systems}
    parser, read = finetune_flags.new_parser(""), set()
    for trial in wanted.trials:
        flags = parser.parse_args(trial.options)
        most = positions[trial.system.name]
        if (flags.max_seq_length or 0) > most:
            raise UserError(
                f"{trial.name}: --max_seq_length={flags.max_seq_length}, but model.max_positions="
                f"{most} of {trial.system.name}; lower the one or raise the other"
            )
        if trial.task in read:
            continue
        read.add(trial.task)
        if flags.task in WORD_TASKS:
            files = [flags.test] if flags.test else find(flags.task, flags.data_dir).values()
            for path in files:
                WORD_TASKS[flags.task].read(path)
        else:
            from_flags.read_data(own.with_columns(TASKS[flags.task], flags.columns), flags)


def _positions(system: System) -> int:
    """How long a row its model takes."""
    config = settings.load(system.config, list(system.settings), settings.TRAINING)
    return encoders.from_settings(config, _PIECES).max_positions


def prepare_text(flags: argparse.Namespace, wanted: Comparison) -> None:
    """Text to train on and text held out; records of both for every kind."""
    text = flags.workdir / "text"
    split = f"--held_out={flags.held_out}"
    call("collect", [f"--output={text}", "--no_task", split, "--input", *flags.input])
    for kind, options in wanted.records.items():
        if any(system.records == kind for system in wanted.systems):
            train = flags.workdir / "records" / kind
            held_out = flags.workdir / "records" / f"{kind}-held-out"
            made = [option for option in options if not option.startswith(_VOCABULARY)]
            call("prepare", [f"--input={text}/train.txt", f"--output={train}", *options])
            call(
                "prepare",
                [f"--input={text}/valid.txt", f"--output={held_out}", f"--vocab={train}", *made],
            )


def pretraining(system: System, workdir: Path) -> list[str]:
    """What pretrain is told of a system, but for its folder and its steps."""
    records = workdir / "records" / system.records
    return [
        f"--config={system.config}",
        f"data.records={records}",
        f"data.eval_records={records}-held-out",
        f"data.eval_examples={_EVALUATED}",
        *system.settings,
    ]


def pretrain(flags: argparse.Namespace, system: System, share: float) -> None:
    """One system, for `share` seconds."""
    arguments = pretraining(system, flags.workdir)
    log = flags.workdir / "logs" / f"pretrain-{system.name}.txt"
    steps = budget.steps(system, arguments, share, flags.workdir, log)
    often = [f"log_every={max(1, steps // 100)}", f"save_every={max(1, steps // 10)}"]
    often += [f"eval_every={max(1, steps // 5)}", f"train.warmup_steps={steps // 20}"]
    run = system.run(flags.workdir)
    # Of a setting given twice the last one counts: the system's own.
    call("pretrain", [f"--workdir={run}", *often, *arguments, f"train.steps={steps}"], log)
    done = max((row["step"] for row in run_log.read_metrics(run)), default=0)
    own_command.check_finished(done >= steps, run, f" at step {done:,} of {steps:,}")


def pretrain_all(flags: argparse.Namespace, wanted: Comparison) -> None:
    """Each system as long as any other."""
    rounds = math.ceil(len(wanted.systems) / flags.jobs)
    share = budget.share(flags.budget, rounds, flags.workdir)
    print(f"\npretraining of {len(wanted.systems)} systems, {share / 60:.1f} minutes each")
    todo = {s.name: partial(pretrain, flags, s, share) for s in wanted.systems}
    jobs.run(todo, flags.jobs)


def run_trial(flags: argparse.Namespace, trial: Trial) -> None:
    start = f"--init={trial.system.run(flags.workdir)}"
    folder = trial.folder(flags.workdir)
    arguments = [*trial.options, start, f"--workdir={folder}"]
    log = flags.workdir / "logs" / f"{trial.name.replace(', ', '-').replace(' ', '-')}.txt"
    if trial.reading != VECTORS:
        arguments.append(f"--seeds={flags.seeds}")
    try:
        call("finetune", arguments, log)
    except Failed as error:
        # A system may know none of a list's words, or learn nothing with any seed.
        if trial.reading == VECTORS:
            expected = word_tests.TOO_FEW in str(error)
        else:
            expected = sweep.ALL_DIVERGED in str(error)
        if error.status != 2 or not expected:
            raise
        print(f"{trial.name} is left out: {error}")
        return
    own_command.check_finished(
        trial.reading == VECTORS or (folder / sweep.RESULT).is_file(), folder
    )


def run_tasks(flags: argparse.Namespace, wanted: Comparison) -> None:
    print(f"\n{len(wanted.trials)} tasks")
    jobs.run({trial.name: partial(run_trial, flags, trial) for trial in wanted.trials}, flags.jobs)


def about(flags: argparse.Namespace) -> str:
    """How the comparison was run, in a few words."""
    size = (flags.workdir / "text" / "train.txt").stat().st_size / 1e6
    share = budget.share(flags.budget, 1, flags.workdir) / 60
    return (
        f"{size:,.1f} MB of text; {share:.1f} minutes of training for each system, {flags.jobs} at "
        f"a time; {flags.seeds} seeds of each task. The command: "
        f"`{own_command.shown('compare', sys.argv[1:])}`"
    )


def main() -> None:
    flags = parse_arguments()
    if flags.jobs is not None and flags.jobs < 1:
        raise UserError(f"--jobs={flags.jobs}: give at least 1")
    sweep.check_seeds(flags.seeds)
    budget.seconds(flags.budget)
    config = settings.load(flags.config, [], GROUPS)
    wanted = systems.read(config, Path(flags.config).parent, flags.data_dir)
    contexts.check(wanted.contexts)
    for name, path in wanted.left_out.items():
        print(f"{name} is left out: {path} is not there")
    check(wanted)
    signal.signal(signal.SIGTERM, own_command.interrupt)
    flags.jobs = flags.jobs or jobs.suitable()
    prepare_text(flags, wanted)
    pretrain_all(flags, wanted)
    run_tasks(flags, wanted)
    runs = {
        system.name: system.run(flags.workdir)
        for system in wanted.systems
        if system.group == systems.SYSTEMS
    }
    held_out = flags.workdir / "text" / "valid.txt"
    contexts.write(runs, wanted.contexts, held_out, flags.workdir / contexts.FILE)
    for path in pages.write(wanted, flags.workdir, about(flags)):
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
