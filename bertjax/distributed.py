"""Several processes as one: how they find each other, agree and wait for each other.

On Cloud TPUs and under SLURM they find each other by themselves; plain hosts are told by three
flags or variables. A single process needs nothing of this, and pays nothing for it.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


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
