"""Pairs come out as section 3.1, appendix A.2 and the builder of 2018 make them, or Lan et al."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest

from bertjax.data import segments, walk
from bertjax.data.segments import SegmentSettings, TokenStore

# Room enough for everything: nothing is truncated.
ROOMY = 4000


class Pair(NamedTuple):
    a_start: int
    a_end: int
    b_start: int
    b_end: int
    label: int


def make_store(
    parts: Sequence[Sequence[int]], documents: Sequence[int] | None = None
) -> TokenStore:
    """Parts given by the lengths of their sentences; each is a document unless told otherwise."""
    lengths = [length for part in parts for length in part]
    return TokenStore(
        np.arange(1000, 1000 + sum(lengths)),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([[0], np.cumsum([len(part) for part in parts])]),
        np.arange(len(parts)) if documents is None else np.array(documents),
    )


@pytest.fixture(scope="module")
def store() -> TokenStore:
    rng = random.Random(3)
    return make_store([[rng.randint(1, 25) for _ in range(rng.randint(1, 40))] for _ in range(60)])


def make_pairs(
    store: TokenStore,
    times: int = 1,
    *,
    kind: str = "nsp",
    length: int = 64,
    short: float = 0.1,
    seed: int = 0,
) -> list[Pair]:
    """The pairs of `times` walks, each in a row of its own, in random order."""
    settings = SegmentSettings(kind, length, short, times)
    rows = walk.make_rows(store, settings, np.random.default_rng(seed))
    assert rows.row.tolist() == np.repeat(np.arange(rows.num_rows), 2).tolist()
    assert rows.begins.tolist() == [True, False] * rows.num_rows
    assert (rows.label[::2] == rows.label[1::2]).all()
    places = np.stack([rows.start, rows.end], axis=1).reshape(-1, 4)
    return [Pair(*row) for row in np.column_stack([places, rows.label[::2]]).tolist()]


def part_of(store: TokenStore, token: int) -> int:
    sentence = int(np.searchsorted(store.sentence_starts, token, side="right")) - 1
    return int(np.searchsorted(store.part_starts, sentence, side="right")) - 1


def document_of(store: TokenStore, token: int) -> int:
    return int(store.documents[part_of(store, token)])


def is_near(found: float, wanted: float, number: int, sigmas: float = 3) -> bool:
    """A share of `number` draws lies where a binomial one does."""
    return abs(found - wanted) < sigmas * np.sqrt(wanted * (1 - wanted) / number)


# --- The rules of 2018 in this test's own words ---------------------------------------------


def shorten(a: list[int], b: list[int], limit: int, rng: random.Random) -> None:
    """Takes one token after the other from the longer (b of equals), front or back by a coin."""
    while len(a) + len(b) > limit:
        longer = a if len(a) > len(b) else b
        longer.pop(0 if rng.random() < 0.5 else -1)


def tokens_of(store: TokenStore, part: int) -> list[list[int]]:
    first, last = store.part_starts[part : part + 2]
    starts = store.sentence_starts[first : last + 1]
    return [store.tokens[i:j].tolist() for i, j in zip(starts, starts[1:], strict=False)]


def reference(
    store: TokenStore, part: int, limit: int, rng: random.Random
) -> Iterator[tuple[int, int, bool]]:
    """The procedure on lists of tokens, one sentence at a time: lengths of A and B, and if random.

    In 2018 all pairs whose chunk is one sentence were random. Here half of them are not: the chunk
    then takes in the sentence behind, else the one before, or else is itself cut in two.
    """
    sentences = tokens_of(store, part)
    at = 0
    while at < len(sentences):
        target = rng.randint(2, limit) if rng.random() < 0.1 else limit
        unrelated = rng.random() < 0.5
        chunk = [sentences[at]]
        behind = at + 1
        while behind < len(sentences) and sum(map(len, chunk)) < target:
            chunk.append(sentences[behind])
            behind += 1
        if not unrelated and len(chunk) == 1:
            if behind < len(sentences):
                chunk.append(sentences[behind])
                behind += 1
            elif at > 0:
                chunk.insert(0, sentences[at - 1])
            elif len(chunk[0]) > 1:
                half = (len(chunk[0]) + 1) // 2
                chunk = [chunk[0][:half], chunk[0][half:]]
            else:
                unrelated = True
        in_a = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
        a = [token for sentence in chunk[:in_a] for token in sentence]
        if unrelated:
            others = [other for other in range(store.num_parts) if other != part]
            source = tokens_of(store, rng.choice(others))
            start = rng.randrange(len(source))
            b = list(source[start])
            while len(b) < target - len(a) and start + 1 < len(source):
                start += 1
                b += source[start]
            at += in_a
        else:
            b = [token for sentence in chunk[in_a:] for token in sentence]
            at = behind
        shorten(a, b, limit, rng)
        yield len(a), len(b), unrelated


def test_the_distributions_are_those_of_the_procedure_of_2018(store: TokenStore) -> None:
    theirs = [
        pair
        for t in range(20)
        for part in range(store.num_parts)
        for pair in reference(store, part, 61, random.Random(f"{t}/{part}"))
    ]
    ours = [
        (pair.a_end - pair.a_start, pair.b_end - pair.b_start, pair.label)
        for pair in make_pairs(store, 60)
    ]
    assert len(ours) / 60 == pytest.approx(len(theirs) / 20, rel=0.03)
    for quantity in range(3):
        mine = np.array([row[quantity] for row in ours], float)
        other = np.array([row[quantity] for row in theirs], float)
        error = np.sqrt(mine.var() / len(mine) + other.var() / len(other))
        assert abs(mine.mean() - other.mean()) < 4 * error
    # Whole distributions, too, of A, B and both: largest gap of the cumulative shares.
    for weights in ((1, 0), (0, 1), (1, 1)):
        mine, other = (np.sort(np.array(rows)[:, :2] @ weights) for rows in (ours, theirs))
        gap = max(
            abs(
                np.searchsorted(mine, n, "right") / len(mine)
                - np.searchsorted(other, n, "right") / len(other)
            )
            for n in range(62)
        )
        assert gap < 0.03


# --- Next sentences -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "times"),
    [
        ([[5] * 4000] * 6, 4),
        ([[90] * 400] * 6, 4),  # a sentence is longer than the row
        ([[9, 12], [7, 30, 8], [20] * 4] * 10, 40),
        ([[9], [12], [40], [2]], 600),
    ],
    ids=["long documents", "long sentences", "short documents", "documents of one sentence"],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["nsp", "sentence_pair"])
def test_exactly_half_of_the_next_segments_are_random(
    parts: list[list[int]], times: int, packed: bool, kind: str
) -> None:
    settings = SegmentSettings(kind, dupe_factor=times, max_seq_length=64, packed=packed)
    rows = walk.make_rows(make_store(parts), settings, np.random.default_rng(0))
    labels = rows.label[rows.begins]
    assert len(labels) > 1000
    assert is_near(labels.mean(), 0.5, len(labels))


@pytest.mark.parametrize("kind", ["nsp", "sentence_pair"])
def test_a_random_segment_is_never_of_the_same_document(store: TokenStore, kind: str) -> None:
    # Three parts are one document; they lie side by side.
    halves = store._replace(documents=np.maximum(np.arange(store.num_parts), 2) - 2)
    seen = set()
    for pair in make_pairs(halves, 40, kind=kind):
        assert part_of(halves, pair.a_start) == part_of(halves, pair.a_end - 1)
        assert part_of(halves, pair.b_start) == part_of(halves, pair.b_end - 1)
        one, two = document_of(halves, pair.a_start), document_of(halves, pair.b_start)
        assert (one != two) == pair.label
        seen.add((one == 0, two))
    assert len(seen) == 2 * halves.num_documents


def test_an_actual_next_segment_follows_directly(store: TokenStore) -> None:
    borders = set(store.sentence_starts.tolist())
    lonely = set(np.flatnonzero(np.diff(store.part_starts) == 1).tolist())
    for pair in make_pairs(store, 5, length=ROOMY):
        if part_of(store, pair.a_start) in lonely and not pair.label:
            borders.add(pair.a_end)
        assert set(pair[:4]) <= borders
        if not pair.label:
            assert pair.b_start == pair.a_end
            assert part_of(store, pair.b_end - 1) == part_of(store, pair.a_start)


def test_every_sentence_is_used_once_as_a_or_actual_b(store: TokenStore) -> None:
    # Only the last sentence of a part, left over alone, may take the one before it along again.
    again = set()
    for seed in range(20):
        used = np.zeros(len(store.tokens), int)
        for pair in make_pairs(store, length=ROOMY, short=1.0, seed=seed):
            used[pair.a_start : pair.a_end] += 1
            if not pair.label:
                used[pair.b_start : pair.b_end] += 1
        assert used.min() == 1
        twice = np.searchsorted(store.sentence_starts, np.flatnonzero(used > 1), "right") - 1
        again |= set(twice.tolist())
        assert used.max() <= 2
    assert again
    assert again <= set((store.part_starts[1:] - 2).tolist())


def test_a_chunk_of_one_sentence_takes_in_the_one_behind_or_the_one_before() -> None:
    # Every sentence reaches the target on its own.
    three = make_store([[70, 70, 70], [70]])
    actual = {
        (pair.a_start, pair.b_end)
        for seed in range(60)
        for pair in make_pairs(three, length=ROOMY, short=1.0, seed=seed)
        if not pair.label and pair.a_start < 210
    }
    # Targets go up to 3997, so that three sentences may be a chunk as well.
    assert actual == {(0, 140), (0, 210), (70, 210)}
    last = [
        Pair(*pair)
        for seed in range(60)
        for pair in make_pairs(three, length=64, short=0.0, seed=seed)
    ]
    for pair in last:
        if not pair.label and pair.a_start < 210:
            # A and B are of two sentences next to each other, a half of the row each.
            assert pair.a_start // 70 + 1 == pair.b_start // 70
            assert (pair.a_end - pair.a_start, pair.b_end - pair.b_start) == (31, 30)
    assert {pair.a_start // 70 for pair in last if not pair.label} == {0, 1, 3}


def test_a_document_of_one_sentence_is_cut_in_its_middle_or_gets_a_random_segment() -> None:
    lonely = make_store([[4], [7], [1]])
    wanted = {(0, 2, 2, 4), (4, 8, 8, 11)}
    made = make_pairs(lonely, 400)
    assert len(made) == 1200
    assert {pair[:4] for pair in made if not pair.label} == wanted
    for pair in made:
        if pair.label:
            # A is the whole sentence.
            assert (pair.a_start, pair.a_end) in ((0, 4), (4, 11), (11, 12))
            assert (pair.b_start, pair.b_end) in ((0, 4), (4, 11), (11, 12))
            assert pair.a_start != pair.b_start
    # A single token cannot be cut: its next segment is always random.
    assert sum(pair.a_start == 11 for pair in made) == 400


@pytest.mark.parametrize("length", [8, 64])
def test_no_pair_is_longer_than_the_limit_and_no_segment_empty(
    store: TokenStore, length: int
) -> None:
    for a_start, a_end, b_start, b_end, _ in make_pairs(store, 20, length=length):
        assert a_end > a_start
        assert b_end > b_start
        assert a_end - a_start + b_end - b_start <= length - 3


def test_a_tenth_of_the_targets_are_short() -> None:
    # Sentences of one token reach their target exactly, so a filled row shows the target.
    letters = make_store([[1] * 10_000] * 5)
    made = [p for p in make_pairs(letters, 12) if not p.label and p.b_end % 10_000]
    actual = np.array([p.b_end - p.a_start for p in made])
    # Targets are drawn from 2 to 61, so one short target in sixty is the full length.
    assert is_near((actual < 61).mean(), 0.1 * 59 / 60, len(actual))
    # Short targets are uniform: their middle is that of 2 to 60.
    shorts = actual[actual < 61]
    assert abs(shorts.mean() - 31) < 3 * 17 / np.sqrt(len(shorts))
    assert set(shorts.tolist()) == set(range(2, 61))


def test_a_random_segment_starts_at_every_sentence_of_its_document_equally_often() -> None:
    other = make_store([[5], [2] * 6, [2] * 4], documents=[0, 1, 1])
    random_ones = [p for p in make_pairs(other, 10_000, short=0.0) if p.label and p.a_start == 0]
    starts = Counter((pair.b_start - 5) // 2 for pair in random_ones)
    # From there to the end of the part: it is shorter than the target.
    assert {pair.b_end for pair in random_ones} == {17, 25}
    assert all((pair.b_end == 17) == (pair.b_start < 17) for pair in random_ones)
    assert set(starts) == set(range(10))
    number = len(random_ones)
    assert all(is_near(count / number, 0.1, number) for count in starts.values())


def test_random_segments_are_of_every_other_document_equally_often() -> None:
    sizes = make_store([[3] * size for size in (1, 2, 5, 40)])
    made = [pair for pair in make_pairs(sizes, 4000) if pair.label and pair.a_start == 0]
    others = Counter(document_of(sizes, pair.b_start) for pair in made)
    assert set(others) == {1, 2, 3}
    assert all(is_near(count / len(made), 1 / 3, len(made)) for count in others.values())


# --- Truncation -----------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2, 3, 7, 20, 61])
def test_fit_lengths_is_the_loop_token_by_token(limit: int) -> None:
    sizes = [(a, b) for a in range(1, 45) for b in range(1, 45)]
    wanted = []
    for a, b in sizes:
        while a + b > limit:
            if a > b:
                a -= 1
            else:
                b -= 1
        wanted.append((a, b))
    a, b = np.array(sizes).T
    found = segments.fit_lengths(a, b, np.full(len(a), limit))
    assert list(zip(*(part.tolist() for part in found), strict=True)) == wanted


def test_truncation_drops_front_and_back_by_a_coin_for_every_token() -> None:
    made = make_pairs(make_store([[40], [3]]), 8000, length=36, short=0.0)
    made = [pair for pair in made if pair.label and pair.a_start < 40]
    assert all((pair.b_start, pair.b_end) == (40, 43) for pair in made)
    assert all(pair.a_end - pair.a_start == 30 for pair in made)
    # Ten tokens dropped, each from the front with 0.5: binomial, mean 5 and variance 2.5.
    fronts = Counter(pair.a_start for pair in made)
    assert set(fronts) == set(range(11))
    for front, ways in enumerate([1, 10, 45, 120, 210, 252, 210, 120, 45, 10, 1]):
        assert is_near(fronts[front] / len(made), ways / 1024, len(made))


# --- Other pairs ----------------------------------------------------------------------------


def test_swapped_segments_are_consecutive_and_half_of_them_in_the_wrong_order(
    store: TokenStore,
) -> None:
    made = make_pairs(store, 40, kind="sop", length=100, short=0.5)
    assert is_near(sum(pair.label for pair in made) / len(made), 0.5, len(made))
    for pair in make_pairs(store, 5, kind="sop", length=ROOMY, short=0.5):
        assert document_of(store, pair.a_start) == document_of(store, pair.b_end - 1)
        if pair.label:
            assert pair.b_end == pair.a_start
        else:
            assert pair.a_end == pair.b_start


def test_swapping_leaves_out_a_document_of_one_token() -> None:
    found = make_pairs(make_store([[1], [2], [1], [1, 1]]), 200, kind="sop")
    assert {pair[:4] for pair in found if not pair.label} == {(1, 2, 2, 3), (4, 5, 5, 6)}
    assert {pair[:4] for pair in found if pair.label} == {(2, 3, 1, 2), (5, 6, 4, 5)}
    assert len(found) == 400


def test_a_segment_pair_is_in_order_and_has_no_label(store: TokenStore) -> None:
    for pair in make_pairs(store, 5, kind="segment_pair", length=ROOMY, short=0.5):
        assert pair.a_end == pair.b_start
        assert document_of(store, pair.a_start) == document_of(store, pair.b_end - 1)
        assert pair.label == 0
    for pair in make_pairs(store, 5, kind="segment_pair"):
        assert pair.a_start < pair.a_end <= pair.b_start < pair.b_end
        assert pair.label == 0


def test_a_sentence_pair_is_one_sentence_and_the_next_one_or_a_random_one() -> None:
    rng = random.Random(1)
    several = make_store([[rng.randint(1, 25) for _ in range(rng.randint(2, 9))] for _ in range(9)])
    sentences = set(
        zip(several.sentence_starts.tolist(), several.sentence_starts[1:].tolist(), strict=False)
    )
    made = make_pairs(several, 50, kind="sentence_pair", length=ROOMY)
    for pair in made:
        assert {(pair.a_start, pair.a_end), (pair.b_start, pair.b_end)} <= sentences
        assert pair.label or pair.b_start == pair.a_end
    assert {pair[:2] for pair in made} | {pair[2:4] for pair in made} == sentences


# --- Randomness -----------------------------------------------------------------------------


def test_pairs_hang_on_the_generator_alone(store: TokenStore) -> None:
    assert make_pairs(store, seed=1) == make_pairs(store, seed=1)
    assert make_pairs(store, seed=1) != make_pairs(store, seed=2)
