"""Makes an English corpus of the documentation that every installation already carries.

Docstrings of the standard library and of the installed packages (read with `ast`, nothing is
imported) and the packages' descriptions, cleaned to prose sentences. Needs no network, so a first
model can be trained, and fine-tuned on a real labelled task, anywhere.
"""

from __future__ import annotations

import ast
import csv
import gc
import hashlib
import multiprocessing
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path

from bertjax.errors import UserError
from bertjax.files.whole_file import write_whole
from bertjax.starter.prose import prose

STANDARD_LIBRARY = "python"
# Tests are hardly documented; vendored packages are there a second time; our own text would
# change the corpus with every edit.
_SKIPPED_PARTS = {"test", "tests", "testing", "idle_test", "_vendor", "site-packages"}
_SKIPPED_LIBRARIES = {"bertjax"}


@dataclass(frozen=True)
class Document:
    """The prose of one module: of each docstring its sentences."""

    library: str
    module: str
    docstrings: list[list[str]]

    @property
    def lines(self) -> list[str]:
        """All sentences in the order of the source file."""
        return list(chain.from_iterable(self.docstrings))


@dataclass(frozen=True)
class Source:
    """What is read: a Python file; where `module` is README, `path` is a description itself."""

    library: str
    module: str
    path: str


# --- What is installed ----------------------------------------------------------------------


def sources(search: Sequence[str] | None = None) -> list[Source]:
    """All modules and descriptions, sorted by library and module.

    `search` names folders to look for packages in (like sys.path) instead of this environment
    with its standard library.
    """
    found = [] if search else list(_standard_library())
    here = metadata.distributions(path=list(search)) if search else metadata.distributions()
    for distribution in here:
        name = distribution.metadata["Name"]
        if name and name.lower() not in _SKIPPED_LIBRARIES:
            found += _package(distribution, name.lower().replace("_", "-"))
    return sorted(set(found), key=lambda source: (source.library, source.module, source.path))


def _standard_library() -> Iterator[Source]:
    root = Path(sysconfig.get_path("stdlib"))
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _SKIPPED_PARTS]
        for name in names:
            file = Path(folder, name)
            if file.suffix == ".py":
                yield Source(STANDARD_LIBRARY, _module(str(file.relative_to(root))), str(file))


def _package(distribution: metadata.Distribution, library: str) -> Iterator[Source]:
    # Read here because Distribution.files takes seconds for ten thousand files.
    record = distribution.read_text("RECORD")
    if record is not None:
        names = [row[0] for row in csv.reader(record.splitlines()) if row]
    else:
        names = [str(file) for file in distribution.files or []]
    for name in names:
        if name.endswith(".py") and _SKIPPED_PARTS.isdisjoint(name.split("/")):
            yield Source(library, _module(name), str(distribution.locate_file(name)))
    description = str(distribution.metadata.json.get("description", ""))
    if description.strip():
        yield Source(library, "README", description)


def _module(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace(os.sep, ".")


# --- Reading them -----------------------------------------------------------------------


def _read(source: Source) -> list[list[str]]:
    """The prose of every docstring of one source, in the order of the file."""
    if source.module == "README":
        found = prose(source.path)
        return [found] if found else []
    try:
        code = Path(source.path).read_bytes()
    except OSError:  # listed as installed but gone
        return []
    if b'"""' not in code and b"'''" not in code:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            tree = ast.parse(code)
        except (SyntaxError, ValueError):  # templates, other versions' syntax
            return []
    return [found for text in dict.fromkeys(_docstrings(tree)) if (found := prose(text))]


def _docstrings(
    tree: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[str]:
    if text := ast.get_docstring(tree, clean=False):
        yield text
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(node)


def documents(
    *,
    search: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Document]:
    """One document per module, sorted by library and module; each sentence occurs once.

    Where the environment lies and how many processes read it (`workers`, by default all cores)
    changes nothing. `progress` is called with the modules read so far and their number.
    """
    found = sources(search)
    seen: set[bytes] = set()
    for done, (source, texts) in enumerate(zip(found, _read_all(found, workers), strict=True), 1):
        if progress and (done % 500 == 0 or done == len(found)):
            progress(done, len(found))
        fresh = [[s for s in text if is_new(s, seen)] for text in texts]
        docstrings = [text for text in fresh if text]
        if sum(map(len, docstrings)) >= 2:  # one lone sentence has no next one to predict
            yield Document(source.library, source.module, docstrings)


def _read_all(found: list[Source], workers: int | None) -> Iterator[list[list[str]]]:
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(found) < 200:
        yield from map(_read, found)
        return
    # Not fork: the caller may have threads (JAX has), which a fork can leave locked.
    context = multiprocessing.get_context("spawn")
    # A syntax tree has no cycles: looking for them costs a fifth of the time and finds nothing.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=gc.disable) as pool:
        yield from pool.map(_read, found, chunksize=64)


def is_new(sentence: str, seen: set[bytes]) -> bool:
    key = hashlib.blake2b(sentence.lower().encode(), digest_size=8).digest()
    fresh = key not in seen
    seen.add(key)
    return fresh


def write_corpus(path: str | Path, found: Iterable[Document]) -> tuple[int, int]:
    """Writes one sentence a line, a blank line between documents; (documents, bytes) written.

    Raises:
      UserError: the installed packages carry no documentation, as in a stripped installation.
    """
    texts = ["".join(sentence + "\n" for sentence in document.lines) for document in found]
    if not texts:
        raise UserError("the installed packages carry no documentation; give text files instead")
    content = "\n".join(texts).encode()
    write_whole(Path(path), content)
    return len(texts), len(content)
