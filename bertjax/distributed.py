"""Several processes as one: how they find each other, agree, wait for each other and end together.

On Cloud TPUs, under SLURM and Open MPI 4 they find each other by themselves; plain hosts, and Open
MPI 5, are told by three variables. A single process needs nothing of this, and pays nothing for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bertjax import errors
from bertjax.errors import UserError

COORDINATOR, NUM_PROCESSES, PROCESS_ID = VARIABLES = (
    "BERTJAX_COORDINATOR",
    "BERTJAX_NUM_PROCESSES",
    "BERTJAX_PROCESS_ID",
)
# Seconds in which all must have come, and after which one that is silent counts as dead.
_JOIN_SECONDS, _SILENT_SECONDS = 300, 40
# Without the first process the others abort, so it goes last: so much later where all have come to
# the end, and where one has failed and they find that out by themselves.
_LAST_SECONDS, _LAST_SECONDS_OF_FAILED = 1, 5
# What JAX raises where no platform can be used; the second where JAX_PLATFORMS names it.
_NO_DEVICES = (RuntimeError, AssertionError)
_LOST = (
    "error: a process of this run has ended or cannot be reached, and the others cannot go on; "
    "start all again with the same command, which goes on from the last checkpoint"
)


def run(main: Callable[[], None]) -> int:
    """As errors.run, for an entry point that may be one of several processes.

    When one of them fails, the others cannot go on: each ends with one line and exit status 1.
    """

    def joined() -> None:
        join()
        main()

    try:
        status = errors.run(joined)
    except SystemExit as asked:  # After SIGTERM, when all is saved.
        if not several():
            raise
        status = int(asked.code or 0)
    except Exception as error:
        if not several():
            raise
        status = 1
        if lost_another(error):
            print(_LOST, file=sys.stderr)
        else:
            traceback.print_exc()
    if several():
        _leave(status)
    return status


def _leave(status: int) -> None:
    """Ends at once: Python's own end takes seconds, and after an error it would wait for those who
    cannot come any more. JAX's takes half of _SILENT_SECONDS, in which its heart beats once."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if not status:
            wait("end")
    except Exception:  # Another one has failed at its very end.
        print(_LOST, file=sys.stderr, flush=True)
        status = 1
    if is_first():
        time.sleep(_LAST_SECONDS_OF_FAILED if status else _LAST_SECONDS)
    os._exit(status)


def several() -> bool:
    """Whether this is one of several processes; not where JAX finds no devices."""
    if not jax.distributed.is_initialized():
        return False
    try:
        return jax.process_count() > 1
    except _NO_DEVICES:  # As errors.run has said.
        return False


def lost_another(error: object) -> bool:
    """Whether an error tells that another process cannot be reached any more."""
    return (
        several()
        and isinstance(error, Exception)
        and any(sign in str(error) for sign in ("Gloo", "NCCL", "CoordinationService", "heartbeat"))
    )


def join() -> None:
    """Finds the other processes, if there are any; before anything else is asked of JAX.

    If they do not come the process ends with one line and exit status 1: they may only be late, and
    whoever has started it tries again.

    Raises:
      UserError: variables that make no sense.
    """
    given = _given()
    _explain_abort()  # JAX aborts, too, where the others do not come.
    try:
        jax.distributed.initialize(
            **given,
            **_local_devices(),
            initialization_timeout=_JOIN_SECONDS,
            heartbeat_timeout_seconds=_SILENT_SECONDS,
            shutdown_timeout_seconds=_SILENT_SECONDS,
        )
    except ValueError:
        if given:
            raise
        _explain_abort(False)
        _check_alone()
        return  # No cluster that JAX knows.
    if jax.process_count() == 1:
        _explain_abort(False)
    if not is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_alone() -> None:
    """Raises UserError: Open MPI has started several, in a way that JAX does not know."""
    number = os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
    if number != "1":
        raise UserError(
            f"Open MPI has started {number} processes, and JAX cannot tell where the first one is; "
            f"set BERTJAX_COORDINATOR=HOST:PORT of that, BERTJAX_NUM_PROCESSES={number} and, in "
            "each, BERTJAX_PROCESS_ID=$OMPI_COMM_WORLD_RANK"
        )


# JAX aborts from a thread of its own when another process is silent, with many lines. Ours is the
# last one; Python's own handlers would wait for the main thread, which waits for the other process.
@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(number: int) -> None:
    os.write(2, f"{_LOST}\n".encode())
    os._exit(1)


def _explain_abort(wanted: bool = True) -> None:
    ctypes.CDLL(None).signal(signal.SIGABRT, _aborted if wanted else None)


def _given() -> dict[str, Any]:
    """What the three variables say, as initialize takes it; empty without them."""
    found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if not found:
        return {}
    missing = [name for name in VARIABLES if name not in found]
    if missing:
        raise UserError(f"{missing[0]} is not set, but {next(iter(found))} is; set all three")
    number, count = found[PROCESS_ID], found[NUM_PROCESSES]
    if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
        raise UserError(
            f"{PROCESS_ID}={number} {NUM_PROCESSES}={count}: processes are numbered from 0 on"
        )
    if not found[COORDINATOR].rpartition(":")[2].isdecimal():
        raise UserError(f"{COORDINATOR}={found[COORDINATOR]}: give the first host as NAME:PORT")
    return {
        "coordinator_address": found[COORDINATOR],
        "num_processes": int(count),
        "process_id": int(number),
    }


def _local_devices() -> dict[str, Any]:
    """All GPUs for a process that is the only one of its host, as initialize takes it.

    Where SLURM or Open MPI starts the processes, JAX would give each the one GPU of its number.
    Within a job of SLURM it is Open MPI that counts, for it has started them.
    """
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return {}
    tasks, hosts = os.environ.get("SLURM_NTASKS"), os.environ.get("SLURM_STEP_NUM_NODES")
    beside = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    alone = beside == "1" if beside else bool(tasks) and tasks == hosts
    return {"local_device_ids": []} if alone else {}


def is_first() -> bool:
    """Whether this process writes, for all of them, what is written once."""
    return jax.process_index() == 0


def everywhere(fact: bool) -> bool:
    """Whether something is true for every process; all of them must ask."""
    if jax.process_count() == 1:
        return fact
    return bool(multihost_utils.process_allgather(np.array(fact)).all())


def wait(name: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def on_host(tree: Any) -> Any:
    """The whole arrays of a tree as NumPy arrays, in every process; all of them must ask."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
