"""What the workers of tpu_step.py share: their flags, and how they hand over a program."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import Any

VOCABULARY = 30_522


def worker_flags(doc: str | None) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=doc)
    flags.add_argument("--size", required=True)
    flags.add_argument("--length", type=int, required=True)
    flags.add_argument("--rows", type=int, required=True)
    flags.add_argument("--topology", required=True)
    flags.add_argument("--text", type=Path, required=True, help="where the program goes")
    return flags


def write(path: Path, program: Any) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(program.as_text())
