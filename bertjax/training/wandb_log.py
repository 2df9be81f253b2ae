"""A run on Weights & Biases, too, where a user asks for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files import storage


def opener(project: str, run: Path, config: dict[str, Any]) -> Callable[[float], Any]:
    """Opens, given when a run was first started, the run of wandb with that time in its id.

    So a run that goes on is the same one there.

    Raises:
      UserError: wandb is not installed; told now, before the run has begun.
    """
    try:
        wandb: Any = importlib.import_module("wandb")
    except ModuleNotFoundError:
        raise UserError("--wandb needs Weights & Biases: pip install wandb") from None

    def open_run(started: float) -> Any:
        identity = f"{run.name}-{started:.0f}"
        given = {"project": project, "name": run.name, "config": config}
        if not storage.is_remote(run):
            given["dir"] = str(run)
        return wandb.init(id=identity, resume="allow", **given)

    return open_run
