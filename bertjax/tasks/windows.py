"""Questions about a context as rows: windows over it where it has no room in one.

As the 2018 code's run_squad.py (paper, sections 4.2 and 4.3), but on characters: where each token
stands in the context is known, so that no answer is spelt anew from its pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bertjax.data.rows import Row
from bertjax.errors import UserError
from bertjax.tasks.base import Context, Encoded
from bertjax.text.tokenizer import Tokenizer


class Example(NamedTuple):
    """A question about a context.

    Attributes:
      gold: its right answers, each with the character at which it begins; empty if the context
        has none, None if it is to be predicted. The first one is trained on.
    """

    id: str
    question: str
    context: str
    gold: tuple[tuple[str, int], ...] | None
    where: str


class Window(NamedTuple):
    """What Row.note holds: the part of a context that a row shows.

    Attributes:
      example: the number of its question.
      offsets: [N, 2] characters (begin, end) in the context of each of the window's N tokens.
      own: bool [N]: no other window shows the token with more context.
    """

    example: int
    offsets: np.ndarray
    own: np.ndarray


class _Tokens(NamedTuple):
    """A context's N ids, and [N, 2] the characters of each."""

    ids: list[int]
    offsets: np.ndarray


def windows(num_tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """[begin, end) of the windows over a context; the first one is there even if it is empty.

    No token is left out: where the stride is longer than a window, the next one follows directly.
    """
    found = [(0, min(room, num_tokens))]
    while found[-1][1] < num_tokens:
        begin = found[-1][0] + min(stride, room)
        found.append((begin, min(begin + room, num_tokens)))
    return found


def max_context(spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """[N]: the number of the window in which each token has the most context.

    That is the lesser of the tokens to its left and right, plus a hundredth of the window's
    length; the first window where that is equal (2018: _check_is_max_context).
    """
    most = np.full(spans[-1][1], -1.0)
    owner = np.zeros(len(most), np.int32)
    for number, (begin, end) in enumerate(spans):
        left = np.arange(end - begin)
        contexts = np.minimum(left, left[::-1]) + 0.01 * (end - begin)
        better = contexts > most[begin:end]
        most[begin:end][better] = contexts[better]
        owner[begin:end][better] = number
    return owner


def nearest(context: str, text: str, start: int) -> int | None:
    """Where the occurrence of a text begins that is nearest to `start`; None if it is not there."""
    start = max(start, 0)
    places = (context.rfind(text, 0, start + len(text)), context.find(text, start))
    return min((at for at in places if at >= 0), key=lambda at: abs(at - start), default=None)


def _question(example: Example, context: Context, counts: Counter[str]) -> list[int]:
    """[CLS] question [SEP]; raises UserError if that leaves no room for a token of the context."""
    tokenizer, options = context.tokenizer, context.options
    limit = options.max_query_length
    ids = tokenizer.encode(example.question)
    counts["with a question without a token"] += not ids
    counts[f"with a question cut at {limit} tokens"] += len(ids) > limit
    ids = ids[:limit]
    if len(ids) + 4 > options.max_seq_length:
        raise UserError(
            f"{example.where}: a question of {len(ids)} tokens leaves no room for its context "
            f"within max_seq_length {options.max_seq_length}; raise that or lower "
            f"max_query_length ({limit})"
        )
    return [tokenizer.cls_id, *ids, tokenizer.sep_id]


def _answer(example: Example, offsets: np.ndarray, counts: Counter[str]) -> tuple[int, int] | None:
    """The first and the last token of the answer that is trained on, if there is one."""
    if not example.gold:
        return None
    text, start = example.gold[0]
    at = nearest(example.context, text, start)
    if at is not None:
        counts["with an answer moved to where its text stands"] += at != start
        covered = np.flatnonzero((offsets[:, 1] > at) & (offsets[:, 0] < at + len(text)))
        if len(covered):
            return int(covered[0]), int(covered[-1])
    counts["with an answer that is not in the context"] += 1
    return None


def _rows(
    number: int, example: Example, tokens: _Tokens, context: Context, counts: Counter[str]
) -> Iterator[Row]:
    """The rows [CLS] question [SEP] window [SEP] of a question."""
    options, first = context.options, _question(example, context, counts)
    room = options.max_seq_length - len(first) - 1
    spans = windows(len(tokens.ids), room, options.doc_stride)
    owner = max_context(spans)
    answer = _answer(example, tokens.offsets, counts)
    # What is not answered in a window is answered at [CLS], as in 2018.
    elsewhere = (0, 0) if answer or example.gold == () else None
    counts["in several windows"] += len(spans) > 1
    counts["with a context without a token, answered with nothing"] += not tokens.ids
    for window, (begin, end) in enumerate(spans):
        target = elsewhere
        if answer and begin <= answer[0] and answer[1] < end:
            target = (answer[0] - begin + len(first), answer[1] - begin + len(first))
        yield Row(
            [*first, *tokens.ids[begin:end], context.tokenizer.sep_id],
            len(first),
            target,
            Window(number, tokens.offsets[begin:end], owner[begin:end] == window),
        )


def _tokens(tokenizer: Tokenizer, text: str) -> _Tokens:
    ids, offsets = tokenizer.encode_with_offsets(text)
    return _Tokens(ids, np.array(offsets, np.int32).reshape(-1, 2))


def encode(examples: Sequence[Example], context: Context) -> Encoded:
    """One or more consecutive rows for each question; each context is encoded once.

    Every window is trained on: one that does not show the whole answer has [CLS], place 0, as its
    first and last token. Rows of an answer that cannot be found have target None.

    Raises:
      UserError: a question that leaves no room for its context.
    """
    counts: Counter[str] = Counter()
    rows: list[Row] = []
    encoded: dict[str, _Tokens] = {}
    for number, example in enumerate(examples):
        if example.context not in encoded:
            encoded[example.context] = _tokens(context.tokenizer, example.context)
        rows += _rows(number, example, encoded[example.context], context, counts)
    return Encoded(rows, dict(+counts))
