"""Collects the text to begin with: the documentation that every installation carries.

Writes train.txt, valid.txt (modules held out) and a labelled task to fine-tune on, in which the
library is to be told by a passage of its documentation (task/train.tsv, task/dev.tsv). With
--input, train.txt and valid.txt hold your own text.

example:
  python -m bertjax.collect --output runs/quickstart/text
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bertjax import errors
from bertjax.command_line import new_parser
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.json_file import read_json, write_json
from bertjax.files.whole_file import whole_folder
from bertjax.progress_bar import progress_bar
from bertjax.starter import documentation, library_task
from bertjax.starter.documentation import Document
from bertjax.text import corpus

SOURCE = "source.json"
# Of your own text, what is held out at once; a file may well be one single document.
_PIECE_LINES = 100


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("collect", __doc__)
    add = parser.add_argument
    add("--output", type=storage.path, required=True, help="folder to write; reused if it is there")
    add(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help=".txt or .jsonl files (also .gz, .xz, .zst), folders or globs, tfds:NAME",
    )
    add("--text_field", default="text", help="in JSON lines and data sets (%(default)s)")
    add("--language", default="en", help="of --input, for sentence splitting (%(default)s)")
    add("--held_out", type=float, default=0.03, help="share of the text in valid.txt (%(default)s)")
    add("--no_task", action="store_true", help="only train.txt and valid.txt, of --input")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    return parser.parse_args(argv)


def is_held_out(document: Document, share: float) -> bool:
    """Hangs on the document's name only, so that others around it change nothing."""
    digest = hashlib.sha256(f"{document.library} {document.module}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def own_text(inputs: list[str], field: str, language: str) -> Iterable[Document]:
    """The documents of your own files, one sentence a line, long ones cut in pieces."""
    parts = corpus.parts(inputs, field)
    for number, part in enumerate(progress_bar(parts, desc="splitting sentences", unit=" parts")):
        lines = [s for line in corpus.lines(part) for s in corpus.sentences(line, language)]
        for start in range(0, len(lines), _PIECE_LINES):
            piece = lines[start : start + _PIECE_LINES]
            yield Document("", f"{number}.{start}", [piece])


def write_text(
    folder: Path, found: list[Document], share: float, dev_modules: set[tuple[str, str]]
) -> Iterable[str]:
    """Writes train.txt and valid.txt; tells what is in them.

    The modules of the task's dev examples are held out too, so that no model has seen them.

    Raises:
      UserError: nothing is left for one of them.
    """

    def held_out(document: Document) -> bool:
        in_dev = (document.library, document.module) in dev_modules
        return in_dev or is_held_out(document, share)

    for name, kept_out in (("train.txt", False), ("valid.txt", True)):
        part = [document for document in found if held_out(document) is kept_out]
        if not part:
            raise UserError(
                f"{name}: nothing falls into it; give more text or another --held_out than {share}"
            )
        number, size = documentation.write_corpus(folder / name, part)
        yield f"{name}: {number:,} documents, {size / 1e6:.1f} MB"


def read_documentation(workers: int) -> list[Document]:
    with progress_bar(desc="reading documentation", unit=" modules") as progress:

        def show(done: int, total: int) -> None:
            progress.total = total
            progress.update(done - progress.n)

        return list(documentation.documents(workers=workers, progress=show))


def source_of(flags: argparse.Namespace) -> dict[str, Any]:
    """What the folder is made of; what is installed is left out, a later package harms nothing."""
    if not flags.input:
        return {"files": "documentation", "held_out": flags.held_out}
    return {
        "files": [
            [str(source), 0 if isinstance(source, str) else storage.size(source)]
            for source in corpus.resolve(flags.input)
        ],
        "text_field": flags.text_field,
        "language": flags.language,
        "held_out": flags.held_out,
        **({"task": False} if flags.no_task else {}),
    }


def already_done(output: Path, source: dict[str, Any]) -> bool:
    """Raises UserError: the folder holds something else."""
    if not output.exists():
        return False
    saved = output / SOURCE
    if saved.is_file() and read_json(saved) == source:
        print(f"reusing {output}")
        return True
    raise UserError(f"{output}: holds other text or files; choose another --output or delete it")


def fill(folder: Path, flags: argparse.Namespace) -> list[str]:
    """Writes all that is wanted into a folder; tells what it is."""
    found = list(own_text(flags.input, flags.text_field, flags.language)) if flags.input else []
    told, kept_out = [], set()
    if not flags.no_task:
        documents = read_documentation(flags.workers)
        task = library_task.write_task(folder / "task", documents)
        told.append(f"task: which of these libraries is it? {', '.join(task.labels)}")
        found, kept_out = found or documents, task.dev_modules
    return [*told, *write_text(folder, found, flags.held_out, kept_out)]


def main() -> None:
    flags = parse_arguments()
    if not 0 < flags.held_out < 1:
        raise UserError(f"--held_out={flags.held_out}: give a share between 0 and 1, like 0.03")
    if flags.workers < 1:
        raise UserError(f"--workers={flags.workers}: give at least 1")
    if flags.no_task and not flags.input:
        raise UserError("--no_task: give --input; the documentation is collected with its task")
    source = source_of(flags)
    if already_done(flags.output, source):
        return
    with whole_folder(flags.output, SOURCE) as partial:
        told = fill(partial, flags)
        write_json(partial / SOURCE, source)
    print(f"wrote {flags.output}", *told, sep="\n  ")


if __name__ == "__main__":
    sys.exit(errors.run(main))
