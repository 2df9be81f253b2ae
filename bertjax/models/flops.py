"""How many floating-point operations the arithmetic of a model takes, whatever the program does.

Those of its products; a multiplication and an addition are two. The last layer counts whole, as is
usual, though the program computes it where it is read alone. word2vec's are not counted: which
pairs of words it learns from is drawn within the step, and looking rows up takes its time.
"""

from __future__ import annotations

from bertjax.models.config import BertConfig
from bertjax.models.elmo import ElmoConfig

# The encoders whose operations are counted.
Counted = BertConfig | ElmoConfig


def encoder(config: Counted, rows: int, length: int) -> int:
    """Products of an encoder in a forward pass.

    Rows of `length` tokens, all of which count, also padding. Of packed rows attention across
    sequences counts, too: the arithmetic is done and masked.
    """
    if isinstance(config, ElmoConfig):
        return _elmo(config, rows, length)
    return _bert(config, rows, length)


def pretraining_step(
    config: Counted, rows: int, length: int, predictions: int, sequences: int = 1
) -> int:
    """Products of one update: forward, and backward with twice as many.

    Args:
      predictions: scored positions of a row.
      sequences: of a row; each of BERT's has its pooled vector and its label.
    """
    if isinstance(config, ElmoConfig):
        heads = _softmax(config, predictions)
    else:
        heads = _bert_heads(config, predictions, sequences)
    return 3 * (encoder(config, rows, length) + rows * heads)


def _bert(config: BertConfig, rows: int, length: int) -> int:
    width, inner = config.hidden_size, config.intermediate_size
    # Query, key, value, output: D x D each; feed-forward: D x I and I x D.
    matrices = 2 * (4 * width**2 + 2 * width * inner)
    # Scores and their mix: T D each.
    attention = 2 * 2 * length * width
    return rows * length * config.num_layers * (matrices + attention)


def _bert_heads(config: BertConfig, predictions: int, sequences: int) -> int:
    """Of a row: masked LM, next sentence."""
    width = config.hidden_size
    masked_lm = predictions * 2 * (width**2 + width * config.vocab_size)
    return masked_lm + sequences * 2 * (width**2 + 2 * width)


def _elmo(config: ElmoConfig, rows: int, length: int) -> int:
    wide, inner = config.projection_size, config.lstm_size
    # In each direction, for the four gates: what is read and what was put out, P x U each; then
    # the projection, U x P.
    layers = config.num_layers * 2 * 2 * (4 * 2 + 1) * wide * inner
    if not config.reads_letters:
        return rows * length * layers
    # Of a small vocabulary every entry is spelled once, of a large one every token.
    return rows * length * layers + min(rows * length, config.vocab_size) * _letters(config)


def _letters(config: ElmoConfig) -> int:
    """Of a word: filters at every place, C - w + 1 of them, highway layers, projection."""
    width = sum(number for _, number in config.filters)
    matches = sum(
        (config.max_characters - wide + 1) * wide * config.character_size * number
        for wide, number in config.filters
    )
    above = config.highway_layers * 2 * width**2 + width * config.projection_size
    return 2 * (matches + above)


def _softmax(config: ElmoConfig, predictions: int) -> int:
    """Of a row, in both directions: over all words, or the right one and those that are drawn."""
    words = config.num_sampled + 1 if config.sampler else config.vocab_size
    return predictions * 2 * 2 * config.projection_size * words
