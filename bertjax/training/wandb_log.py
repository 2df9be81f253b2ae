"""A run on Weights & Biases, too, where a user asks for it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files import storage

# In wandb's words; a refusal by its server is a CommError, too.
_AWAY = re.compile(r"time[sd]? ?out|connect|network|\b5\d\d\b", re.IGNORECASE)


def opener(project: str, run: Path, config: dict[str, Any]) -> Callable[[float], Any]:
    """Opens, given when a run was first started, the run of wandb with that time in its id.

    So a run that goes on is the same one there.

    Raises:
      UserError: wandb is not installed; told now, before the run has begun. What is returned
        raises it where wandb does not take the run, as without a login or of a team that does not
        exist, and returns None, with a warning, where its server cannot be reached.
    """
    try:
        wandb: Any = importlib.import_module("wandb")
    except ModuleNotFoundError:
        raise UserError("--wandb needs Weights & Biases: pip install 'bertjax[wandb]'") from None

    def open_run(started: float) -> Any:
        identity = f"{run.name}-{started:.0f}"
        given = {"project": project, "name": run.name, "config": config}
        if not storage.is_remote(run):
            given["dir"] = str(run)
        try:
            return wandb.init(id=identity, resume="allow", **given)
        except wandb.Error as error:
            line = str(error).strip().partition("\n")[0].rstrip(".")
            if isinstance(error, wandb.errors.CommError) and _AWAY.search(line):
                # A long run does not end because a server is away.
                print(f"warning: --wandb={project}: {line}; the run goes on without")
                return None
            raise UserError(
                f"--wandb={project}: {line}; log in with `wandb login`, or set WANDB_MODE=offline"
            ) from None

    return open_run
