"""Kills a build and a training run at random moments and compares what comes out in the end.

    python benchmarks/killed.py --input TEXT ... [--kills 10]

Both are first run undisturbed, then again with SIGKILL to all their processes after random times,
started anew each time with the same command. The bytes of all files of the build, and the losses of
all steps of the run, must be those of the undisturbed ones.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import contest

Command = list[str]


def prepare(inputs: list[str], output: Path) -> Command:
    flags = ["--vocab_size=8192", "--masking=dynamic", "--packed", "--num_shards=20"]
    given = ["--input", *inputs, f"--output={output}"]
    return [sys.executable, "-m", "bertjax.prepare", *given, *flags, "--memory=500MB"]


def pretrain(records: Path, run: Path) -> Command:
    config = contest.HERE.parent / "configs" / "bert.py"
    settings = [f"data.records={records}", "train.steps=300", "train.batch_size=16"]
    settings += ["train.learning_rate=3e-4", "train.warmup_steps=20", "log_every=1"]
    given = [f"--config={config}:tiny", f"--workdir={run}", "save_every=10"]
    return [sys.executable, "-m", "bertjax.pretrain", *given, *settings]


def finish(command: Command) -> float:
    """Seconds of a run to its end."""
    start = time.perf_counter()
    contest.run(command)
    return time.perf_counter() - start


def torment(command: Command, kills: int, seconds: float, rng: random.Random) -> int:
    """Runs a command to its end, killing it at most `kills` times; returns how often that was."""
    for done in range(kills):
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=contest.environment(),
            start_new_session=True,
        )
        try:
            process.wait(rng.uniform(0, seconds / 2))
            return done
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    contest.run(command)
    return kills


def repeat(
    make: Callable[[Path], Command], scratch: Path, kills: int, seconds: float, rng: random.Random
) -> list[Path]:
    """Runs a command into new folders until it was killed `kills` times in all."""
    folders: list[Path] = []
    while kills > 0:
        folders.append(scratch / f"killed-{len(folders)}")
        kills -= torment(make(folders[-1]), kills, seconds, rng)
    return folders


def content(folder: Path) -> dict[str, bytes]:
    """{name: bytes} of every file."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def losses(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--input", nargs="+", required=True, help="text, a few MB")
    flags.add_argument("--kills", type=int, default=10)
    flags.add_argument("--seed", type=int, default=0)
    options = flags.parse_args()
    rng = random.Random(options.seed)
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        calm, calm_run = Path(scratch, "calm"), Path(scratch, "calm-run")
        builds, runs = Path(scratch, "builds"), Path(scratch, "runs")
        seconds = finish(prepare(options.input, calm))
        found = repeat(
            lambda output: prepare(options.input, output), builds, options.kills, seconds, rng
        )
        same = all(content(calm) == content(folder) for folder in found)
        rows.append(row("build", seconds, options.kills, found, same))

        seconds = finish(pretrain(calm, calm_run))
        found = repeat(lambda run: pretrain(calm, run), runs, options.kills, seconds, rng)
        same = all(losses(calm_run) == losses(folder) for folder in found)
        rows.append(row("training", seconds, options.kills, found, same))
    contest.print_table(rows)


def row(what: str, seconds: float, kills: int, found: list[Path], same: bool) -> dict[str, str]:
    return {
        "what": what,
        "undisturbed, s": f"{seconds:.0f}",
        "killed": f"{kills} times in {len(found)} runs",
        "compared": "bytes of all files" if what == "build" else "losses of all steps",
        "equal": "all" if same else "NOT",
    }


if __name__ == "__main__":
    main()
