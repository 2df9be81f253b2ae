"""Fine-tunes a BERT classifier with transformers + torch on given batches; a worker of sst2.py.

Every choice is bertjax's: the batches and their order, Adam as in 2018, schedule, clipping. Only
dropout, the new head's start and the arithmetic are torch's own.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers

NO_DECAY = re.compile(r"(LayerNorm\.weight|bias)$")
Batch = dict[str, torch.Tensor]


class Adam2018:
    """m / (sqrt(v) + 1e-6) without bias correction, decoupled decay (2018 optimization.py)."""

    def __init__(self, parameters: list[torch.Tensor], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self._mean = [torch.zeros_like(p) for p in parameters]
        self._square = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Moves the parameters by their gradients, which are then forgotten."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        torch._foreach_lerp_(self._mean, gradients, 0.1)
        torch._foreach_mul_(self._square, 0.999)
        torch._foreach_addcmul_(self._square, gradients, gradients, 0.001)
        root = torch._foreach_sqrt(self._square)
        torch._foreach_add_(root, 1e-6)
        updates = torch._foreach_div(self._mean, root)
        torch._foreach_add_(updates, self._parameters, alpha=self._decay)
        torch._foreach_add_(self._parameters, updates, alpha=-rate)
        for p in self._parameters:
            p.grad = None


def read_batches(path: Path) -> list[Batch]:
    """The batches that sst2.py wrote, cut back to the lengths they had."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return [
        {
            name: torch.from_numpy(rows[i, :, :length] if rows.ndim == 3 else rows[i])
            for name, rows in arrays.items()
            if name != "length"
        }
        for i, length in enumerate(arrays["length"])
    ]


def rates(peak: float, warmup: int, total: int) -> Iterator[float]:
    """bertjax.optimizer.linear_schedule, step by step."""
    yield from (peak * (i + 1) / warmup for i in range(warmup))
    yield from (peak * (total - i) / (total - warmup) for i in range(warmup, total))


def logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    output = model(
        input_ids=batch["input_ids"].long(),
        attention_mask=batch["input_mask"].long(),
        token_type_ids=batch["segment_ids"].long(),
    )
    return output.logits


def accuracy(model: torch.nn.Module, batches: list[Batch]) -> float:
    """Share of correct predictions over all real rows."""
    model.eval()
    right = total = 0.0
    with torch.inference_mode():
        for batch in batches:
            hit = logits(model, batch).argmax(dim=1) == batch["labels"]
            right += float((hit * batch["example_weights"]).sum())
            total += float(batch["example_weights"].sum())
    model.train()
    return right / total


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--model", required=True)
    flags.add_argument("--batches", type=Path, required=True)
    flags.add_argument("--dev", type=Path, required=True)
    flags.add_argument("--seed", type=int, required=True)
    flags.add_argument("--learning_rate", type=float, required=True)
    flags.add_argument("--epochs", type=int, required=True)
    flags.add_argument("--warmup_share", type=float, required=True)
    options = flags.parse_args()
    torch.manual_seed(options.seed)
    train, dev = read_batches(options.batches), read_batches(options.dev)
    model = transformers.BertForSequenceClassification.from_pretrained(options.model).train()
    named = list(model.named_parameters())
    optimizers = [
        Adam2018([p for name, p in named if not NO_DECAY.search(name)], decay=0.01),
        Adam2018([p for name, p in named if NO_DECAY.search(name)], decay=0.0),
    ]
    schedule = rates(options.learning_rate, int(options.warmup_share * len(train)), len(train))
    scores = []
    begin = time.perf_counter()
    for number, (batch, rate) in enumerate(zip(train, schedule, strict=True), start=1):
        losses = torch.nn.functional.cross_entropy(
            logits(model, batch), batch["labels"].long(), reduction="none"
        )
        weights = batch["example_weights"]
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step(rate)
        if number % (len(train) // options.epochs) == 0:
            scores.append(accuracy(model, dev))
    seconds = time.perf_counter() - begin
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(json.dumps({"score": max(scores), "train_seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
