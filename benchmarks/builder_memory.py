"""Memory of a build from 20 to 200 MB of text, under a limit of one gigabyte of address space.

    BERTJAX_DATA=<folder> python benchmarks/builder_memory.py

The folder holds corpus/books-*.txt.xz and vocab/bert-base-uncased-vocab.txt. Each build splits
sentences and writes masked records on all of the machine's cores, with the given vocabulary and
with one that it learns; the limit (ulimit -v) is on every process, so that a build that asks for
more fails. The last column is the memory of all processes together, the pages they share counted
once.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import builder
import contest


def tree(process: int) -> list[int]:
    """A process and all below it (Linux)."""
    found = [process]
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [one for child in path.read_text().split() for one in tree(int(child))]
        except OSError:  # it has just ended
            continue
    return found


def memory_mib(process: int) -> float:
    """Memory of a process and its children, shared pages divided among those that share them."""
    total = 0
    for one in tree(process):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(x.split()[1]) for x in text.splitlines() if x.startswith("Pss:"))
    return total / 1024


def run(
    source: Path, output: Path, vocabulary: str, limit: int, budget: str
) -> tuple[float, float]:
    """Seconds and peak MiB of a build; raises RuntimeError if it failed."""
    command = [
        sys.executable, "-m", "bertjax.prepare", f"--input={source}", f"--output={output}",
        vocabulary, "--dupe_factor=1", f"--memory={budget}",
    ]  # fmt: skip
    start, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            env=contest.environment(),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )
        while process.poll() is None:
            peak = max(peak, memory_mib(process.pid))
            time.sleep(0.2)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode()[-2000:])
    return time.perf_counter() - start, peak


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--megabytes", type=float, nargs="+", default=[20, 60, 195])
    flags.add_argument("--limit", type=float, default=1.0, help="GB of address space (1)")
    flags.add_argument("--memory", default="1GB", help="what the build is told (%(default)s)")
    options = flags.parse_args()
    folder = contest.data_folder()
    if folder is None:
        return
    corpus = folder / "corpus"
    given = folder / "vocab" / "bert-base-uncased-vocab.txt"
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for wanted in options.megabytes:
            source = Path(scratch, "text.txt")
            size = builder.cut(corpus, wanted, source)
            for kind, flag in (("given", f"--vocab={given}"), ("learnt", "--vocab_size=30522")):
                output = Path(scratch, f"{wanted:g}-{kind}")
                limit = int(options.limit * 1e9)
                seconds, peak = run(source, output, flag, limit, options.memory)
                manifest = json.loads((output / "manifest.json").read_text())
                written = sum(shard["bytes"] for shard in manifest["shards"])
                rows.append(
                    {
                        "MB of text": f"{size:.0f}",
                        "vocabulary": kind,
                        "records, MB": f"{written / 1e6:,.0f}",
                        "seconds": f"{seconds:.0f}",
                        "peak MiB of all processes": f"{peak:,.0f}",
                    }
                )
    contest.print_table(rows)


if __name__ == "__main__":
    main()
