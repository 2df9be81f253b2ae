"""Of lines that stand in a corpus more than once all but one are dropped, wherever they stand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from bertjax.text import corpus, duplicate_lines
from bertjax.text.corpus import Part
from bertjax.workers import Workers


def part(lines: Sequence[str]) -> Part:
    return Part("\n".join(lines).encode())


def left(parts: list[Part], folder: Path, size: int = 200) -> list[list[str]]:
    """The lines of every part that are not dropped."""
    with Workers(1) as workers:
        found = duplicate_lines.find(corpus.jobs(parts, size), folder, workers)
    return [
        [
            line
            for place, line in enumerate(corpus.lines(one))
            if place not in duplicate_lines.dropped(one, found)
        ]
        for one in parts
    ]


@pytest.fixture
def parts() -> list[Part]:
    rng = random.Random(3)
    return [part([f"line {rng.randint(0, 80)}" for _ in range(12)]) for _ in range(30)]


@pytest.mark.parametrize("run", [5, 17, 10_000])
def test_of_equal_lines_one_stays_and_no_other_line_goes(
    run: int, parts: list[Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicate_lines, "_RUN_LINES", run)
    every = {line for one in parts for line in corpus.lines(one)}
    kept = Counter(line for lines in left(parts, tmp_path / "found") for line in lines)
    assert set(kept) == every
    assert set(kept.values()) == {1}


def test_which_stays_hangs_neither_on_the_order_nor_on_the_jobs(
    parts: list[Part], tmp_path: Path
) -> None:
    first = left(parts, tmp_path / "a")
    other = left(parts[::-1], tmp_path / "b", size=30)
    assert other[::-1] == first


def test_a_part_that_stands_there_twice_keeps_its_lines(tmp_path: Path) -> None:
    # The whole part is dropped later, where documents are.
    same = part(["one", "two"])
    assert left([same, part(["three"]), same], tmp_path / "a") == [
        ["one", "two"],
        ["three"],
        ["one", "two"],
    ]


def test_a_line_within_one_part_stays_where_it_stands_first(tmp_path: Path) -> None:
    assert left([part(["again", "new", "again"])], tmp_path / "a") == [["again", "new"]]


def test_work_that_is_done_is_not_done_again_and_half_done_is(
    parts: list[Part], tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    first = left(parts, folder)
    assert left([], folder) == []  # nothing is read
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".npy"]
    (folder / "done").unlink()
    (folder / "run-00000.npy").write_bytes(b"of a killed run")
    duplicate_lines._open.cache_clear()
    assert left(parts, folder) == first
