"""A run's metrics on Weights & Biases, too, where a user asks for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertjax.errors import UserError


class WandbLog:
    """One run of a project there; the same one again when the run goes on."""

    def __init__(self, opened: Any) -> None:
        self._run = opened

    def keep(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()


def opener(project: str, run: Path, config: dict[str, Any]) -> Callable[[float], WandbLog]:
    """From the time when a run was first started, which with its folder's name is its id there.

    Raises:
      UserError: wandb is not installed; told now, before the run has begun.
    """
    try:
        wandb: Any = importlib.import_module("wandb")
    except ModuleNotFoundError:
        raise UserError("--wandb needs Weights & Biases: pip install wandb") from None

    def open_run(started: float) -> WandbLog:
        identity = f"{run.name}-{started:.0f}"
        given = {"project": project, "name": run.name, "dir": str(run), "config": config}
        return WandbLog(wandb.init(id=identity, resume="allow", **given))

    return open_run
