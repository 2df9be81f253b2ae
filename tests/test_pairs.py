"""Segment pairs come out as section 3.1, appendix A.2 and the builder of 2018 make them."""

from __future__ import annotations

import bisect
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from bertjax.data import pairs
from bertjax.data.pairs import Pair, PairSettings, TokenStore

CLS, SEP, PAD = 1, 2, 0


def make_store(documents: Sequence[Sequence[int]]) -> TokenStore:
    """Documents given by their sentences' lengths; token i of the corpus is i + 1000."""
    lengths = [length for document in documents for length in document]
    return TokenStore(
        np.arange(1000, 1000 + sum(lengths)),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([[0], np.cumsum([len(document) for document in documents])]),
    )


@pytest.fixture(scope="module")
def store() -> TokenStore:
    rng = random.Random(3)
    return make_store([[rng.randint(1, 25) for _ in range(rng.randint(1, 40))] for _ in range(60)])


SETTINGS = PairSettings(max_seq_length=64)


def walk(
    store: TokenStore, times: int, settings: PairSettings = SETTINGS
) -> list[tuple[int, list[Pair]]]:
    """(document, its pairs) of `times` walks through the corpus."""
    return [
        (
            document,
            list(pairs.document_pairs(store, document, settings, random.Random(f"{t}/{document}"))),
        )
        for t in range(times)
        for document in range(store.num_documents)
    ]


@pytest.fixture(scope="module")
def walks(store: TokenStore) -> list[tuple[int, list[Pair]]]:
    return walk(store, 60)


def document_of(store: TokenStore, token: int) -> int:
    sentence = int(np.searchsorted(store.sentence_starts, token, side="right")) - 1
    return int(np.searchsorted(store.document_starts, sentence, side="right")) - 1


# --- The rules of 2018 in this test's own words ---------------------------------------------


def shorten(a: list[int], b: list[int], limit: int, rng: random.Random) -> None:
    """Takes one token after the other from the longer (b of equals), front or back by a coin."""
    while len(a) + len(b) > limit:
        longer = a if len(a) > len(b) else b
        longer.pop(0 if rng.random() < 0.5 else -1)


def tokens_of(store: TokenStore, document: int) -> list[list[int]]:
    starts = store.document(document)
    return [store.tokens[i:j].tolist() for i, j in zip(starts, starts[1:], strict=False)]


def reference(
    store: TokenStore, document: int, settings: PairSettings, rng: random.Random
) -> Iterator[tuple[list[int], list[int], bool]]:
    """The procedure on lists of tokens, one sentence at a time."""
    waiting = tokens_of(store, document)
    while waiting:
        short = rng.random() < settings.short_seq_prob
        target = rng.randint(2, settings.max_tokens) if short else settings.max_tokens
        chunk = [waiting.pop(0)]
        while waiting and sum(map(len, chunk)) < target:
            chunk.append(waiting.pop(0))
        in_a = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
        a = [token for sentence in chunk[:in_a] for token in sentence]
        unrelated = len(chunk) == 1 or rng.random() < 0.5
        if unrelated:
            others = [d for d in range(store.num_documents) if d != document]
            source = tokens_of(store, rng.choice(others))
            start = rng.randrange(len(source))
            b = list(source[start])
            while len(b) < target - len(a) and start + 1 < len(source):
                start += 1
                b += source[start]
            waiting = chunk[in_a:] + waiting
        else:
            b = [token for sentence in chunk[in_a:] for token in sentence]
        shorten(a, b, settings.max_tokens, rng)
        yield a, b, unrelated


def test_the_distributions_are_those_of_the_procedure_of_2018(
    store: TokenStore, walks: list[tuple[int, list[Pair]]]
) -> None:
    theirs = [
        (len(a), len(b), unrelated)
        for t in range(20)
        for document in range(store.num_documents)
        for a, b, unrelated in reference(
            store, document, SETTINGS, random.Random(f"r{t}{document}")
        )
    ]
    ours = [
        (pair.a_end - pair.a_start, pair.b_end - pair.b_start, bool(pair.is_random))
        for _, made in walks
        for pair in made
    ]
    assert len(ours) / 60 == pytest.approx(len(theirs) / 20, rel=0.03)
    for quantity in range(3):
        mine = np.array([row[quantity] for row in ours], float)
        other = np.array([row[quantity] for row in theirs], float)
        error = np.sqrt(mine.var() / len(mine) + other.var() / len(other))
        assert abs(mine.mean() - other.mean()) < 5 * error
    # The whole distribution of filled lengths, too: largest gap of the cumulative shares.
    mine, other = (np.sort([a + b for a, b, _ in rows]) for rows in (ours, theirs))
    gap = max(
        abs(
            np.searchsorted(mine, n, "right") / len(mine)
            - np.searchsorted(other, n, "right") / len(other)
        )
        for n in range(62)
    )
    assert gap < 0.04


# --- Claims about single pairs --------------------------------------------------------------


def test_half_of_the_next_segments_are_random() -> None:
    # Only chunks of two sentences and more toss the coin; chunks of one are always random.
    long_documents = make_store([[5] * 400] * 6)
    made = [pair for _, document in walk(long_documents, 4) for pair in document]
    share = sum(pair.is_random for pair in made) / len(made)
    # Reusing what stands behind the cut makes random pairs a little commoner, as in 2018.
    assert len(made) > 1000
    assert 0.47 < share < 0.56


def test_a_random_segment_is_of_another_document_and_whole_sentences(
    store: TokenStore, walks: list[tuple[int, list[Pair]]]
) -> None:
    seen = set()
    for document, made in walks:
        for pair in made:
            assert document_of(store, pair.a_start) == document
            assert document_of(store, pair.a_end - 1) == document
            other = document_of(store, pair.b_start)
            assert document_of(store, pair.b_end - 1) == other
            assert (other != document) == pair.is_random
            seen.add(other)
    assert seen == set(range(store.num_documents))


def test_an_actual_next_segment_follows_directly(store: TokenStore) -> None:
    # Long enough that nothing is truncated: the ends still stand where the sentences end.
    roomy = PairSettings(max_seq_length=4000)
    borders = set(store.sentence_starts.tolist())
    for document, made in walk(store, 5, roomy):
        for pair in made:
            assert {pair.a_start, pair.a_end, pair.b_start, pair.b_end} <= borders
            if not pair.is_random:
                assert pair.b_start == pair.a_end
                assert document_of(store, pair.b_start) == document


def test_every_sentence_of_a_document_is_used_once_as_a_or_actual_b(store: TokenStore) -> None:
    # Untruncated, the segments taken from the document itself tile it without gap or overlap.
    roomy = PairSettings(max_seq_length=4000, short_seq_prob=0.5)
    for document, made in walk(store, 10, roomy):
        own = []
        for pair in made:
            own.append((pair.a_start, pair.a_end))
            if not pair.is_random:
                own.append((pair.b_start, pair.b_end))
        starts = store.document(document)
        assert own[0][0] == starts[0]
        assert own[-1][1] == starts[-1]
        assert all(left[1] == right[0] for left, right in zip(own, own[1:], strict=False))


def test_no_pair_is_longer_than_the_limit_and_no_segment_empty(
    walks: list[tuple[int, list[Pair]]],
) -> None:
    for _, made in walks:
        for a_start, a_end, b_start, b_end, _ in made:
            assert a_end > a_start
            assert b_end > b_start
            assert a_end - a_start + b_end - b_start <= 61


def test_documents_of_one_sentence_get_a_random_next_segment() -> None:
    lonely = make_store([[4], [7], [300]])
    for document, made in walk(lonely, 30):
        assert len(made) == 1
        assert made[0].is_random
        assert document_of(lonely, made[0].b_start) != document
        # A of 300 tokens and a B of 4 or 7: A alone is shortened.
        if document == 2:
            b = made[0].b_end - made[0].b_start
            assert b in (4, 7)
            assert made[0].a_end - made[0].a_start == 61 - b


def test_a_tenth_of_the_targets_are_short() -> None:
    # Sentences of one token reach their target exactly, so a filled row shows the target.
    letters = make_store([[1] * 10_000] * 5)
    made = [pair for _, document in walk(letters, 12) for pair in document]
    actual = [p.a_end - p.a_start + p.b_end - p.b_start for p in made if not p.is_random]
    # Targets are drawn from 2 to 61, so one short target in sixty is the full length.
    share = np.mean(np.array(actual[:-1]) < 61)
    wanted = 0.1 * 59 / 60
    assert abs(share - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / len(actual))
    # Short targets are uniform: their middle is that of 2 to 60.
    shorts = [n for n in actual if n < 61]
    assert abs(np.mean(shorts) - 31) < 5 * 17 / np.sqrt(len(shorts))


# --- Truncation -----------------------------------------------------------------------------


def test_fit_lengths_is_the_loop_token_by_token() -> None:
    for limit in (2, 3, 7, 20, 61):
        for a in range(1, 45):
            for b in range(1, 45):
                left_a, left_b = a, b
                while left_a + left_b > limit:
                    if left_a > left_b:
                        left_a -= 1
                    else:
                        left_b -= 1
                assert pairs.fit_lengths(a, b, limit) == (left_a, left_b), (a, b, limit)


def test_truncation_drops_front_and_back_by_a_coin_for_every_token() -> None:
    fronts: list[int] = []
    two = make_store([[40], [3]])
    for seed in range(4000):
        made = pairs.document_pairs(two, 0, PairSettings(36, 0.0), random.Random(seed))
        (pair,) = made
        assert (pair.b_start, pair.b_end) == (40, 43)
        assert pair.a_end - pair.a_start == 30
        fronts.append(pair.a_start)
    # Ten tokens dropped, each from the front with 0.5: binomial, mean 5 and variance 2.5.
    assert abs(np.mean(fronts) - 5) < 5 * np.sqrt(2.5 / 4000)
    assert abs(np.var(fronts) - 2.5) < 0.3
    assert min(fronts) >= 0
    assert max(fronts) <= 10


# --- Rows -----------------------------------------------------------------------------------


def test_a_row_reads_cls_a_sep_b_sep_and_padding() -> None:
    store = make_store([[3, 2], [4]])
    places = np.array([[0, 3, 3, 5, 0], [5, 9, 1, 3, 1]])
    rows = pairs.lay_out(store, places, 12, cls_id=CLS, sep_id=SEP, pad_id=PAD)
    assert rows["input_ids"].tolist() == [
        [CLS, 1000, 1001, 1002, SEP, 1003, 1004, SEP, PAD, PAD, PAD, PAD],
        [CLS, 1005, 1006, 1007, 1008, SEP, 1001, 1002, SEP, PAD, PAD, PAD],
    ]
    assert rows["input_mask"].tolist() == [[1] * 8 + [0] * 4, [1] * 9 + [0] * 3]
    # The second [SEP] belongs to B, padding to 0, as in the 2018 code.
    assert rows["segment_ids"].tolist() == [
        [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0],
    ]
    assert rows["next_sentence_labels"].tolist() == [[0], [1]]
    assert rows["lengths"].tolist() == [8, 9]
    assert (rows["maskable"] == (rows["input_ids"] >= 1000)).all()


def test_a_full_row_has_no_padding(store: TokenStore) -> None:
    rows = pairs.lay_out(
        store, np.array([[0, 30, 30, 61, 0]]), 64, cls_id=CLS, sep_id=SEP, pad_id=PAD
    )
    assert rows["input_mask"].all()
    assert rows["input_ids"][0, -1] == SEP
    assert np.flatnonzero(rows["input_ids"][0] == SEP).tolist() == [31, 63]


def test_pairs_hang_on_the_generator_alone(store: TokenStore) -> None:
    def made(seed: int) -> list[Pair]:
        return list(pairs.document_pairs(store, 5, SETTINGS, random.Random(seed)))

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_a_random_segment_starts_at_every_sentence_of_its_document_equally_often() -> None:
    other = make_store([[5], [2] * 10])
    starts: Counter[int] = Counter()
    for seed in range(5000):
        (pair,) = pairs.document_pairs(other, 0, PairSettings(64, 0.0), random.Random(seed))
        starts[bisect.bisect_right(other.sentence_starts.tolist(), pair.b_start) - 2] += 1
        # From there to the end: the document is shorter than the target.
        assert pair.b_end == 25
    assert set(starts) == set(range(10))
    assert max(abs(count - 500) for count in starts.values()) < 5 * np.sqrt(5000 * 0.09)
