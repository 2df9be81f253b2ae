"""Tokens a second of ELMo's pretraining step, beside torch.nn.LSTM; the share of the ceiling.

    python benchmarks/elmo.py --torch_python=PYTHON

The size "mini" with 10,000 words, 32 rows of 64 random words, float32. Forward, backward, clipping
and AdamW of both language models; in turn, each in a process of its own. "table, all words" is the
same work as the peer's, but for the limits and the residual connection that it has not. The ceiling
is one product of two square matrices of 2,048; only the products of LSTMs and softmax are counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import contest
import elmo_shapes as shapes

# name -> (words, candidates of the softmax that are drawn)
OURS = {
    "bertjax, table, all words": ("table", 0),
    "bertjax, characters, 1,024 drawn words": ("characters", 1024),
}


def contenders(torch_python: Path | None) -> list[contest.Contender]:
    script = contest.HERE / "elmo_bertjax.py"
    ours = [
        contest.Contender(name, [sys.executable, script, f"--words={words}", f"--sampled={drawn}"])
        for name, (words, drawn) in OURS.items()
    ]
    flag = "--torch_python"
    return [*ours, contest.peer("torch.nn.LSTM", torch_python, flag, "torch", "elmo_torch.py")]


def row(name: str, results: list[contest.Result]) -> dict[str, str]:
    seconds = [second for result in results for second in result["seconds"]]
    tokens = shapes.ROWS * shapes.LENGTH
    done = shapes.products(OURS.get(name, ("", 0))[1] or shapes.VOCABULARY)
    ceiling = max(result["ceiling"] for result in results)
    reached = done / statistics.median(seconds)
    return {
        "side": name,
        "tokens/s: median (min to max)": contest.spread([tokens / second for second in seconds]),
        "GFLOP/s": f"{reached / 1e9:,.0f}",
        "of the ceiling": f"{reached / ceiling:.0%} of {ceiling / 1e9:,.0f}" if ceiling else "-",
        "peak MiB": f"{max(result['peak_mib'] for result in results):,.0f}",
        "CPU of others": f"{max(result['others'] for result in results):.2f} cores",
        "versions": results[0]["versions"],
    }


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--torch_python", type=Path, help="interpreter with torch")
    flags.add_argument("--rounds", type=int, default=2, help="processes of each side, in turn")
    flags.add_argument("--steps", type=int, default=6, help="timed steps of a process")
    flags.add_argument("--warmup", type=int, default=2, help="steps before those")
    options = flags.parse_args()
    sides = contenders(options.torch_python)
    print("command: python " + " ".join(sys.argv))
    print(contest.machine())
    contest.report_skipped(sides)
    extra = [f"--steps={options.steps}", f"--warmup={options.warmup}"]
    results = contest.in_turn(sides, options.rounds, extra)
    contest.print_table([row(name, found) for name, found in results.items()])


if __name__ == "__main__":
    main()
