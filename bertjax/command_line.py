"""What the command lines of all entry points share."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Collection, Sequence


def new_parser(name: str, doc: str | None, usage: str | None = None) -> argparse.ArgumentParser:
    """A parser for `python -m bertjax.NAME` that shows the module's docstring as it is written.

    `usage` stands for a list of all options, where there are many.
    """
    program = f"python -m bertjax.{name}"
    return argparse.ArgumentParser(
        prog=program,
        usage=f"{program} {usage}" if usage else None,
        description=doc,
        # Wide enough for one line an option, so that all of them fit one screen.
        formatter_class=functools.partial(
            argparse.RawDescriptionHelpFormatter, max_help_position=28, width=100
        ),
    )


def named(given: Sequence[str], idle: Collection[str]) -> str:
    """The flags that were given and are idle, for a message; "" if none is."""
    return ", ".join(f"--{name}" for name in given if name in idle)
