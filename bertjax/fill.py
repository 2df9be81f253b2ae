"""Fills each [MASK] of a sentence with what a pretrained model finds most probable.

example:
  python -m bertjax.fill --run=runs/tiny "The function returns a [MASK] of integers."
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import jax
import numpy as np

from bertjax import errors
from bertjax.command_line import new_parser
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.json_file import write_json
from bertjax.models.masked_lm import PretrainingModel
from bertjax.text.tokenizer import Tokenizer
from bertjax.weights import pretrained
from bertjax.weights.transplant import filled_up

MASK = "[MASK]"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("fill", __doc__)
    add = parser.add_argument
    add(
        "--run",
        type=storage.path,
        required=True,
        help="a pretraining run, or a Hugging Face or 2018 folder",
    )
    add("--top", type=int, default=5, help="candidates for each mask (%(default)s)")
    add("--output", type=storage.path, help="also write the candidates to this JSON file")
    add("texts", nargs="+", metavar="TEXT", help=f"a sentence with {MASK} in it")
    return parser.parse_args(argv)


def encode(text: str, tokenizer: Tokenizer, longest: int) -> list[int]:
    """[CLS] text [SEP], every "[MASK]" in the text as the one mask piece.

    Raises:
      UserError: no [MASK] in the text, or more pieces than the model has positions.
    """
    if MASK not in text:
        raise UserError(f"'{text}': holds no {MASK}; write {MASK} where a word is to be filled in")
    ids = [tokenizer.cls_id]
    for index, part in enumerate(text.split(MASK)):
        ids += [tokenizer.mask_id] * (index > 0) + tokenizer.encode(part)
    ids.append(tokenizer.sep_id)
    if len(ids) > longest:
        raise UserError(f"'{text[:40]}...': {len(ids)} pieces, the model takes {longest}; cut it")
    return ids


def fill(start: pretrained.Pretrained, text: str, top: int) -> list[dict[str, Any]]:
    """Candidates, most probable first, the first mask's before the second's.

    Returns:
      [{"mask": 0, "piece": "list", "probability": 0.31, "text": "... a list of ..."}, ...]
    """
    ids = np.array([encode(text, start.tokenizer, start.config.max_positions)], np.int32)
    positions = np.flatnonzero(ids[0] == start.tokenizer.mask_id)
    config: Any = start.config
    output: Any = PretrainingModel(config).apply(
        {"params": filled_up(start.params, config)},
        ids,
        np.ones_like(ids),
        np.zeros_like(ids),
        positions[None],
    )
    probabilities = np.asarray(jax.nn.softmax(output.masked_lm[0]))
    candidates = []
    for mask, row in enumerate(probabilities):
        for piece in np.argsort(-row)[:top]:
            filled = ids[0].copy()
            filled[positions[mask]] = piece
            candidates.append(
                {
                    "mask": mask,
                    "piece": start.tokenizer.pieces([int(piece)])[0],
                    "probability": round(float(row[piece]), 6),
                    "text": start.tokenizer.decode(filled[1:-1].tolist()),
                }
            )
    return candidates


def main() -> None:
    flags = parse_arguments()
    if flags.top < 1:
        raise UserError(f"--top={flags.top}: give at least 1")
    start = pretrained.load(flags.run)
    if "masked_lm" not in start.params:
        raise UserError(f"{flags.run}: has no masked-LM head; give a pretraining run of BERT")
    results = [{"text": text, "candidates": fill(start, text, flags.top)} for text in flags.texts]
    for result in results:
        print(result["text"])
        for candidate in result["candidates"]:
            print(f"  {candidate['probability']:6.1%}  {candidate['piece']}")
    if flags.output:
        write_json(flags.output, results)


if __name__ == "__main__":
    sys.exit(errors.run(main))
