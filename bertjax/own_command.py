"""Runs another command of this package, shown as a user would type it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from bertjax.errors import UserError


def call(module: str, arguments: Sequence[str]) -> None:
    """`python -m bertjax.MODULE ARGUMENTS`, in a process of its own.

    Raises:
      UserError: it failed; what it said stands above.
    """
    print(f"\n$ {shown(module, arguments)}", flush=True)
    command = [sys.executable, "-m", f"bertjax.{module}", *arguments]
    if subprocess.run(command, check=False).returncode:
        raise UserError(
            f"bertjax.{module} failed; mend what it says above, and run the same command again"
        )


def shown(module: str, arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", f"bertjax.{module}", *arguments])
