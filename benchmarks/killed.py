"""Kills a build and trainings at random moments and compares what comes out in the end.

    python benchmarks/killed.py --input TEXT ... [--kills 10]

The build, and a training of every system, are first run undisturbed, then again with SIGKILL to all
their processes after random times, started anew each time with the same command. The bytes of all
files of the build, and the losses of all steps of a training, must be those of the undisturbed one.
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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import contest

Command = list[str]


# Records by their options, and the systems that learn from them.
PIECES = ("--vocab_size=8192",)
WORDS = ("--vocab_kind=words", "--vocab_size=8192", "--segments=doc_sentences")
SYSTEMS = {
    "bert.py:tiny": PIECES,
    "modern.py:tiny": PIECES,
    "left_to_right.py:tiny": PIECES,
    "elmo.py:tiny": WORDS,
    "word2vec.py:100": WORDS,
}


def prepare(inputs: list[str], kind: Sequence[str], output: Path) -> Command:
    flags = [*kind, "--masking=dynamic", "--packed", "--num_shards=20"]
    given = ["--input", *inputs, f"--output={output}"]
    return [sys.executable, "-m", "bertjax.prepare", *given, *flags, "--memory=500MB"]


def pretrain(system: str, records: Path, run: Path) -> Command:
    config = contest.HERE.parent / "configs" / system
    settings = [f"data.records={records}", "train.steps=300", "train.batch_size=16"]
    settings += ["train.warmup_steps=20", "log_every=1"]
    given = [f"--config={config}", f"--workdir={run}", "save_every=10"]
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
    flags.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    flags.add_argument("--seed", type=int, default=0)
    options = flags.parse_args()
    rng = random.Random(options.seed)
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        pieces, words = Path(scratch, "pieces"), Path(scratch, "words")
        seconds = finish(prepare(options.input, PIECES, pieces))
        finish(prepare(options.input, WORDS, words))
        builds = Path(scratch, "builds")
        build = partial(prepare, options.input, PIECES)
        found = repeat(build, builds, options.kills, seconds, rng)
        same = all(content(pieces) == content(folder) for folder in found)
        rows.append(row("build", seconds, options.kills, found, same))
        for system in options.systems:
            records = pieces if SYSTEMS[system] is PIECES else words
            train = partial(pretrain, system, records)
            calm, runs = Path(scratch, f"calm-{system}"), Path(scratch, f"runs-{system}")
            seconds = finish(train(calm))
            found = repeat(train, runs, options.kills, seconds, rng)
            same = all(losses(calm) == losses(folder) for folder in found)
            rows.append(row(f"training, {system}", seconds, options.kills, found, same))
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
