"""Times transformers + torch on given batches; a worker of finetuning_speed.py."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import contest
import torch
from finetune_torch import Batch, load_model, loss, outputs, read_batches


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--model", required=True)
    flags.add_argument("--batches", type=Path, required=True)
    flags.add_argument("--what", choices=["training", "evaluation"], required=True)
    flags.add_argument("--passes", type=int, required=True)
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = flags.parse_args()
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=options.dtype == "bfloat16")
    batches = read_batches(options.batches)
    model = load_model("classification", options.model, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, weight_decay=0.01)

    def train(batches: list[Batch]) -> None:
        model.train()
        for batch in batches:
            with autocast():
                found = loss("classification", outputs(model, batch), batch)
            found.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def evaluate(batches: list[Batch]) -> None:
        model.eval()
        with torch.inference_mode(), autocast():
            for batch in batches:
                outputs(model, batch)

    run = train if options.what == "training" else evaluate
    run(batches[:3] if options.what == "training" else batches)
    examples = sum(float(batch["example_weights"].sum()) for batch in batches)
    contest.time_passes(lambda: run(batches), options.passes, examples)


if __name__ == "__main__":
    main()
