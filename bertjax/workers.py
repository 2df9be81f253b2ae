"""Maps a function over many jobs in worker processes, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import TypeVar

from bertjax.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
# Jobs that wait for each worker, so that none is ever idle.
_AHEAD = 2


class Workers:
    """A number of processes; with one, everything is done in this one."""

    def __init__(self, number: int) -> None:
        self.number = number
        # spawn: a forked child of a process with running threads may hang.
        self._pool = ProcessPoolExecutor(number, get_context("spawn")) if number > 1 else None

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """The results in the jobs' order; few jobs are under way at a time.

        Raises:
          UserError: a worker was killed. What a job raises is passed on.
        """
        if self._pool is None:
            yield from map(function, jobs)
            return
        pending: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                pending.append(self._pool.submit(function, job))
                if len(pending) > _AHEAD * self.number:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker was killed, probably for want of memory; run the same command again "
                "with fewer --workers or a smaller --memory"
            ) from None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
