"""What a training run of several processes loses when one of them, or the disk, fails.

    python benchmarks/faults.py --input TEXT ... [--cycles 20]

A tiny BERT trains on the CPU, undisturbed in one process; then
  - in one process that is killed and started again, --cycles times in a row;
  - in two processes of two devices each, of which one is killed; then in four of one device;
  - in two processes, of which one gets SIGTERM; then in one;
  - in one whose files may not grow beyond a part of a checkpoint, as on a full disk; then without.
Every row tells when it was struck, how the processes ended and after how long, and how far the
losses of all steps are from those of the undisturbed run. On one machine and one number of devices
they must be the same; sums of other devices add up in another order.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import contest
from killed import PIECES, Command, finish, losses, prepare, pretrain

from bertjax import distributed

_LATEST, _PATIENCE = 90, 300


class Ending(NamedTuple):
    """How a run that was struck ended.

    Attributes:
      step: the last one that was logged before the blow.
      statuses: of the processes, minus the signal for those that it killed.
      seconds: from the blow to the end of the last process.
    """

    step: int
    statuses: Sequence[int]
    seconds: float
    said: str


def together(
    command: Command, processes: int, devices: int, logs: Path
) -> list[subprocess.Popen[bytes]]:
    """The same command in several processes that find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(processes):
        settings = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        if processes > 1:
            values = (f"127.0.0.1:{port}", str(processes), str(number))
            settings |= dict(zip(distributed.VARIABLES, values, strict=True))
        with (logs / f"{number}.log").open("wb") as log:
            environment = contest.environment() | settings
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
    return started


def last_step(run: Path) -> int:
    try:
        return max(losses(run), default=0)
    except (OSError, ValueError):
        return 0  # not yet there, or a line is being written


def strike(
    command: Command, run: Path, at: int, blow: signal.Signals, processes: int, devices: int
) -> Ending:
    """Starts a run, sends a signal to its last process after a step, waits for the end of all."""
    with tempfile.TemporaryDirectory() as logs:
        children = together(command, processes, devices, Path(logs))
        patience = time.monotonic() + _PATIENCE
        while last_step(run) < at and time.monotonic() < patience:
            if any(child.poll() is not None for child in children):
                break
            time.sleep(0.05)
        begin, step = time.monotonic(), last_step(run)
        children[-1].send_signal(blow)
        statuses = [child.wait(_LATEST) for child in children]
        said = Path(logs, "0.log").read_text(encoding="utf-8").strip().splitlines()[-1]
        return Ending(step, statuses, time.monotonic() - begin, said)


def go_on(command: Command, processes: int, devices: int) -> None:
    """Runs to the end."""
    with tempfile.TemporaryDirectory() as logs:
        children = together(command, processes, devices, Path(logs))
        statuses = [child.wait() for child in children]
        if any(statuses):
            raise RuntimeError(Path(logs, "0.log").read_text(encoding="utf-8")[-2000:])


def cycles(command: Command, run: Path, number: int, total: int) -> Ending:
    """Kills a run again and again, each time some steps after it has gone on."""
    rng, endings = random.Random(0), []
    for _ in range(number):
        wanted = last_step(run) + rng.randint(1, max(1, total // number))
        endings.append(strike(command, run, min(wanted, total - 1), signal.SIGKILL, 1, 1))
    steps = [ending.step for ending in endings]
    statuses = [status for ending in endings for status in ending.statuses]
    return Ending(steps[-1], statuses, 0.0, f"at steps {steps[0]} to {steps[-1]}")


def full_disk(command: Command, run: Path) -> Ending:
    """Files end where they are largest after the first save, so that a later one fails."""
    biggest = max(p.stat().st_size for p in run.rglob("*") if p.is_file())
    limit = biggest // 2

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    begin, step = time.monotonic(), last_step(run)
    found = subprocess.run(
        command, env=contest.environment(), preexec_fn=bound, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    said = found.stderr.strip().splitlines()[-1]
    return Ending(step, [found.returncode], time.monotonic() - begin, said)


def difference(run: Path, calm: Path) -> float:
    """The largest of all steps' losses; infinite if steps are missing."""
    one, two = losses(run), losses(calm)
    if one.keys() != two.keys():
        return float("inf")
    return max(abs(one[step] - two[step]) for step in two)


def row(what: str, ending: Ending, then: str, run: Path, calm: Path) -> dict[str, str]:
    found = difference(run, calm)
    statuses = sorted(set(ending.statuses))
    return {
        "what": what,
        "struck after step": str(ending.step),
        "exit statuses": ", ".join(map(str, statuses)),
        "all ended within": f"{ending.seconds:.0f} s" if ending.seconds else "-",
        "the first process's last line": ending.said[:60],
        "went on in": then,
        "largest difference of losses": "none" if not found else f"{found:.1e}",
    }


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--input", nargs="+", required=True, help="text, a few MB")
    flags.add_argument("--cycles", type=int, default=20)
    flags.add_argument("--steps", type=int, default=60)
    options = flags.parse_args()
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    total, rows = options.steps, []
    with tempfile.TemporaryDirectory() as scratch:
        records, calm = Path(scratch, "records"), Path(scratch, "calm")

        def train(name: str) -> tuple[Command, Path]:
            more = [f"train.steps={total}", "save_every=5", "train.warmup_steps=5"]
            run = Path(scratch, name)
            return [*pretrain("bert.py:tiny", records, run), *more], run

        finish(prepare(options.input, PIECES, records))
        finish(train("calm")[0])

        command, run = train("cycles")
        ending = cycles(command, run, options.cycles, total)
        go_on(command, 1, 1)
        rows.append(row(f"SIGKILL, {options.cycles} times", ending, "1 process", run, calm))

        blows: list[tuple[str, signal.Signals, int, int]] = [
            ("SIGKILL to one of 2 processes", signal.SIGKILL, 4, 1),
            ("SIGTERM to one of 2 processes", signal.SIGTERM, 1, 1),
        ]
        for what, blow, processes, devices in blows:
            command, run = train(what.replace(" ", "-"))
            ending = strike(command, run, total // 2, blow, 2, 2)
            go_on(command, processes, devices)
            rows.append(row(what, ending, f"{processes} process(es)", run, calm))

        command, run = train("full")
        strike(command, run, total // 2, signal.SIGKILL, 1, 1)
        ending = full_disk(command, run)
        go_on(command, 1, 1)
        rows.append(row("disk full while saving", ending, "1 process", run, calm))
    contest.print_table(rows)


if __name__ == "__main__":
    main()
