"""What the command lines of all entry points share."""

from __future__ import annotations

import argparse


def new_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m bertjax.NAME` that shows the module's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m bertjax.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
