"""Orbax as runs use it: silent, without questions of its own, one line for a full disk."""

from __future__ import annotations

import importlib
import inspect
import logging as python_logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from absl import logging

from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.runs.run_folder import CHECKPOINTS
from bertjax.runs.stored import CHECKSUMS, OPTIMIZER, PARAMS

# orbax warns about every option, also of those set on purpose, and what it raises its threads tell
# before, each with its stack.
logging.set_verbosity(logging.FATAL)
# Of the writes of a tensor that fail, orbax waits for the first and ends its loop. Of the others,
# asyncio, TensorStore and Python, which throws their coroutines away, would tell each on its own.
python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
_tell_unraisable = sys.unraisablehook


def _tell_but_late_writes(found: Any) -> None:
    if str(found.exc_value) != "Event loop is closed" and not inspect.iscoroutine(found.object):
        _tell_unraisable(found)


sys.unraisablehook = _tell_but_late_writes


class _Manager(ocp.CheckpointManager):
    """Orbax's, but for two of its questions."""

    def reached_preemption(self, step: int) -> bool:
        """No: `Pulse` asks whether the machines are taken away.

        Both would count their questions, and JAX compares the counts of all processes.
        """
        return False

    def metrics(self, step: int) -> dict[str, float] | None:
        """A score that is damaged is none; orbax asks for those of all checkpoints at opening."""
        try:
            found = super().metrics(step)
        except ValueError:  # No JSON, or no text.
            return None
        whole = isinstance(found, dict) and isinstance(found.get("score"), float)
        return found if whole else None


def open_manager(run: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    handlers: dict[str, Any] = {
        PARAMS: ocp.StandardCheckpointHandler(),
        OPTIMIZER: ocp.StandardCheckpointHandler(),
        CHECKSUMS: ocp.JsonCheckpointHandler(),
    }
    folder = run / CHECKPOINTS
    if storage.is_remote(run):
        check_client(run)
    else:
        folder = folder.absolute()
    return _Manager(folder, options=options, item_handlers=handlers)


def check_client(run: Path) -> None:
    """Raises UserError: there is not what orbax asks buckets of their kind with."""
    try:
        importlib.import_module("google.cloud.storage")
    except ModuleNotFoundError:
        raise UserError(
            f"{run}: checkpoints in a bucket need google-cloud-storage: pip install 'bertjax[gcs]'"
        ) from None


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """What the disk refuses is the user's to mend; it may be told only by a later call."""
    try:
        yield
    except ValueError as error:
        if "os_error_code" not in str(error):
            raise
        raise UserError(
            f"{run}/{CHECKPOINTS}: a checkpoint could not be written "
            f"({str(error).rpartition(': ')[2]}); free some space and run the same command again"
        ) from error
