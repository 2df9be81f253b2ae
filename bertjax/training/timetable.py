"""When a training logs, evaluates and saves."""

from __future__ import annotations

import dataclasses
import math

from ml_collections import ConfigDict

from bertjax.errors import UserError
from bertjax.training.pulse import STUCK_AFTER


@dataclasses.dataclass(frozen=True)
class Timetable:
    """How many steps there are, and after how many something happens; all end with one.

    Attributes:
      max_skipped: updates in a row that may be left out because they are not finite.
      stuck_after: seconds after which a step that does not end shows where it is.

    Raises:
      UserError: a number below 1, or one that is not finite.
    """

    total_steps: int
    log_every: int
    eval_every: int
    save_every: int
    max_skipped: int = 10
    stuck_after: float = STUCK_AFTER

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 1 <= value < math.inf:
                raise UserError(f"{name} is {value}; it must be at least 1, and finite")

    def due(self, step: int, every: int) -> bool:
        return step == self.total_steps or step % every == 0


def read(config: ConfigDict) -> Timetable:
    """That of a pretraining's config, whose train.steps have been counted."""
    return Timetable(
        config.train.steps,
        config.log_every,
        config.eval_every,
        config.save_every,
        config.get("max_skipped", 1),
        config.stuck_after,
    )
