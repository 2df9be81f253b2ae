"""Times the same two language models in PyTorch, in this process; a worker of elmo.py."""

from __future__ import annotations

import argparse
import json

import contest
import elmo_shapes as shapes
import torch


class Model(torch.nn.Module):
    """A table, an LSTM with projection for each direction, one softmax for both.

    torch.nn.LSTM has neither limits nor a residual connection, so it does a little less.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(shapes.VOCABULARY, shapes.WIDTH)
        sizes = (shapes.WIDTH, shapes.UNITS, shapes.LAYERS)
        more = {"dropout": 0.1, "batch_first": True, "proj_size": shapes.WIDTH}
        self.lstms = torch.nn.ModuleList([torch.nn.LSTM(*sizes, **more) for _ in range(2)])
        self.softmax = torch.nn.Linear(shapes.WIDTH, shapes.VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        losses = []
        for lstm, own in zip(self.lstms, (ids, ids.flip(1)), strict=True):
            states, _ = lstm(self.table(own[:, :-1]))
            scores = self.softmax(states).flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(scores, own[:, 1:].flatten()))
        return losses[0] + losses[1]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--warmup", type=int, required=True)
    flags.add_argument("--steps", type=int, required=True)
    options = flags.parse_args()
    torch.manual_seed(0)
    model, ids = Model(), torch.from_numpy(shapes.ids()).long()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        adam.zero_grad()
        model(ids).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()

    found = contest.timed(step, options.warmup, options.steps)
    print(json.dumps(found | {"ceiling": 0.0, "versions": f"torch {torch.__version__}"}))


if __name__ == "__main__":
    main()
