"""Seconds and disk to make rows without padding of text, beside run_mlm's tokenise-and-group.

    BERTJAX_DATA=<folder> python benchmarks/grouping.py --hf_python=PYTHON

The folder holds corpus/*.txt.xz and vocab/bert-base-uncased-vocab.txt. The peer does with Hugging
Face datasets what run_mlm of transformers does: every line tokenized, all joined and cut into rows
of 128. bertjax makes packed rows for dynamic masks, of full_sentences, which is the same kind of
row, and of the next-sentence pairs that run_mlm does not have. All in turn, on one core and on all;
the disk is what stands there in the end beside the text.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path

import builder
import contest
from process_cost import Command, Cost, measure

PEER = "datasets + run_mlm's steps"


def ours(source: Path, output: Path, vocabulary: Path, segments: str, workers: int) -> Command:
    kind = ["--masking=dynamic", "--packed", f"--segments={segments}"]
    return builder.ours(source, output, vocabulary, workers) + kind


def size(folder: Path) -> float:
    """MB of all files in a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--hf_python", type=Path, help="interpreter with datasets and transformers")
    flags.add_argument("--megabytes", type=float, default=20, help="of text (%(default)s)")
    flags.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    options = flags.parse_args()
    data = contest.data_folder()
    if data is None:
        return
    needs = "datasets, transformers"
    peer = contest.peer(PEER, options.hf_python, "--hf_python", needs, "peer_group.py")
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    contest.report_skipped([peer])
    vocabulary = Path(data, "vocab", "bert-base-uncased-vocab.txt")
    every = os.sched_getaffinity(0)
    found: dict[str, list[tuple[Cost, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "text.txt")
        text = builder.cut(Path(data, "corpus"), options.megabytes, source)
        for number, cores in product(range(options.rounds), ({max(every)}, every)):
            folder, count = Path(scratch, f"{number}-{len(cores)}"), len(cores)
            runs: dict[str, tuple[Command, Path]] = {}
            for segments in ("full_sentences", "nsp"):
                output = folder / segments
                command = ours(source, output, vocabulary, segments, count)
                runs[f"bertjax, {segments}"] = command, output
            if peer.why_not is None:
                cache = folder / "peer"
                command = [*peer.command, source, vocabulary, cache, "128", str(count)]
                runs[PEER] = command, cache
            for label, (command, output) in runs.items():
                cost = measure(command, cores), size(output)
                found.setdefault(f"{label}, {count} core(s)", []).append(cost)
    report(found, text)


def report(found: dict[str, list[tuple[Cost, float]]], text: float) -> None:
    rows = []
    for name, costs in found.items():
        reference = found.get(f"{PEER}, {name.rsplit(', ', 1)[1]}")
        seconds = [cost.wall for cost, _ in costs]
        theirs = statistics.median([cost.wall for cost, _ in reference]) if reference else None
        ratio = f"{theirs / statistics.median(seconds):.1f}x" if theirs else "not run"
        rows.append(
            {
                "what": name,
                f"s for {text:.0f} MB with start": contest.spread(seconds, 1),
                "faster than the peer": ratio,
                "disk, MB": f"{costs[0][1]:,.0f}",
                "MB per MB of text": f"{costs[0][1] / text:.2f}",
                "peak MiB": f"{max(cost.peak_mib for cost, _ in costs):,.0f}",
                "CPU of others": f"{max(cost.others for cost, _ in costs):.2f} cores",
            }
        )
    contest.print_table(rows)


if __name__ == "__main__":
    main()
