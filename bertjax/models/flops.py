"""How many floating-point operations the arithmetic of a model takes, whatever the program does.

The last layer counts whole, as is usual, though the program computes it where it is read alone.
"""

from __future__ import annotations

from bertjax.models.config import BertConfig


def encoder(config: BertConfig, rows: int, length: int) -> int:
    """Products of the encoder's layers in a forward pass; a multiplication and an addition are two.

    Rows of `length` tokens, all of which count, also padding. Of packed rows attention across
    sequences counts, too: the arithmetic is done and masked.
    """
    width, inner = config.hidden_size, config.intermediate_size
    # Query, key, value, output: D x D each; feed-forward: D x I and I x D.
    matrices = 2 * (4 * width**2 + 2 * width * inner)
    # Scores and their mix: T D each.
    attention = 2 * 2 * length * width
    return rows * length * config.num_layers * (matrices + attention)


def pretraining_step(
    config: BertConfig, rows: int, length: int, predictions: int, sequences: int = 1
) -> int:
    """Products of one update: forward, and backward with twice as many.

    Args:
      predictions: scored positions of a row.
      sequences: of a row; each has its pooled vector and its label.
    """
    width = config.hidden_size
    masked_lm = predictions * 2 * (width**2 + width * config.vocab_size)
    pooled = sequences * 2 * (width**2 + 2 * width)
    return 3 * (encoder(config, rows, length) + rows * (masked_lm + pooled))
