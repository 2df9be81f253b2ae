"""Collects the text to begin with: the documentation that every installation carries.

Writes train.txt, valid.txt (modules held out) and a labelled task to fine-tune on, in which the
library is to be told by a passage of its documentation (task/train.tsv, task/dev.tsv).

example:
  python -m bertjax.collect --output runs/quickstart/text
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bertjax import documentation, errors
from bertjax.documentation import Document
from bertjax.errors import UserError

FILES = ("train.txt", "valid.txt", "task/train.tsv", "task/dev.tsv")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bertjax.collect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder to write; reused if it is complete")
    add("--held_out", type=float, default=0.03, help="share of modules in valid.txt (%(default)s)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    return parser.parse_args(argv)


def is_held_out(document: Document, share: float) -> bool:
    """Hangs on the module's name only, so that other packages around it change nothing."""
    digest = hashlib.sha256(f"{document.library} {document.module}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def write_all(folder: Path, found: Sequence[Document], held_out: float) -> list[str]:
    """Writes FILES into a folder; returns lines that tell what is in them.

    Raises:
      UserError: the documentation is too little for a task or for held-out text.
    """
    (folder / "task").mkdir(parents=True)
    lines = []
    for name, kept_out in (("train.txt", False), ("valid.txt", True)):
        part = [document for document in found if is_held_out(document, held_out) is kept_out]
        modules, size = documentation.write_corpus(folder / name, part)
        lines.append(f"{name}: {modules:,} modules, {size / 1e6:.1f} MB")
    labels = documentation.write_task(folder / "task", found)
    lines.append(f"task: which of these libraries is it? {', '.join(labels)}")
    return lines


def main() -> None:
    flags = parse_arguments()
    if not 0 < flags.held_out < 1:
        raise UserError(f"--held_out={flags.held_out}: give a share between 0 and 1, like 0.03")
    output: Path = flags.output
    if all((output / name).is_file() for name in FILES):
        print(f"reusing {output}: {', '.join(FILES)}")
        return
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output}: not empty; choose another --output or delete the folder")
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with tqdm(desc="reading documentation", unit=" modules") as progress:

        def show(done: int, total: int) -> None:
            progress.total = total
            progress.update(done - progress.n)

        found = list(documentation.documents(workers=flags.workers, progress=show))
    told = write_all(partial, found, flags.held_out)
    os.replace(partial, output)
    print(f"wrote {output}", *told, sep="\n  ")


if __name__ == "__main__":
    sys.exit(errors.run(main))
