"""Seconds and memory per MB of text to build pretraining records, beside the 2018 builder.

    BERTJAX_DATA=<folder> python benchmarks/builder.py --tfm_python=PYTHON

The folder holds corpus/*.txt.xz (one line a sentence, a blank line between documents) and
vocab/bert-base-uncased-vocab.txt. The peer is tf-models-official's copy of the 2018
create_pretraining_data.py. Length 128, 20 predictions, 10 % short sequences; lines are taken as
sentences by both. Every builder runs in turn on two sizes of text, pinned to one core
(bertjax also on all): the difference of the two is the cost of a MB without that of starting.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import contest
from process_cost import Command, Cost, measure

from bertjax.files import text_files

OURS, PEER = "bertjax, 1 core", "2018 builder, 1 core"


def cut(corpus: Path, megabytes: float, target: Path) -> float:
    """Writes the corpus's first lines, about `megabytes`; returns how many MB that came to."""
    paths = text_files.files([str(corpus / "*.txt.xz")])
    blocks = (block for path in paths for block in text_files.blocks(path))
    content = bytearray()
    while len(content) < megabytes * 1e6:
        content += next(blocks)
    target.write_bytes(content[: content.rfind(b"\n", 0, int(megabytes * 1e6)) + 1])
    return target.stat().st_size / 1e6


def settings(dupe_factor: int) -> Command:
    """What both builders call by the same names."""
    return [
        f"--dupe_factor={dupe_factor}", "--max_seq_length=128", "--max_predictions_per_seq=20",
        "--short_seq_prob=0.1",
    ]  # fmt: skip


def ours(source: Path, output: Path, vocabulary: Path, workers: int) -> Command:
    return [
        sys.executable, "-m", "bertjax.prepare", "--keep_lines", f"--workers={workers}",
        f"--input={source}", f"--output={output}", f"--vocab={vocabulary}",
    ]  # fmt: skip


def builder_2018(python: str | Path, source: Path, output: Path, vocabulary: Path) -> Command:
    return [
        python, "-m", "official.nlp.data.create_pretraining_data", f"--input_file={source}",
        f"--output_file={output}", f"--vocab_file={vocabulary}", "--do_lower_case=True",
    ]  # fmt: skip


def per_megabyte(small: Cost, large: Cost, megabytes: float) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and MiB that one more MB of text costs."""
    return (
        (large.wall - small.wall) / megabytes,
        (large.cpu - small.cpu) / megabytes,
        (large.peak_mib - small.peak_mib) / megabytes,
    )


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--tfm_python", type=Path, help="interpreter with tf-models-official")
    flags.add_argument(
        "--megabytes",
        type=float,
        nargs=2,
        default=[1, 10],
        metavar="MB",
        help="the two sizes; each must hold two books, so at least 1 (default: 1 10)",
    )
    flags.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    flags.add_argument("--dupe_factor", type=int, default=1)
    options = flags.parse_args()
    folder = contest.data_folder()
    if folder is None:
        return
    module = "official.nlp.data.create_pretraining_data"
    peer = contest.peer(PEER, options.tfm_python, "--tfm_python", module, "builder.py")
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    contest.report_skipped([peer])
    every = os.sched_getaffinity(0)
    one = {max(every)}
    vocabulary = Path(folder, "vocab", "bert-base-uncased-vocab.txt")
    same = settings(options.dupe_factor)

    def runs(source: Path, output: Path) -> dict[str, tuple[Command, set[int]]]:
        """Every builder's command for one text, and the cores it may use."""
        cores = len(every)
        found = {
            OURS: (ours(source, output.with_suffix(".one"), vocabulary, 1) + same, one),
            f"bertjax, {cores} cores": (
                ours(source, output.with_suffix(".all"), vocabulary, cores) + same,
                every,
            ),
        }
        if peer.why_not is None:
            target = output.with_suffix(".tfrecord")
            found[PEER] = builder_2018(peer.command[0], source, target, vocabulary) + same, one
        return found

    costs: dict[str, list[tuple[Cost, Cost]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        sources = [Path(scratch, name) for name in ("small.txt", "large.txt")]
        corpus = Path(folder, "corpus")
        sizes = [
            cut(corpus, wanted, source)
            for wanted, source in zip(sorted(options.megabytes), sources, strict=True)
        ]
        for number in range(options.rounds):
            small, large = (runs(s, Path(scratch, f"{number}-{s.stem}")) for s in sources)
            for name in small:
                pair = measure(*small[name]), measure(*large[name])
                costs.setdefault(name, []).append(pair)
    report(costs, sizes)


def report(costs: dict[str, list[tuple[Cost, Cost]]], sizes: Sequence[float]) -> None:
    rows = []
    total = f"s for {sizes[1]:.1f} MB with start"
    rates = {
        name: [per_megabyte(*pair, sizes[1] - sizes[0]) for pair in pairs]
        for name, pairs in costs.items()
    }
    reference = statistics.median(wall for wall, _, _ in rates.get(PEER, rates[OURS]))
    for name, pairs in costs.items():
        walls, cpus, memory = zip(*rates[name], strict=True)
        ratio = reference / statistics.median(walls)
        rows.append(
            {
                "builder": name,
                "s/MB: median (min to max)": contest.spread(walls, 3),
                "CPU s/MB": contest.spread(cpus, 3),
                total: contest.spread([b.wall for _, b in pairs], 1),
                "MiB/MB": contest.spread(memory, 1),
                f"peak MiB at {sizes[1]:.1f} MB": f"{max(b.peak_mib for _, b in pairs):,.0f}",
                "faster than 2018": f"{ratio:.1f}x" if PEER in rates else "not run",
                "CPU of others": f"{max(c.others for pair in pairs for c in pair):.2f} cores",
            }
        )
    contest.print_table(rows)
    print(
        f"s/MB: difference of a run on {sizes[1]:.1f} MB and one on {sizes[0]:.1f} MB; MiB: of "
        "the largest process"
    )


if __name__ == "__main__":
    main()
