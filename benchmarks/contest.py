"""Runs contenders in turn, each in a process of its own, and says what machine they ran on."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
Result = dict[str, Any]


def data_folder() -> Path | None:
    """The folder of BERTJAX_DATA; None where it is not set, and then that is said."""
    folder = os.environ.get("BERTJAX_DATA")
    if not folder:
        print(
            "skipped: BERTJAX_DATA is not set; the head of the benchmark's file says what it holds"
        )
        return None
    return Path(folder)


class Contender(NamedTuple):
    """One side of a comparison; `why_not` tells why it cannot run here, None if it can."""

    name: str
    command: Sequence[str | Path]
    why_not: str | None = None


def peer(name: str, python: Path | None, flag: str, modules: str, *rest: str) -> Contender:
    """A contender that needs its own interpreter; says so when that or a module is missing.

    Args:
      flag: by which the interpreter is given, for the message.
      modules: what must be importable there, separated by commas.
      rest: script in this folder, then its arguments.
    """
    command: list[str | Path] = [python or "python", HERE / rest[0], *rest[1:]]
    if python is None:
        return Contender(name, command, f"{flag} is not given")
    try:
        found = subprocess.run(
            [python, "-c", f"import {modules}"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return Contender(name, command, f"{flag}={python}: {error.strerror}")
    lines = found.stderr.strip().splitlines()
    return Contender(name, command, f"{flag}: {lines[-1]}" if found.returncode else None)


def busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used since it started (Linux)."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    return sum(map(int, fields[:3])) / os.sysconf("SC_CLK_TCK")


def own_seconds(children: bool = False) -> float:
    """CPU seconds of this process, with those of its ended children if asked for."""
    kinds = [resource.RUSAGE_SELF, *[resource.RUSAGE_CHILDREN] * children]
    usages = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(step: Callable[[], object], warmup: int, steps: int) -> Result:
    """Times a worker's step, which must return when all its work is done.

    Returns:
      seconds: of every step after the first `warmup`; others: cores' worth of CPU that other
      processes used meanwhile; peak_mib: resident memory at its highest.
    """
    for _ in range(warmup):
        step()
    seconds = []
    before, start = busy_seconds() - own_seconds(), time.perf_counter()
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    others = (busy_seconds() - own_seconds() - before) / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "others": max(0.0, others), "peak_mib": peak}


def time_passes(run: Callable[[], object], passes: int, examples: float) -> None:
    """Prints the result of a worker that goes through its examples several times."""
    found = timed(run, warmup=0, steps=passes)
    total = {"seconds": sum(found["seconds"]), "examples": passes * examples}
    print(json.dumps(found | total))


@contextlib.contextmanager
def others_cpu() -> Iterator[Result]:
    """Fills in "others": cores' worth of CPU that neither this process nor its children used."""
    found: Result = {}
    before, begin = busy_seconds() - own_seconds(children=True), time.perf_counter()
    yield found
    others = busy_seconds() - own_seconds(children=True) - before
    found["others"] = max(0.0, others / (time.perf_counter() - begin))


def environment(path: Sequence[Path] = ()) -> dict[str, str]:
    """What every side runs in: bertjax can be imported from this checkout, TensorFlow is quiet.

    Args:
      path: folders to import from before this checkout.
    """
    # tf-models-official wants the Keras that TensorFlow once came with.
    settings = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
    folders = [*map(str, (*path, HERE.parent)), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | settings | {"PYTHONPATH": os.pathsep.join(folders)}


def run(command: Sequence[str | Path], path: Sequence[Path] = ()) -> str:
    """Runs a command of this comparison to its end and returns what it printed.

    Args:
      path: see environment.

    Raises:
      RuntimeError: it failed; the end of what it said is in the message.
    """
    found = subprocess.run(
        command, capture_output=True, text=True, env=environment(path), check=False
    )
    if found.returncode:
        name = " ".join(map(str, command[1:3]))
        raise RuntimeError(f"{name} failed:\n{found.stderr[-2000:]}")
    return found.stdout


def run_worker(
    command: Sequence[str | Path], extra: Sequence[str] = (), path: Sequence[Path] = ()
) -> Result:
    """The JSON object on the last line that a worker prints; see environment for path."""
    return json.loads(run([*command, *extra], path).strip().splitlines()[-1])


def in_turn(
    contenders: Sequence[Contender], rounds: int, extra: Sequence[str] = ()
) -> dict[str, list[Result]]:
    """Round after round, every contender that can run once: a busy machine hits all alike."""
    results: dict[str, list[Result]] = {c.name: [] for c in contenders if c.why_not is None}
    for _ in range(rounds):
        for contender in contenders:
            if contender.why_not is None:
                results[contender.name].append(run_worker(contender.command, extra))
    return results


def report_skipped(contenders: Sequence[Contender]) -> None:
    for contender in contenders:
        if contender.why_not is not None:
            print(f"skipped: {contender.name}: {contender.why_not}")


def spread(values: Sequence[float], digits: int = 0) -> str:
    """median (lowest to highest)."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def machine() -> str:
    """One line: processor, cores this process may use, memory."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"machine: {model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


def print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Rows with the same keys, as a Markdown table."""
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    print("| " + " | ".join(key.ljust(width) for key, width in widths.items()) + " |")
    print("|" + "|".join("-" * (width + 2) for width in widths.values()) + "|")
    for row in rows:
        print("| " + " | ".join(row[key].ljust(width) for key, width in widths.items()) + " |")
