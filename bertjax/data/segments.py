"""How the next sequence is made of a document: pairs of segments, or sentences in a row.

Many documents are worked on side by side, so that everything is arithmetic on arrays. Formats by
the names of Liu et al. 2019 (RoBERTa), section 4.2; pairs as in Devlin et al. 2018, section 3.1 and
appendix A.2, in the details of the 2018 builder; swapped ones are those of Lan et al. 2019.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class TokenStore(NamedTuple):
    """Tokenised parts of documents.

    Attributes:
      tokens: [num_tokens] ids.
      sentence_starts: [num_sentences + 1] places in tokens; the last is num_tokens.
      part_starts: [num_parts + 1] places in sentence_starts; no part is empty.
      documents: [num_parts] the number of each part's document, ascending from 0.
    """

    tokens: np.ndarray
    sentence_starts: np.ndarray
    part_starts: np.ndarray
    documents: np.ndarray

    @property
    def num_parts(self) -> int:
        return len(self.documents)

    @property
    def num_documents(self) -> int:
        return int(self.documents[-1]) + 1 if len(self.documents) else 0


class Walker(NamedTuple):
    """What a step sees of the lanes: each stands somewhere in a part.

    Attributes:
      at: [N] the token where the lane stands.
      first, last: [N] the part's first sentence, and the one behind its last.
      document: [N] the part's document.
      space: [N] tokens that still fit into the lane's row, specials included.
    """

    at: np.ndarray
    first: np.ndarray
    last: np.ndarray
    document: np.ndarray
    space: np.ndarray


class Step(NamedTuple):
    """One sequence of each lane.

    Attributes:
      start, end: [N, K] its K segments; a segment without tokens is none.
      label: [N].
      at: [N] where the lane goes on.
    """

    start: np.ndarray
    end: np.ndarray
    label: np.ndarray
    at: np.ndarray


@dataclasses.dataclass(frozen=True)
class SegmentSettings:
    """max_seq_length T counts special tokens; short_seq_prob of the pairs are made shorter.

    packed puts several sequences into a row.
    """

    segments: str = "nsp"
    max_seq_length: int = 128
    short_seq_prob: float = 0.1
    dupe_factor: int = 1
    packed: bool = False


@dataclasses.dataclass(frozen=True)
class Format:
    """How sequences are made of a document.

    Attributes:
      step: makes the next sequence of every lane.
      specials: special tokens in a sequence.
      has_label: a label tells whether the second segment belongs there.
      joins: a sequence goes on in the next document, behind a [SEP].
      documents: how many there must be.
    """

    step: Callable[[TokenStore, Walker, SegmentSettings, np.random.Generator], Step]
    specials: int
    has_label: bool = False
    joins: bool = False
    documents: int = 1


# --- Pairs ----------------------------------------------------------------------------------


def _pairs(by_sentence: bool = False, wrong: str = "") -> Callable[..., Step]:
    """A step that makes segments A and B, in half of the cases wrongly if there is a way to."""

    def step(
        store: TokenStore, here: Walker, settings: SegmentSettings, rng: np.random.Generator
    ) -> Step:
        number = len(here.at)
        starts = store.sentence_starts
        limit = here.space - 3
        short = rng.random(number) < settings.short_seq_prob
        target = np.where(short, rng.integers(2, limit + 1), limit)
        is_wrong = rng.random(number) < (0.5 if wrong else 0.0)
        is_random = is_wrong if wrong == "random" else np.zeros(number, bool)

        begin = np.searchsorted(starts, here.at)
        behind = begin + 2 if by_sentence else np.searchsorted(starts, here.at + target)
        behind = np.clip(behind, begin + 1, here.last)
        begin, behind, middle = _cut(starts, here, begin, behind, ~is_random, rng)
        splits = middle < 0  # one sentence alone is both A and B; of one token it cannot be
        # Where there is no B, it has to be random, if that is a way.
        single = splits & (starts[behind] - starts[begin] < 2)
        is_random = is_random | (single & (wrong == "random"))
        # Behind the token, if there is but one.
        halfway = (starts[begin] + starts[behind] + 1) // 2
        a_start = starts[begin]
        a_end = np.where(splits, halfway, starts[middle])
        b_start, b_end = a_end, starts[behind]
        if wrong == "random":
            wanted = np.ones_like(target) if by_sentence else target - (a_end - a_start)
            other_start, other_end = _random_segments(store, here.document, wanted, rng)
            b_start = np.where(is_random, other_start, b_start)
            b_end = np.where(is_random, other_end, b_end)
        a_start, a_end, b_start, b_end = _fit(a_start, a_end, b_start, b_end, limit, rng)
        segments = np.array([[a_start, b_start], [a_end, b_end]])  # [2, 2, N]
        if wrong == "swapped":
            segments = np.where(is_wrong, segments[:, ::-1], segments)
        used = np.where(is_random & ~splits, starts[middle], starts[behind])
        skipped = single & ~is_random
        segments[1] = np.where(skipped, segments[0], segments[1])
        label = (is_random | is_wrong).astype(np.int64)
        return Step(segments[0].T, segments[1].T, label, used)

    return step


def _cut(
    starts: np.ndarray,
    here: Walker,
    begin: np.ndarray,
    behind: np.ndarray,
    needs_two: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where A and B are cut apart: sentences [begin, middle) and [middle, behind).

    The 2018 builder makes every pair random whose A is a sentence alone, which gives more than half
    of random pairs. Here such a sentence takes the one behind it along, or the one before it. In a
    part of one sentence, middle is -1: the cut then goes through the sentence.
    """
    alone = needs_two & (behind - begin == 1)
    further = alone & (behind < here.last)
    back = alone & ~further & (begin > here.first)
    begin, behind = begin - back, behind + further
    choices = np.maximum(behind - begin - 1, 1)
    middle = begin + 1 + (rng.random(len(begin)) * choices).astype(np.int64)
    return begin, behind, np.where(needs_two & (behind - begin == 1), -1, middle)


def _random_segments(
    store: TokenStore, document: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Whole sentences of another document, drawn uniformly; `wanted` tokens if it has them."""
    starts, number = store.sentence_starts, len(document)
    other = rng.integers(0, store.num_documents - 1, number)
    other += other >= document
    first = store.part_starts[np.searchsorted(store.documents, other)]
    behind = store.part_starts[np.searchsorted(store.documents, other, "right")]
    sentence = first + (rng.random(number) * (behind - first)).astype(np.int64)
    part_end = store.part_starts[np.searchsorted(store.part_starts, sentence, "right")]
    start = starts[sentence]
    reach = np.searchsorted(starts, start + np.maximum(wanted, 1))
    return start, starts[np.clip(reach, sentence + 1, part_end)]


def fit_lengths(a: np.ndarray, b: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths left after dropping tokens from the longer segment (B if equal) until both fit."""
    excess = np.maximum(a + b - limit, 0)
    # First the longer one alone comes down to the other, then both in turn, B first.
    from_longer = np.minimum(excess, abs(a - b))
    rest = excess - from_longer
    longer = a > b
    a = a - np.where(longer, from_longer, 0) - rest // 2
    return a, b - np.where(longer, 0, from_longer) - (rest + 1) // 2


def _fit(
    a_start: np.ndarray,
    a_end: np.ndarray,
    b_start: np.ndarray,
    b_end: np.ndarray,
    limit: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Drops tokens one by one, each from the front or the back with equal chance."""
    a, b = fit_lengths(a_end - a_start, b_end - b_start, limit)
    a_start = a_start + rng.binomial(a_end - a_start - a, 0.5)
    b_start = b_start + rng.binomial(b_end - b_start - b, 0.5)
    return a_start, a_start + a, b_start, b_start + b


# --- Sentences one behind the other ---------------------------------------------------------


def _sentences(joins: bool) -> Callable[..., Step]:
    """A step that takes as many sentences as fit; if rows are packed, it cuts the last one."""

    def step(
        store: TokenStore, here: Walker, settings: SegmentSettings, rng: np.random.Generator
    ) -> Step:
        starts = store.sentence_starts
        fresh = here.space == settings.max_seq_length
        room = here.space - np.where(fresh | (not joins), 2, 1)
        end = np.minimum(here.at + room, starts[here.last])
        if not settings.packed:
            whole = starts[np.searchsorted(starts, end, "right") - 1]
            # Only a sentence that has a row for itself and does not fit is cut.
            end = np.where((whole > here.at) | ~fresh, whole, end)
        label = np.zeros(len(end), np.int64)
        return Step(here.at[:, None], end[:, None], label, end)

    return step


FORMATS = {
    "nsp": Format(_pairs(wrong="random"), 3, has_label=True, documents=2),
    "sop": Format(_pairs(wrong="swapped"), 3, has_label=True),
    "segment_pair": Format(_pairs(), 3),
    "sentence_pair": Format(_pairs(True, "random"), 3, has_label=True, documents=2),
    "full_sentences": Format(_sentences(joins=True), 2, joins=True),
    "doc_sentences": Format(_sentences(joins=False), 2),
}
