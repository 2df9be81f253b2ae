"""Updates that are not finite: told, their batches kept; too many in a row end the run."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bertjax.errors import UserError
from bertjax.files.whole_file import write_whole

FOLDER = "skipped"
# So many batches are kept at most; the first ones tell the most.
_KEPT = 20


class Diverged(UserError):
    """A training that has no finite loss or scores any more; with other settings it may have."""


class SkippedUpdates:
    """Looks at what every step says of itself.

    Args:
      folder: of the run; batches are kept below it, each process's own rows.
      most: how many updates in a row may be left out.
      before: how many were left out in the steps before the first one seen.
      say: shows a line.
    """

    def __init__(self, folder: Path, most: int, before: int, say: Callable[[str], None]) -> None:
        self._folder, self._most, self._say = folder / FOLDER, most, say
        self._total, self._in_a_row = before, 0

    def look(self, step: int, metrics: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> None:
        """Waits for the step's end.

        A step that counts no updates left out has made this one, whatever it was.

        Raises:
          Diverged: this was one too many in a row, or one that was made.
        """
        if "skipped_updates" not in metrics:
            self._check_made(step, metrics, batch)
            return
        total = int(metrics["skipped_updates"])
        self._in_a_row = self._in_a_row + 1 if total > self._total else 0
        self._total = total
        if not self._in_a_row:
            return
        where = self._keep(step, batch) if total <= _KEPT else self._folder
        self._say(
            f"warning: step {step:,}: the loss or the gradient is not finite; this update is left "
            f"out ({self._in_a_row} in a row, {total:,} in all), its batch: {where}"
        )
        if self._in_a_row >= self._most:
            raise Diverged(
                f"{self._most} updates in a row were left out, the last at step {step:,}: the loss "
                f"or the gradient is not finite. Their batches lie in {self._folder}; go on from "
                "the last checkpoint in another --workdir, with this one as init and a lower "
                "learning rate, a longer warm-up or dtype float32"
            )

    def _check_made(
        self, step: int, metrics: Mapping[str, Any], batch: Mapping[str, np.ndarray]
    ) -> None:
        if not math.isfinite(metrics["loss"]):
            raise Diverged(
                f"step {step:,}: the loss is not finite, and what the step has changed cannot be "
                f"taken back; its batch: {self._keep(step, batch)}. Go on from the last checkpoint "
                "in another --workdir, with this one as init and a lower train.learning_rate"
            )

    def _keep(self, step: int, batch: Mapping[str, np.ndarray]) -> Path:
        many = f"-process-{jax.process_index()}" if jax.process_count() > 1 else ""
        path = self._folder / f"step-{step}{many}.npz"
        content, arrays = io.BytesIO(), dict[str, Any](batch)
        np.savez(content, **arrays)
        write_whole(path, content.getvalue())
        return path
