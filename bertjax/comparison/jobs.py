"""Jobs side by side, each on its own share of the cores: small models leave the others idle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from queue import SimpleQueue

from bertjax import own_command
from bertjax.errors import UserError

# A job of a comparison holds that much, with XLA's programs and the data.
_GIB_OF_A_JOB = 3
_MOST = 8


def suitable() -> int:
    """One for each core as far as memory lasts; an accelerator is one job's alone.

    Raises:
      UserError: JAX has no device.
    """
    # JAX is asked in another process, for the one that asks holds a TPU until it ends.
    asked = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    answer = subprocess.run(asked, capture_output=True, text=True)
    if answer.returncode:
        raise UserError("JAX finds no devices; look at the driver and JAX_PLATFORMS")
    platform = answer.stdout.split()[-1]
    if platform != "cpu":
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(_MOST, len(_cores()), int(memory / _GIB_OF_A_JOB)))


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run(jobs: Mapping[str, Callable[[], object]], at_once: int) -> None:
    """Runs named jobs, as many at once; the processes that one starts have its cores.

    Raises:
      Exception: what the first job raised that failed; no further one is started, and those that
        run are stopped.
    """
    shares: SimpleQueue[list[int]] = SimpleQueue()
    for number in range(at_once):
        shares.put(_cores()[number::at_once] or _cores())

    def take_share() -> None:
        # On Linux a thread has its own, and its children inherit it.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, shares.get())

    failed = threading.Event()

    def told(number: int, name: str, job: Callable[[], object]) -> None:
        if failed.is_set():
            return
        began = time.monotonic()
        try:
            job()
        except BaseException:
            failed.set()
            raise
        print(f"{number} of {len(jobs)}: {name}, {time.monotonic() - began:.0f} s", flush=True)

    if at_once == 1:
        for number, (name, job) in enumerate(jobs.items(), start=1):
            told(number, name, job)
        return
    with ThreadPoolExecutor(at_once, initializer=take_share) as pool:
        started = [pool.submit(told, n, *job) for n, job in enumerate(jobs.items(), start=1)]
        try:
            done, others = wait(started, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            assert not others
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            own_command.stop()
            raise
