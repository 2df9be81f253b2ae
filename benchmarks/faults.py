"""What a training run of several processes loses when one of them, or the disk, fails.

    python benchmarks/faults.py --input TEXT ... [--cycles 20]

A tiny BERT trains on the CPU, undisturbed in one process; then
  - in one process that is killed and started again, --cycles times in a row;
  - in two processes of two devices each, of which one is killed; then in four of one device;
  - in two processes, of which one gets SIGTERM; then in one;
  - in one whose disk another file fills while a checkpoint is being saved; then with room. It is a
    small disk in memory (tmpfs), where root, or `unshare -rm`, may mount one; elsewhere files may
    not grow beyond a part of a checkpoint. The row says which.
Every row tells how the processes ended and after how long, the losses of both sides (undisturbed /
disturbed) at the last step before the blow, at the first one after going on and at the end, and how
far those of all steps are apart. On one machine and one number of devices they must be the same;
sums of other devices add up in another order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import contest
from killed import PIECES, Command, finish, losses, prepare, pretrain

from bertjax import distributed
from bertjax.runs import run_folder
from bertjax.training import run_log

_LATEST, _PATIENCE = 90, 300
# Of the small disk: room for some checkpoints of BERT-tiny.
_DISK_MIB = 256


class Ending(NamedTuple):
    """How a run that was struck ended.

    Attributes:
      step, loss: the last one that was logged before the blow.
      statuses: of the processes, minus the signal for those that it killed.
      seconds: from the blow to the end of the last process.
    """

    step: int
    loss: float
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


def last_logged(run: Path) -> tuple[int, float]:
    """The last step and its loss."""
    try:
        return max(losses(run).items(), default=(0, float("nan")))
    except (OSError, ValueError):
        return 0, float("nan")  # not yet there, or a line is being written


def last_step(run: Path) -> int:
    return last_logged(run)[0]


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
        begin, (step, loss) = time.monotonic(), last_logged(run)
        children[-1].send_signal(blow)
        statuses = [child.wait(_LATEST) for child in children]
        said = Path(logs, "0.log").read_text(encoding="utf-8").strip().splitlines()[-1]
        return Ending(step, loss, statuses, time.monotonic() - begin, said)


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
    return Ending(steps[-1], endings[-1].loss, statuses, 0.0, f"at steps {steps[0]} to {steps[-1]}")


def allow_mounts() -> None:
    """Begins anew where who is not root may mount disks, too: in a namespace of its own."""
    wrap = ["unshare", "--map-root-user", "--mount"]
    if os.geteuid() == 0 or shutil.which(wrap[0]) is None:
        return
    if subprocess.run([*wrap, "true"], capture_output=True, check=False).returncode == 0:
        os.execvp(wrap[0], [*wrap, sys.executable, *sys.argv])


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """A disk of its own at a new folder; tells whether it could be mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", place]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", place], check=True)


def fill_while_saving(command: Command, run: Path) -> Ending:
    """Another file takes all room of the disk as soon as a checkpoint is being written."""
    hog, saving = run / "hog", f"{run_folder.CHECKPOINTS}/*tmp*/*"
    with tempfile.TemporaryDirectory() as logs:
        (child,) = together(command, 1, 1, Path(logs))
        while not any(run.glob(saving)) and child.poll() is None:
            time.sleep(0.001)
        begin, (step, loss) = time.monotonic(), last_logged(run)
        with hog.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**20))
        status = child.wait(_LATEST)
        said = Path(logs, "0.log").read_text(encoding="utf-8").strip().splitlines()[-1]
        seconds = time.monotonic() - begin
    hog.unlink()
    return Ending(step, loss, [status], seconds, said)


def bound_files(command: Command, run: Path) -> Ending:
    """Files end where they are largest after the first save, so that a later one fails."""
    biggest = max(p.stat().st_size for p in run.rglob("*") if p.is_file())
    limit = biggest // 2

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    begin, (step, loss) = time.monotonic(), last_logged(run)
    found = subprocess.run(
        command, env=contest.environment(), preexec_fn=bound, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    said = found.stderr.strip().splitlines()[-1]
    return Ending(step, loss, [found.returncode], time.monotonic() - begin, said)


def difference(run: Path, calm: Path) -> float:
    """The largest of all steps' losses; infinite if steps are missing."""
    one, two = losses(run), losses(calm)
    if one.keys() != two.keys():
        return float("inf")
    return max(abs(one[step] - two[step]) for step in two)


def begun(run: Path) -> int:
    """The step that a run went on from when it was started last."""
    return json.loads((run / run_log.STARTS).read_text(encoding="utf-8"))["starts"][-1]["step"]


def row(what: str, ending: Ending, then: str, run: Path, calm: Path) -> dict[str, str]:
    one, two, found = losses(calm), losses(run), difference(run, calm)
    statuses = sorted(set(ending.statuses))
    again, end = begun(run) + 1, max(one)

    def sides(step: int, loss: float) -> str:
        return f"{one[step]:.6f} / {loss:.6f} ({step})"

    return {
        "what": what,
        "exit statuses": ", ".join(map(str, statuses)),
        "all ended within": f"{ending.seconds:.0f} s" if ending.seconds else "-",
        "the first process's last line": ending.said.replace(f"{run}/", "")[:90],
        "went on in": then,
        "loss before the blow (step)": sides(ending.step, ending.loss),
        "going on": sides(again, two[again]),
        "at the end": sides(end, two[end]),
        "largest difference": "none" if not found else f"{found:.1e}",
    }


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--input", nargs="+", required=True, help="text, a few MB")
    flags.add_argument("--cycles", type=int, default=20)
    flags.add_argument("--steps", type=int, default=60)
    options = flags.parse_args()
    allow_mounts()
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
        with small_disk(run) as mounted:
            strike(command, run, total // 2, signal.SIGKILL, 1, 1)
            ending = (fill_while_saving if mounted else bound_files)(command, run)
            go_on(command, 1, 1)
            what = "disk filled" if mounted else "files that may not grow"
            rows.append(row(f"{what} while saving", ending, "1 process", run, calm))
    contest.print_table(rows)


if __name__ == "__main__":
    main()
