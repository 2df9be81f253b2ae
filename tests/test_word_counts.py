"""Words are counted the same however the text is cut, in memory that does not grow with it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bertjax.errors import UserError
from bertjax.text import corpus, word_counts
from bertjax.text.corpus import Part


def test_words_are_what_white_space_sets_apart() -> None:
    counts = word_counts.of_lines(["one two, One", "\tone\u3000two,  ", ""])
    assert counts == {"one": 2, "two,": 2, "One": 1}


def test_parts_count_as_their_lines() -> None:
    assert word_counts.of_parts([Part(b"one\ntwo"), Part(b"two")]) == {"one": 1, "two": 2}


def test_text_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\nGr\xf6\xdfe")
    with pytest.raises(UserError, match=r"a\.txt:2: not UTF-8"):
        word_counts.of_parts(list(corpus.parts([path])))


@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_words_count_the_same_whichever_way_the_text_is_cut(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    words = [f"wört{number}" for number in range(30)]
    lines = [" ".join(rng.choices(words, k=rng.randint(1, 20))) for _ in range(200)]
    path = tmp_path / "a.txt"
    path.write_text("".join(line + rng.choice(["\n", "\n\n"]) for line in lines))
    wanted = Counter(word for line in lines for word in line.split())
    for part_bytes in (10, 100, 1 << 16):
        monkeypatch.setattr(corpus, "PART_BYTES", part_bytes)
        jobs = corpus.jobs(corpus.parts([path]), size)
        assert word_counts.merged(map(word_counts.of_parts, jobs)) == (wanted, 0)


def test_memory_is_bounded_and_pruning_keeps_the_frequent() -> None:
    sizes = []

    class Watched(Counter[str]):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            sizes.append(len(self))

    some = [Counter({"common": 2, "frequent": 1, f"word{number}": 1}) for number in range(5000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_counts, "Counter", Watched)
        counts, dropped = word_counts.merged(some, limit=100)
    assert counts["common"] == 10_000 and counts["frequent"] == 5000
    assert len(counts) <= 100 and set(sizes) == {0, 50}
    assert len(counts) + dropped == 5002
    assert word_counts.merged(some, limit=100) == (counts, dropped)


def test_nothing_goes_up_to_the_limit() -> None:
    counts = Counter({f"w{number}": 1 for number in range(100)})
    assert word_counts.merged([counts], limit=100) == (counts, 0)
    assert word_counts.merged([counts, Counter(["new"])], limit=100)[1] == 51


def test_of_equally_rare_words_the_first_of_the_alphabet_stay() -> None:
    """So the order of the words in the text changes nothing."""
    words = [f"w{number}" for number in range(10)]
    for order in (words, words[::-1]):
        counts = Counter({**dict.fromkeys(order, 1), "w7": 5})
        kept, dropped = word_counts.merged([counts], limit=6)
        assert (kept, dropped) == (Counter({"w7": 5, "w0": 1, "w1": 1}), 7)


def test_words_are_sorted_by_frequency_then_by_the_alphabet() -> None:
    counts = Counter({"b": 2, "c": 3, "a": 2})
    assert word_counts.by_frequency(counts) == [("c", 3), ("a", 2), ("b", 2)]
