"""Runs every task of the paper whose data are at hand, and sets our scores beside the paper's.

example:
  python -m bertjax.reproduce --data_dir=data --init=runs/base --seeds=3 --workdir=runs/paper
DIR holds glue/<task's folder>, squad, squad2, conll2003, swag; what is not there is taken from the
cache of tensorflow-datasets; what is in neither is named.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax import data_sets, errors, own_command
from bertjax.command_line import new_parser
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.json_file import read_json
from bertjax.files.whole_file import write_whole
from bertjax.finetuning import sweep
from bertjax.own_command import Stopped
from bertjax.tasks.base import Task
from bertjax.tasks.glue import GLUE
from bertjax.tasks.table import TASKS

# Where a task's files may lie below --data_dir; GLUE's reader knows its own folders.
FOLDERS = {
    **dict.fromkeys(GLUE, ("glue", "GLUE", ".")),
    "squad": ("squad", "SQuAD"),
    "squad2": ("squad2", "SQuAD2"),
    "conll": ("conll2003", "conll"),
    "swag": ("swag", "SWAG"),
}
# SQuAD's second version may lie beside the first; its official names tell it.
_BESIDE = {"squad2": ("squad", "SQuAD")}
TABLE = "paper.md"
_HEADER = (
    "| task | metric, percent | median on dev | deviation | best | seeds | other scores, best run "
    "| the paper's BERT-base | command |"
)
# The paper has the share of exact matches, too, as the scripts of SQuAD 1.1 and 2.0 call it.
_EXACT = ("exact_match", "exact")


class Row(NamedTuple):
    """A task with its command, and what its runs gave, or why they gave nothing."""

    task: Task
    command: Sequence[str]
    result: dict[str, Any]
    failure: str = ""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("reproduce", __doc__)
    add = parser.add_argument
    add("--data_dir", type=storage.path, metavar="DIR", help="of all tasks' files")
    add("--init", required=True, metavar="FROM", help="as --init of bertjax.finetune")
    add(
        "--workdir",
        type=storage.path,
        required=True,
        metavar="RUNS",
        help="continued if it has runs",
    )
    add("--seeds", type=int, default=3, metavar="N", help="runs of each task (%(default)s)")
    add("--sweep", action="store_true", help="the paper's grid for each task")
    add("--tasks", nargs="+", choices=FOLDERS, metavar="TASK", help="only these")
    return parser.parse_args(argv)


def find_data(task: Task, data_dir: Path | None) -> list[str] | None:
    """What tells bertjax.finetune where a task's data are; None if they are nowhere.

    The first folder that holds a train and a dev file, else the cache of tensorflow-datasets, which
    is taken where nothing is told. A folder with several files that could be one is passed over
    aloud.
    """
    for folder in (*FOLDERS[task.name], *_BESIDE.get(task.name, ())) if data_dir else ():
        try:
            found = task.reader.find(data_dir / folder)
        except UserError:  # It names flags that tell which; here there are none.
            place = f"{task.name}: {data_dir / folder} is passed over"
            print(f"{place}: several of its files could be train, dev or test; keep one of each")
            continue
        official = folder in FOLDERS[task.name] or "-v2.0" in found.get("train", Path()).name
        if {"train", "dev"} <= found.keys() and official:
            return [f"--data_dir={data_dir / folder}"]
    cached = task.reader.tfds is not None and data_sets.is_cached(task.reader.tfds)
    return [] if cached else None


def command(flags: argparse.Namespace, task: Task, data: Sequence[str]) -> list[str]:
    """Arguments of bertjax.finetune; the row of the table shows them."""
    made = [f"--task={task.name}", *data]
    made += [f"--init={flags.init}", f"--workdir={flags.workdir / task.name}"]
    return [*made, f"--seeds={flags.seeds}", *["--sweep"] * flags.sweep]


def run_task(flags: argparse.Namespace, task: Task, data: Sequence[str]) -> Row:
    """Runs a task; finished runs of it are only read.

    Raises:
      Stopped: it was asked to stop.
    """
    made = command(flags, task, data)
    result = flags.workdir / task.name / sweep.RESULT
    try:
        own_command.call("finetune", made)
        own_command.check_finished(result.is_file(), result.parent)
        return Row(task, made, read_json(result))
    except Stopped:
        raise
    except UserError as error:
        return Row(task, made, {}, str(error))
    except SystemExit:  # It has said why.
        return Row(task, made, {}, "run its command to see why")


def line(row: Row) -> str:
    """One row of the table."""
    task = row.task
    scores = [f"failed: {row.failure}", *"----"] if row.failure else _scores(row)
    shown = f"`{own_command.shown('finetune', row.command)}`"
    large = task.paper.get("BERT-large")
    paper = task.paper.get("BERT-base", f"{large} (large)" if large else "-")
    cells = [task.name, task.primary, *scores, paper, shown]
    return f"| {' | '.join(cells)} |"


def _scores(row: Row) -> list[str]:
    """Of the setting with the best median: that, deviation, best, seeds and other scores."""
    result, task = row.result, row.task
    best = result["rows"][0]
    # The best run of all may be of another setting.
    of_it = [run for name, run in result["runs"].items() if sweep.is_of(name, best)]
    run = max(of_it, key=lambda run: run["score"])
    exact = [f"dev {name} {value:.2f}" for name, value in run["dev"].items() if name in _EXACT]
    others = [_other(task, split, found) for split, found in run["other_splits"].items()]
    deviation = "-" if best["deviation"] is None else f"{100 * best['deviation']:.2f}"
    return [
        f"{100 * best['median']:.2f}",
        deviation,
        f"{100 * best['best']:.2f}",
        str(best["seeds"]),
        "; ".join([*exact, *others]) or "-",
    ]


def _other(task: Task, split: str, found: Mapping[str, float]) -> str:
    """A split's score; GLUE takes Matthews' correlation for the diagnostic examples."""
    if split == "ax":
        return f"{split} (matthews) {100 * found['matthews']:.2f}"
    return f"{split} {100 * task.share(found):.2f}"


def at_hand(flags: argparse.Namespace) -> list[tuple[Task, list[str]]]:
    """The tasks whose data are there, with what find_data gives; names the others.

    Raises:
      UserError: there is none.
    """
    tasks = [TASKS[name] for name in flags.tasks or FOLDERS]
    places = {task.name: find_data(task, flags.data_dir) for task in tasks}
    for task in tasks:
        if places[task.name] is None:
            print(f"no data of {task.name}: {task.reader.source}")
    found = [(task, place) for task in tasks if (place := places[task.name]) is not None]
    if not found:
        where = f"--data_dir={flags.data_dir}" if flags.data_dir else "--data_dir is missing"
        raise UserError(
            f"{where}: the files of no task are there, nor in the cache of tensorflow-datasets; "
            "give a folder that holds some of those named above"
        )
    return found


def main() -> None:
    flags = parse_arguments()
    sweep.check_seeds(flags.seeds)
    found = at_hand(flags)
    signal.signal(signal.SIGTERM, own_command.interrupt)
    lines = [_HEADER, "|---" * 9 + "|"]
    failed: list[str] = []
    for task, place in found:
        row = run_task(flags, task, place)
        lines.append(line(row))
        failed += [task.name] * bool(row.failure)
        write_whole(flags.workdir / TABLE, "\n".join([*lines, ""]).encode())
    print("\n" + "\n".join(lines) + f"\nwrote {flags.workdir / TABLE}")
    if failed:
        raise UserError(
            f"{', '.join(failed)} failed, as the table tells; the same command again goes on with "
            "what is not finished"
        )


if __name__ == "__main__":
    sys.exit(errors.run(main))
