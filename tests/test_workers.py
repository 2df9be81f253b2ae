"""Jobs are done in order, few at a time, and what goes wrong in a worker is told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.text import corpus
from bertjax.text.corpus import Part
from bertjax.workers import Workers


def slow_first(number: int) -> tuple[int, int]:
    """The first jobs are done last."""
    time.sleep(0.2 if number == 0 else 0.0)
    return number, os.getpid()


def counted(number: int) -> Iterator[int]:
    for job in range(number):
        drawn.append(job)
        yield job


drawn: list[int] = []


@pytest.mark.parametrize("number", [1, 2])
def test_results_come_in_the_order_of_the_jobs(number: int) -> None:
    with Workers(number) as workers:
        found = list(workers.map(slow_first, range(20)))
    assert [job for job, _ in found] == list(range(20))
    processes = {process for _, process in found}
    assert (processes == {os.getpid()}) == (number == 1)
    assert os.getpid() not in processes or number == 1


@pytest.mark.parametrize("number", [1, 2])
def test_few_jobs_are_under_way_at_a_time(number: int) -> None:
    """So memory is bounded, however many there are."""
    drawn.clear()
    with Workers(number) as workers:
        for done, result in enumerate(workers.map(abs, counted(50))):
            assert result == done
            assert len(drawn) - done <= 2 * number + 1
    assert drawn == list(range(50))


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_in_a_worker_is_passed_on(number: int, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n\0")
    parts = [Part(b"one"), Part(b"two"), Part(b"\0", file=str(path), offset=5), Part(b"three")]
    found = []
    with Workers(number) as workers, pytest.raises(UserError, match=r"a\.txt:2: a NUL byte"):
        for lines in workers.map(corpus.lines, parts):
            found += lines
    assert found == ["one", "two"]


def test_jobs_that_cannot_be_read_are_an_error_too() -> None:
    def jobs() -> Iterator[int]:
        yield 1
        raise UserError("no more")

    for number in (1, 2):
        with Workers(number) as workers, pytest.raises(UserError, match="no more"):
            list(workers.map(abs, jobs()))


def test_a_worker_that_is_killed_is_told_with_the_mend() -> None:
    """By the system, for want of memory."""
    with Workers(2) as workers, pytest.raises(UserError, match=r"killed.*--workers"):
        list(workers.map(os._exit, [1]))


def test_the_same_workers_serve_several_times() -> None:
    with Workers(2) as workers:
        for _ in range(2):
            assert list(workers.map(abs, [-1, -2])) == [1, 2]
        assert list(workers.map(abs, [])) == []
