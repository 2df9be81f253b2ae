"""Tokens a second of one pretraining step, beside transformers + torch and tf-models-official.

    python benchmarks/train_step.py --torch_python=PYTHON --tfm_python=PYTHON

Forward, backward, clipping and AdamW in float32 (ours also with products in bfloat16), length 128,
20 predictions, dropout 0.1, on random tokens without padding: every token counted is a real one.
Each side runs in a process of its own, in turn. --torch_python needs torch and transformers, whose
BertForPreTraining scores the vocabulary at all 128 positions; --tfm_python needs tf-models-official
(with tf-keras), which like bertjax scores the 20 masked ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import contest
import pretraining_batch as data

OURS = "bertjax"


def contenders(torch_python: Path | None, tfm_python: Path | None) -> list[contest.Contender]:
    ours = [sys.executable, contest.HERE / "step_bertjax.py"]
    torch = ("--torch_python", "torch, transformers", "peer_torch.py", "--attention")
    tfm = ("--tfm_python", "tensorflow, tf_keras, official.nlp.modeling", "peer_tfm.py")
    return [
        contest.Contender(OURS, ours),
        contest.Contender(f"{OURS}, bfloat16", [*ours, "--dtype=bfloat16"]),
        contest.peer("transformers + torch, sdpa", torch_python, *torch, "sdpa"),
        contest.peer("transformers + torch, eager", torch_python, *torch, "eager"),
        contest.peer("tf-models-official, tf.function", tfm_python, *tfm),
    ]


def row(size: str, name: str, results: list[contest.Result], ours: float) -> dict[str, str]:
    """One line of the table; `ours` is bertjax's median tokens a second."""
    tokens = data.SIZES[size][-1] * data.LENGTH
    rates = [tokens / second for result in results for second in result["seconds"]]
    return {
        "size, batch": f"{size}, {data.SIZES[size][-1]}",
        "side": name,
        "tokens/s: median (min to max)": contest.spread(rates),
        "bertjax is faster by": f"{ours / statistics.median(rates):.2f}x",
        "peak MiB": f"{max(result['peak_mib'] for result in results):,.0f}",
        "CPU of others": f"{max(result['others'] for result in results):.2f} cores",
        "parameters": f"{results[0]['parameters'] / 1e6:.1f}M",
        "versions": results[0]["versions"],
    }


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--torch_python", type=Path, help="interpreter with torch, transformers")
    flags.add_argument("--tfm_python", type=Path, help="interpreter with tf-models-official")
    flags.add_argument("--sizes", nargs="+", choices=data.SIZES, default=list(data.SIZES))
    flags.add_argument("--rounds", type=int, default=3, help="processes of each side, in turn")
    flags.add_argument("--steps", type=int, default=8, help="timed steps of a process")
    flags.add_argument("--warmup", type=int, default=4, help="steps before those")
    options = flags.parse_args()
    sides = contenders(options.torch_python, options.tfm_python)
    print("command: python " + " ".join(sys.argv))
    print(contest.machine())
    contest.report_skipped(sides)
    rows = []
    for size in options.sizes:
        extra = [f"--size={size}", f"--steps={options.steps}", f"--warmup={options.warmup}"]
        results = contest.in_turn(sides, options.rounds, extra)
        tokens = data.SIZES[size][-1] * data.LENGTH
        seconds = [s for result in results[OURS] for s in result["seconds"]]
        ours = tokens / statistics.median(seconds)
        rows += [row(size, name, found, ours) for name, found in results.items()]
    contest.print_table(rows)
    print("real tokens only: the batches hold no padding")


if __name__ == "__main__":
    main()
