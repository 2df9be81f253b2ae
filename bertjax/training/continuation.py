"""Pretraining that goes on from a given model, on new text and with new words."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from flax import traverse_util

from bertjax.errors import UserError
from bertjax.models.config import EncoderConfig
from bertjax.runs import parameters
from bertjax.text.tokenizer import Tokenizer
from bertjax.text.words import OpenWords
from bertjax.weights.pretrained import Pretrained

# Leaves with a row for every entry of the vocabulary.
_TABLES = (
    "encoder/embeddings/token/embedding",
    "masked_lm/bias",
    "next_token/bias",
    "softmax/embedding",
    "softmax/bias",
    "output/embedding",
)
# Of an encoder's config, what a model is made of besides its sizes, and learns its weights for.
_PARTS = ("attention", "residual", "positions", "feed_forward", "words", "buckets")
# What fixes how it is trained and not what it is.
_OF_TRAINING = (
    "dtype",
    "attention_kernel",
    "sampler",
    "num_sampled",
    "method",
    "window",
    "negatives",
    "subsample",
    "noise_power",
    "update_tokens",
)


def merge(start: Pretrained, fresh: Any, words: Tokenizer) -> tuple[Any, list[str]]:
    """Puts a model's encoder and pretraining heads in place of fresh ones.

    A new word begins as the mean of the pieces it was cut into before, which of whole words is
    [UNK]; new unused entries stay fresh.

    Args:
      words: the vocabulary of the fresh tree: the model's own, or one that extends it.

    Returns:
      The merged tree, and lines that tell what was taken.

    Raises:
      UserError: another vocabulary, or parameters of another shape.
    """
    check_vocabulary(start, words)
    given, wanted = parameters.flat(start.params), parameters.flat(fresh)
    merged, lines = dict(wanted), []
    pieces = _old_pieces(start, words)
    for path in _TABLES:
        if path in given:
            given[path] = _grown(np.asarray(given[path]), np.asarray(wanted[path]), start, pieces)
    taken = {path: leaf for path, leaf in given.items() if path in wanted}
    parameters.check_shapes(start.name, taken, {path: wanted[path] for path in taken})
    merged.update(taken)
    new = words.vocab_size - _vocabulary(start).vocab_size
    if new:
        lines.append(f"+ {new:,} new entries, {len(pieces):,} of them as the mean of their pieces")
    lines += [f"+ {part}: starts fresh" for part in _parts(wanted) - _parts(taken)]
    lines += [f"- {part}: left out" for part in _parts(given) - _parts(taken)]
    return traverse_util.unflatten_dict(merged, sep="/"), sorted(lines)


def resized(start: Pretrained, wanted: EncoderConfig) -> EncoderConfig:
    """The model's config for the vocabulary that is wanted, to be trained as is wanted.

    Its sizes are its own, whatever the config says.

    Raises:
      UserError: the model is another kind of encoder, or made of other parts.
    """
    if start.config.encoder != wanted.encoder:
        raise UserError(
            f"init={start.name}: its encoder is {start.config.encoder}, the config's is "
            f"{wanted.encoder}; use a config of that encoder"
        )
    own: Any = start.config
    for name in _PARTS:
        old, new = (getattr(config, name, None) for config in (own, wanted))
        if old != new:
            raise UserError(
                f"init={start.name}: is made with model.{name}={old}, the config has {new}; set "
                f"model.{name}={old}, or use the config that it was made with"
            )
    changes = ("vocab_size", *_OF_TRAINING)
    names = [field.name for field in dataclasses.fields(own)]
    changed = [name for name in names if name.endswith("dropout") or name in changes]
    return dataclasses.replace(own, **{name: getattr(wanted, name) for name in changed})


def check_vocabulary(start: Pretrained, words: Tokenizer) -> None:
    """Raises UserError unless `words` is the model's vocabulary, or that with more behind it."""
    known = _vocabulary(start)
    old = known.pieces(range(known.vocab_size))
    if words.pieces(range(min(len(old), words.vocab_size))) != old:
        raise UserError(
            f"init={start.name}: its vocabulary is not the one of the records; prepare them with "
            f"--vocab {start.name}, or add words to it: --vocab {start.name} --extend 1000"
        )


def _vocabulary(start: Pretrained) -> Tokenizer:
    """The entries that the model has rows for; one that reads letters takes in what it meets."""
    words = start.tokenizer
    return words.first if isinstance(words, OpenWords) else words


def _old_pieces(start: Pretrained, words: Tokenizer) -> dict[int, list[int]]:
    """The ids that each new word was cut into."""
    old = _vocabulary(start)
    new = range(old.vocab_size, words.vocab_size)
    special = set(words.never_random.tolist())
    return {
        number: old.encode(piece)
        for number, piece in zip(new, words.pieces(new), strict=True)
        if number not in special
    }


def _grown(
    table: np.ndarray, fresh: np.ndarray, start: Pretrained, pieces: dict[int, list[int]]
) -> np.ndarray:
    # The model may have more rows than its vocabulary has entries.
    known, behind = _vocabulary(start).vocab_size, table[start.config.vocab_size :]
    grown = np.array(fresh)
    grown[:known] = table[:known]
    # Behind the words' rows are those of their n-grams.
    grown[len(grown) - len(behind) :] = behind
    for number, old in pieces.items():
        grown[number] = table[old].mean(axis=0)
    return grown


def _parts(leaves: dict[str, Any]) -> set[str]:
    return {path.partition("/")[0] for path in leaves}
