"""Progress bars of preparing data: live on a terminal, now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

# Seconds between two states in a log, which keeps them all.
_IN_A_LOG = 30.0


def progress_bar(through: Iterable[Any] | None = None, **shown: Any) -> tqdm[Any]:
    """tqdm's bar for an iterable, or one to update; `shown` is tqdm's."""
    if not sys.stderr.isatty():
        shown = {"mininterval": _IN_A_LOG, "maxinterval": _IN_A_LOG} | shown
    return tqdm(through, **shown)
