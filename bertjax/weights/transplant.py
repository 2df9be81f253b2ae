"""Puts the parameters of what is gone on from into a new model, part by part."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from bertjax.models.config import BertConfig
from bertjax.runs import parameters
from bertjax.weights.convert import part_of
from bertjax.weights.pretrained import Pretrained


def transplant(
    start: Pretrained, fresh: Any, head: str = "", labels: Sequence[str] = ()
) -> tuple[Any, list[str]]:
    """Puts given parameters in place of fresh ones, part by part ("encoder", "head", ...).

    The encoder must fit exactly. A head is taken only if it is of the kind that is asked for and
    has the same names of labels; its outputs are then put into the order that is asked for. A
    part that only the fresh tree has stays fresh; one that only the given tree has is left out;
    both are told.

    Args:
      head, labels: of the fresh tree's head, to go on with the given one if it is the same.

    Returns:
      The merged tree, and lines that begin with = (a head that is kept), + (a part that starts
      fresh) or - (one that is left out).
    """
    given, wanted = _parts(start.params), _parts(fresh)
    taken = {part: leaves for part, leaves in given.items() if part.startswith("encoder")}
    for part, leaves in taken.items():
        parameters.check_shapes(start.name, leaves, wanted[part])
    lines = []
    if head and head == start.head and sorted(labels) == sorted(start.labels):
        reordered = _reorder(given["head"], [list(start.labels).index(name) for name in labels])
        # A head of this kind may read other features in the fresh tree.
        if "mix" not in wanted and _shapes(reordered) == _shapes(wanted["head"]):
            taken["head"] = reordered
            lines.append(f"= head: kept ({_describe_head(start)})")
    lines += [f"+ {part}: starts fresh" for part in wanted if part not in taken]
    for part in given:
        if part not in taken:
            note = f" ({_describe_head(start)})" if part == "head" else ""
            lines.append(f"- {part}: left out{note}")
    if start.skipped:
        lines.append(f"- optimizer: {start.skipped} tensors left out")
    merged = {path: leaf for part in wanted for path, leaf in (wanted | taken)[part].items()}
    return traverse_util.unflatten_dict(merged, sep="/"), lines


def _parts(params: Any) -> dict[str, dict[str, Any]]:
    """{"encoder": {"encoder/embeddings/norm/bias": array, ...}, "encoder/pooler": ..., ...}."""
    parts: dict[str, dict[str, Any]] = {}
    for path, leaf in parameters.flat(params).items():
        parts.setdefault(part_of(path), {})[path] = leaf
    return parts


def _reorder(head: dict[str, Any], order: list[int]) -> dict[str, Any]:
    """A linear head with its outputs in another order; without names there is none."""
    return {path: leaf[..., order] if order else leaf for path, leaf in head.items()}


def _shapes(part: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in part.items()}


def _describe_head(start: Pretrained) -> str:
    names = textwrap.shorten(", ".join(start.labels), 60, placeholder=" ...")
    return f"{start.head or 'of another kind'}{f' of {names}' if names else ''}"


def filled_up(params: Any, config: BertConfig) -> Any:
    """With zeros for a pooler and a next-sentence head that others' folders may lack.

    For those who read neither: what is learnt from must not begin with them.
    """
    width = config.hidden_size

    def zeros(features: int) -> dict[str, np.ndarray]:
        kernel, bias = np.zeros((width, features), np.float32), np.zeros(features, np.float32)
        return {"kernel": kernel, "bias": bias}

    encoder = {"pooler": zeros(width), **params["encoder"]}
    return {"next_sentence": zeros(2), **params, "encoder": encoder}
