"""Fine-tunes a BERT with transformers + torch on given batches; a worker of finetuning.py.

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

import batch_files
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
    """The batches that finetuning.py wrote."""
    return [
        {name: torch.from_numpy(array) for name, array in batch.items()}
        for batch in batch_files.read(path)
    ]


def rates(peak: float, warmup: int, total: int) -> Iterator[float]:
    """bertjax.training.schedules.linear, step by step."""
    yield from (peak * (i + 1) / warmup for i in range(warmup))
    yield from (peak * (total - i) / total for i in range(warmup, total))


def load_model(head: str, folder: str, num_outputs: int) -> torch.nn.Module:
    """The class of transformers that has bertjax's head of that kind."""
    if head == "span":
        return transformers.BertForQuestionAnswering.from_pretrained(folder)
    kind = (
        transformers.BertForTokenClassification
        if head == "tagging"
        else transformers.BertForSequenceClassification
    )
    return kind.from_pretrained(folder, num_labels=num_outputs)


def outputs(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """[B, K], or of tokens [B, T, K]."""
    output = model(
        input_ids=batch["input_ids"].long(),
        attention_mask=batch["input_mask"].long(),
        token_type_ids=batch["segment_ids"].long(),
    )
    if "logits" in output:
        return output.logits
    return torch.stack([output.start_logits, output.end_logits], dim=-1)


def loss(head: str, scores: torch.Tensor, batch: Batch) -> torch.Tensor:
    """bertjax.models.objectives.task, one kind of head after the other."""
    weights, labels = batch["example_weights"], batch["labels"]
    cross_entropy = torch.nn.functional.cross_entropy
    if head == "regression":
        losses = (scores[:, 0] - labels) ** 2
    elif head == "tagging":
        weights = weights[:, None] * (labels >= 0)
        labels = labels.clamp(min=0).long()
        losses = cross_entropy(scores.transpose(1, 2), labels, reduction="none")
    elif head == "span":
        padding = batch["input_mask"][:, :, None] == 0
        scores = scores.masked_fill(padding, -1e9)
        losses = cross_entropy(scores, labels.long(), reduction="none").mean(dim=1)
    else:
        losses = cross_entropy(scores, labels.long(), reduction="none")
    return (losses * weights).sum() / weights.sum()


def predict(model: torch.nn.Module, batches: list[Batch], path: Path) -> None:
    """Writes the outputs of every batch."""
    model.eval()
    with torch.inference_mode():
        found = {str(i): outputs(model, batch).numpy() for i, batch in enumerate(batches)}
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **found)
    model.train()


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--model", required=True)
    flags.add_argument("--head", required=True)
    flags.add_argument("--num_outputs", type=int, required=True)
    flags.add_argument("--batches", type=Path, required=True)
    flags.add_argument("--held_out", type=Path, nargs="+", required=True)
    flags.add_argument("--outputs", type=Path, required=True)
    flags.add_argument("--seed", type=int, required=True)
    flags.add_argument("--learning_rate", type=float, required=True)
    flags.add_argument("--epochs", type=int, required=True)
    flags.add_argument("--warmup_share", type=float, required=True)
    options = flags.parse_args()
    torch.manual_seed(options.seed)
    train = read_batches(options.batches)
    held_out = {path.name: read_batches(path) for path in options.held_out}
    model = load_model(options.head, options.model, options.num_outputs).train()
    named = list(model.named_parameters())
    optimizers = [
        Adam2018([p for name, p in named if not NO_DECAY.search(name)], decay=0.01),
        Adam2018([p for name, p in named if NO_DECAY.search(name)], decay=0.0),
    ]
    schedule = rates(options.learning_rate, int(options.warmup_share * len(train)), len(train))
    begin = time.perf_counter()
    for number, (batch, rate) in enumerate(zip(train, schedule, strict=True), start=1):
        loss(options.head, outputs(model, batch), batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step(rate)
        epoch, left = divmod(number, len(train) // options.epochs)
        if left == 0:
            for name, batches in held_out.items():
                predict(model, batches, options.outputs / f"epoch-{epoch:02}" / name)
    seconds = time.perf_counter() - begin
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(json.dumps({"train_seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
