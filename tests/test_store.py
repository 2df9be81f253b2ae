"""The corpus on disk: the same parts however it was cut into runs, each in one shard alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertjax.data import store
from bertjax.data.store import KEY_BINS, Runs, TokenParts


def make_parts(number: int = 60, seed: int = 0, kind: type = np.uint16) -> TokenParts:
    """Parts of documents in the order of the input; some documents have several."""
    rng = np.random.default_rng(seed)
    first = rng.random(number) < 0.6
    first[0] = True
    owner = np.cumsum(first) - 1
    place = np.arange(number) - np.flatnonzero(first)[owner]
    sentences = rng.integers(1, 6, number)
    lengths = rng.integers(1, 9, sentences.sum()).astype(np.uint32)
    tokens = np.add.reduceat(lengths.astype(np.int64), np.cumsum(sentences) - sentences)
    return TokenParts(
        rng.integers(0, 1 << 64, number, np.uint64),
        rng.integers(0, 1 << 64, number, np.uint64)[owner],
        place.astype(np.uint32),
        sentences,
        tokens,
        lengths,
        rng.integers(0, np.iinfo(kind).max, tokens.sum(), kind, endpoint=True),
    )


@pytest.fixture(scope="module")
def parts() -> TokenParts:
    return make_parts()


def write(folder: Path, parts: TokenParts, size: int) -> Runs:
    """Runs of `size` parts each."""
    runs = Runs(folder)
    for first in range(0, len(parts.key), size):
        some = np.arange(first, min(first + size, len(parts.key)))
        runs.write(parts.take(some), {"upto": int(some[-1])})
    return runs


def rows(parts: TokenParts) -> list[tuple]:
    """Every part with its own sentences and tokens."""
    sentences = np.split(parts.sentence_lengths, np.cumsum(parts.num_sentences)[:-1])
    tokens = np.split(parts.tokens, np.cumsum(parts.num_tokens)[:-1])
    return [
        (key, document, number, lengths.tolist(), ids.tolist())
        for key, document, number, lengths, ids in zip(
            *(column.tolist() for column in parts[:3]), sentences, tokens, strict=False
        )
    ]


def same(one: TokenParts, two: TokenParts) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, two, strict=True))


# --- Tables ---------------------------------------------------------------------------------


def test_parts_are_taken_with_their_sentences_and_tokens(parts: TokenParts) -> None:
    order = np.array([5, 0, 59, 5])
    everything = rows(parts)
    assert rows(parts.take(order)) == [everything[place] for place in order]
    assert len(parts.take(order[:0]).tokens) == 0


def test_joined_parts_follow_each_other(parts: TokenParts) -> None:
    halves = [parts.take(np.arange(0, 25)), parts.take(np.arange(25, 60))]
    assert same(store.join(halves), parts)


@pytest.mark.parametrize(("vocab_size", "kind"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_a_token_takes_the_smallest_type_that_holds_every_id(vocab_size: int, kind: type) -> None:
    assert store.token_type(vocab_size) is kind
    assert np.iinfo(kind).max >= vocab_size - 1


# --- Runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
@pytest.mark.parametrize("bins", [(0, KEY_BINS), (0, KEY_BINS // 3), (KEY_BINS // 3, KEY_BINS)])
def test_runs_of_any_size_hold_the_same_parts(
    kind: type, bins: tuple[int, int], tmp_path: Path
) -> None:
    parts = make_parts(kind=kind)
    inside = [bins[0] <= key >> 44 < bins[1] for key in parts.key.tolist()]
    wanted = parts.take(np.flatnonzero(inside))
    for size in (1, 7, 60):
        runs = write(tmp_path / str(size), parts, size)
        assert runs.num_parts() == 60
        found = runs.read(*bins)
        assert sorted(rows(found)) == sorted(rows(wanted))
        assert [column.dtype for column in found] == [column.dtype for column in parts]
        # What is made of them is the same to the bit.
        for one, two in zip(store.token_store(found), store.token_store(wanted), strict=True):
            np.testing.assert_array_equal(one, two)
    # One run is in the order of the keys.
    assert (np.diff(found.key) > 0).all()


def test_ranges_of_keys_cover_everything_exactly_once(parts: TokenParts, tmp_path: Path) -> None:
    runs = write(tmp_path, parts, 13)
    cuts = [0, 1, 100, KEY_BINS // 2, KEY_BINS // 2, KEY_BINS - 1, KEY_BINS]
    # A range may begin at the very bin of a part.
    cuts += (parts.key >> np.uint64(44)).astype(int).tolist()[:10]
    cuts = sorted(cuts)
    found = [runs.read(*bins) for bins in zip(cuts, cuts[1:], strict=False)]
    assert sorted(rows(store.join(found))) == sorted(rows(parts))


def test_the_lowest_and_the_highest_key_are_in_the_first_and_the_last_range(
    parts: TokenParts, tmp_path: Path
) -> None:
    ends = parts.take(np.arange(3))
    ends = ends._replace(key=np.array([0, (1 << 64) - 1, 1 << 63], np.uint64))
    runs = write(tmp_path, ends, 3)
    assert runs.read(0, 1).key.tolist() == [0]
    assert runs.read(KEY_BINS - 1, KEY_BINS).key.tolist() == [(1 << 64) - 1]
    assert runs.read(KEY_BINS // 2, KEY_BINS // 2 + 1).key.tolist() == [1 << 63]


def test_a_run_may_hold_nothing(parts: TokenParts, tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.facts() == {}
    assert runs.num_parts() == 0
    runs.write(parts.take(np.arange(0)), {"parts": 3})
    runs.write(parts, {"parts": 63})
    runs.write(parts.take(np.arange(0)), {"parts": 70})
    assert runs.num_parts() == 60
    assert runs.facts() == {"parts": 70}
    assert sorted(rows(runs.read(0, KEY_BINS))) == sorted(rows(parts))
    assert runs.tokens_by_key().sum() == len(parts.tokens)


def test_a_run_that_was_not_finished_is_none(parts: TokenParts, tmp_path: Path) -> None:
    runs = write(tmp_path, parts, 30)
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "key.npy").write_bytes(b"half")
    assert [path.name for path in runs.paths()] == ["run-00000", "run-00001"]
    assert runs.facts() == {"upto": 59}
    runs.write(parts.take(np.arange(2)), {"upto": 61})
    assert [path.name for path in runs.paths()] == ["run-00000", "run-00001", "run-00002"]
    assert runs.num_parts() == 62


# --- Shards ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 7, 50])
def test_shards_get_about_equal_numbers_of_tokens(shards: int, tmp_path: Path) -> None:
    parts = make_parts(1500)
    by_key = write(tmp_path, parts, 400).tokens_by_key()
    assert by_key.shape == (KEY_BINS,)
    assert by_key.sum() == len(parts.tokens)
    bounds = store.shard_bounds(by_key, shards)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, KEY_BINS, shards + 1)
    assert (np.diff(bounds) > 0).all()
    tokens = np.add.reduceat(by_key, bounds[:-1])
    assert abs(tokens - len(parts.tokens) / shards).max() <= 2 * parts.num_tokens.max()


def test_tokens_are_counted_by_their_keys(parts: TokenParts, tmp_path: Path) -> None:
    by_key = write(tmp_path, parts, 17).tokens_by_key()
    wanted = np.zeros(KEY_BINS, np.int64)
    for key, number in zip(parts.key.tolist(), parts.num_tokens.tolist(), strict=True):
        wanted[key >> 44] += number
    assert (by_key == wanted).all()


# --- What a shard is made of ----------------------------------------------------------------


def test_of_equal_texts_one_is_kept(parts: TokenParts) -> None:
    # The key hangs on the text, so equal texts have equal keys; these are of other documents.
    again = parts.take(np.array([3, 40, 3]))
    again = again._replace(document=np.array([1, 2, 1 << 63], np.uint64))
    everything = store.join([parts, again])
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(everything.key))
        found = store.without_duplicates(everything.take(order))
        assert sorted(found.key.tolist()) == sorted(parts.key.tolist())
        kept = {row[0]: row for row in rows(found)}
        for place in (3, 40):
            same_text = [row for row in rows(everything) if row[0] == parts.key[place]]
            # Of the document with the lowest number, so that the order of the input says nothing.
            assert kept[int(parts.key[place])] == min(same_text)
    assert same(store.without_duplicates(parts), parts)


def test_what_is_kept_stays_in_its_order(parts: TokenParts) -> None:
    twice = store.join([parts, parts])
    assert same(store.without_duplicates(twice), parts)


def test_documents_stand_side_by_side_with_their_parts_in_order(parts: TokenParts) -> None:
    found = store.token_store(parts.take(np.random.default_rng(1).permutation(60)))
    assert found.num_parts == 60
    assert found.num_documents == len(set(parts.document.tolist()))
    assert (np.diff(found.documents) >= 0).all()
    assert set(found.documents.tolist()) == set(range(found.num_documents))
    wanted = sorted((row[1], row[2], row[3], row[4]) for row in rows(parts))
    numbers = sorted(set(parts.document.tolist()))
    for place, (document, _, lengths, tokens) in enumerate(wanted):
        assert numbers[found.documents[place]] == document
        first, last = found.part_starts[place : place + 2]
        starts = found.sentence_starts[first : last + 1]
        assert np.diff(starts).tolist() == lengths
        assert found.tokens[starts[0] : starts[-1]].tolist() == tokens
    assert found.part_starts[-1] == len(found.sentence_starts) - 1
    assert found.sentence_starts[-1] == len(found.tokens)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_parts_changes_nothing(parts: TokenParts, seed: int) -> None:
    mixed = parts.take(np.random.default_rng(seed).permutation(60))
    for one, two in zip(store.token_store(mixed), store.token_store(parts), strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype


def test_there_may_be_no_parts(parts: TokenParts) -> None:
    empty = store.token_store(parts.take(np.arange(0)))
    assert empty.num_parts == empty.num_documents == 0
