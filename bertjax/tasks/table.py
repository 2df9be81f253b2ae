"""All tasks by name."""

from __future__ import annotations

from bertjax.tasks.base import Task
from bertjax.tasks.conll import CONLL
from bertjax.tasks.glue import GLUE
from bertjax.tasks.own import OWN
from bertjax.tasks.squad import SQUAD
from bertjax.tasks.swag import SWAG

TASKS: dict[str, Task] = {**GLUE, **CONLL, **SQUAD, **SWAG, **OWN}
