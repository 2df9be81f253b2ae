"""Rows of every format: none too long, nothing lost, packed ones full."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from bertjax.data import walk
from bertjax.data.segments import FORMATS, SegmentSettings, TokenStore
from bertjax.data.walk import Rows

SENTENCES = ["doc_sentences", "full_sentences"]
# Some sentences are longer than this.
LENGTH = 24


def make_store(parts: Sequence[Sequence[int]]) -> TokenStore:
    """Documents of one part, given by the lengths of their sentences."""
    lengths = [length for part in parts for length in part]
    return TokenStore(
        np.arange(sum(lengths)),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([[0], np.cumsum([len(part) for part in parts])]),
        np.arange(len(parts)),
    )


def documents(number: int, most: int, longest: int, seed: int = 0) -> TokenStore:
    """Of 1 to `most` sentences of 1 to `longest` tokens."""
    rng = random.Random(seed)
    return make_store(
        [[rng.randint(1, longest) for _ in range(rng.randint(1, most))] for _ in range(number)]
    )


@pytest.fixture(scope="module")
def store() -> TokenStore:
    """More documents than are walked through side by side."""
    return documents(1300, 6, 30)


def make_rows(
    store: TokenStore, kind: str, length: int, packed: bool, times: int = 1, seed: int = 0
) -> Rows:
    settings = SegmentSettings(kind, length, dupe_factor=times, packed=packed)
    return walk.make_rows(store, settings, np.random.default_rng(seed))


def sizes(rows: Rows) -> np.ndarray:
    """Tokens of each row: those of its segments, a [SEP] each, and the [CLS]s."""
    return np.bincount(rows.row, rows.end - rows.start + 1 + rows.begins).astype(int)


# --- Rows of every format -------------------------------------------------------------------


@pytest.mark.parametrize("length", [8, LENGTH, 128, 512])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_row_holds_whole_sequences_and_no_more_tokens_than_it_may(
    kind: str, packed: bool, length: int, store: TokenStore
) -> None:
    rows = make_rows(store, kind, length, packed)
    assert rows.row.tolist() == sorted(rows.row.tolist())
    assert set(rows.row.tolist()) == set(range(rows.num_rows))
    assert (rows.end > rows.start).all()
    assert sizes(rows).max() <= length
    first = np.diff(rows.row, prepend=-1) > 0
    assert rows.begins[first].all()
    # Segments of a sequence: those from one beginning to the next.
    sequences = np.bincount(np.cumsum(rows.begins))[1:]
    if FORMATS[kind].specials == 3:
        assert set(sequences.tolist()) == {2}
    if kind == "doc_sentences":
        assert rows.begins.all()
    if kind == "full_sentences" or not packed:
        assert rows.begins.sum() == rows.num_rows
    if not FORMATS[kind].has_label:
        assert not rows.label.any()


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("size", ["long", "short"])
@pytest.mark.parametrize("kind", FORMATS)
def test_packed_rows_are_filled_to_98_percent(kind: str, size: str, length: int) -> None:
    # Sentences of 20 tokens on average; articles of 1 to 10 of them, or four long documents.
    sentences = length * 200 // 20
    if size == "long":
        rng = random.Random(0)
        store = make_store([[rng.randint(1, 39) for _ in range(sentences // 4)] for _ in range(4)])
    else:
        store = documents(sentences * 2 // 11, 10, 39)
    rows = make_rows(store, kind, length, packed=True)
    assert rows.num_rows > 100
    assert sizes(rows).mean() >= 0.98 * length


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_walk_goes_through_all_documents_and_makes_new_rows(
    kind: str, packed: bool, store: TokenStore
) -> None:
    once, often = (make_rows(store, kind, LENGTH, packed, times) for times in (1, 5))
    assert often.num_rows == pytest.approx(5 * once.num_rows, rel=0.03)
    # A document's own segments: all, or the first of each pair.
    own = often.start[often.begins | FORMATS[kind].joins]
    borders = store.sentence_starts[store.part_starts]
    times = np.bincount(np.searchsorted(borders, own, "right") - 1, minlength=len(borders) - 1)
    if kind in ("sop", "segment_pair"):  # they cannot cut a document of one token in two
        alone = np.diff(borders) == 1
        assert not times[alone].any()
        times = times[~alone]
    assert times.min() >= 5
    places = list(zip(often.start.tolist(), often.end.tolist(), strict=True))
    if kind not in SENTENCES:
        assert len(set(places)) > 2 * once.num_rows


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_rows_come_in_random_order_which_hangs_on_the_generator_alone(
    kind: str, packed: bool, store: TokenStore
) -> None:
    rows, again, other = (make_rows(store, kind, LENGTH, packed, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(rows, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert rows.start.tolist() != other.start.tolist()
    first = rows.start[np.diff(rows.row, prepend=-1) > 0]
    # The rank correlation of independent orders has the deviation 1 / sqrt(n).
    ranks = np.argsort(np.argsort(first))
    for lag in (1, 512):
        correlation = np.corrcoef(ranks[lag:], ranks[:-lag])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(len(ranks) - lag)


def test_packed_rows_of_pairs_hold_several_sequences() -> None:
    articles = documents(400, 3, 20)
    loose, packed = (make_rows(articles, "nsp", 128, way) for way in (False, True))
    assert packed.num_rows < 0.6 * loose.num_rows
    assert np.bincount(packed.row, packed.begins).max() >= 3


# --- Sentences in a row ---------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", SENTENCES)
def test_sentences_lose_no_token_and_keep_their_order(
    kind: str, packed: bool, store: TokenStore
) -> None:
    rows = make_rows(store, kind, LENGTH, packed)
    order = np.argsort(rows.start)
    starts, ends = rows.start[order], rows.end[order]
    assert starts[0] == 0
    assert starts[1:].tolist() == ends[:-1].tolist()
    assert ends[-1] == len(store.tokens)
    # A segment is of one document.
    borders = store.sentence_starts[store.part_starts]
    assert (np.searchsorted(borders, starts, "right") == np.searchsorted(borders, ends)).all()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", SENTENCES)
def test_a_row_goes_on_in_another_document_only_where_one_ends(
    kind: str, packed: bool, store: TokenStore
) -> None:
    # So one [SEP], which stands behind every segment, separates two documents, and only these.
    rows = make_rows(store, kind, LENGTH, packed)
    borders = store.sentence_starts[store.part_starts]
    same_row = np.flatnonzero(rows.row[1:] == rows.row[:-1])
    assert len(same_row) > 0 or (kind, packed) == ("doc_sentences", False)
    assert np.isin(rows.end[same_row], borders).all()
    assert np.isin(rows.start[same_row + 1], borders).all()


@pytest.mark.parametrize("kind", SENTENCES)
def test_only_a_sentence_longer_than_the_row_is_cut(kind: str, store: TokenStore) -> None:
    rows = make_rows(store, kind, LENGTH, packed=False)
    cut = np.setdiff1d(rows.start, store.sentence_starts)
    sentence = np.searchsorted(store.sentence_starts, cut) - 1
    lengths = np.diff(store.sentence_starts)
    assert len(cut)
    assert lengths[sentence].min() == LENGTH - 1  # [CLS] and [SEP] take two
    # It begins in a row of its own, and is cut where that is full.
    number = np.flatnonzero(np.isin(rows.end, cut))
    assert rows.begins[number].all()
    assert (rows.end - rows.start)[number].tolist() == [LENGTH - 2] * len(number)


def test_packed_sentences_are_cut_where_the_row_is_full(store: TokenStore) -> None:
    rows = make_rows(store, "full_sentences", LENGTH, packed=True)
    cut = np.isin(rows.end, np.setdiff1d(rows.end, store.sentence_starts))
    assert (sizes(rows)[rows.row[cut]] == LENGTH).all()
    assert cut.any()


def test_a_row_takes_as_many_sentences_as_fit() -> None:
    store = make_store([[5, 6, 7, 3, 9, 2], [4, 4]])

    def found(kind: str, seed: int) -> set[tuple[tuple[int, int], ...]]:
        rows = make_rows(store, kind, 20, packed=False, seed=seed)
        places = np.column_stack([rows.start, rows.end])
        return {
            tuple(tuple(place) for place in places[rows.row == row].tolist())
            for row in range(rows.num_rows)
        }

    assert found("doc_sentences", 0) == {((0, 18),), ((18, 32),), ((32, 40),)}
    # The documents are walked through in either order.
    either = [{((0, 18),), ((18, 32),), ((32, 40),)}, {((32, 40), (0, 5)), ((5, 21),), ((21, 32),)}]
    seen = [found("full_sentences", seed) for seed in range(20)]
    assert all(rows in either for rows in seen)
    assert all(rows in seen for rows in either)
