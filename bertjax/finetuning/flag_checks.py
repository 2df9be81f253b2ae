"""Refuses flags of bertjax.finetune that would change nothing where they are given."""

from __future__ import annotations

import argparse

from bertjax.errors import UserError
from bertjax.tasks.base import Task


def check_submission(flags: argparse.Namespace, task: Task) -> None:
    """Raises UserError: --submission where there is nothing that the site takes."""
    if not flags.submission:
        return
    if not task.submission:
        raise UserError(
            f"--submission: the GLUE site takes no answers of --task={task.name}; leave it out"
        )
    if flags.layers == "all":
        raise UserError(
            "--submission: takes one run's answers, and --layers=all makes several; choose one of "
            "them"
        )
