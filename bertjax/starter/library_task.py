"""A labelled task made of documentation: which library does this passage belong to?"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from sklearn.feature_extraction.text import TfidfVectorizer

from bertjax.errors import UserError
from bertjax.files.whole_file import write_whole
from bertjax.starter.documentation import STANDARD_LIBRARY, Document, is_new
from bertjax.starter.prose import FUNCTION_WORDS

_BLANK = "it"
# What the libraries are called in prose, beside their distribution and top-level module names.
_NICKNAMES = (
    "np",
    "jnp",
    "jsp",
    "jaxpr",
    "jaxprs",
    "tf",
    "plt",
    "sklearn",
    "nnx",
    "linen",
    "py",
    "sp",
)
# Two letters or more in each part, to spare "i.e." and "e.g.".
_DOTTED = re.compile(r"\b[A-Za-z_]\w+(?:\.[A-Za-z_]\w+)+(?:\(\))?")


class Written(NamedTuple):
    """labels in the order of the alphabet; dev_modules: (library, module) of all dev examples."""

    labels: list[str]
    dev_modules: set[tuple[str, str]]


def write_task(
    folder: str | Path,
    found: Iterable[Document],
    *,
    classes: int = 6,
    train_per_class: int = 200,
    dev_per_class: int = 100,
) -> Written:
    """Writes train.tsv and dev.tsv (`sentence<TAB>label`).

    An example is a passage of one docstring. Of the libraries with the most passages those are
    taken that write least alike: numpy's and scipy's are hard to tell apart for anyone. All have
    the same number of examples, and few, as labels are in life. A module is either in train or in
    dev, and no text is in both. The names of all libraries, dotted names and the names of the
    module itself are blanked, so that only the way of writing and the subject can tell.

    Raises:
      UserError: fewer than two libraries have that many passages.
    """
    passages = _passages(found)
    need = {"train": train_per_class, "dev": dev_per_class}
    divided = {library: _divide(modules, need) for library, modules in passages.items()}
    full = [
        library
        for library, parts in divided.items()
        if all(len(parts.passages[name]) == count for name, count in need.items())
    ]
    if len(full) < 2:
        raise UserError(
            f"fewer than two installed libraries have {sum(need.values())} passages of "
            "documentation; install more packages, or give --no_task and --input"
        )
    amount = {library: sum(map(len, passages[library].values())) for library in full}
    full = sorted(full, key=lambda library: (-amount[library], library))[: 2 * classes]
    labels = sorted(_least_alike({name: divided[name].passages["train"] for name in full}, classes))
    for name in need:
        rows = [(text, label) for label in labels for text in divided[label].passages[name]]
        rows.sort(key=lambda row: _digest(row[0]))
        _write_rows(Path(folder) / f"{name}.tsv", rows)
    dev = {(label, module) for label in labels for module in divided[label].dev_modules}
    return Written(labels, dev)


def _passages(found: Iterable[Document]) -> dict[str, dict[str, list[str]]]:
    """library -> module -> different blanked passages of 20 words or more."""
    held = list(found)
    names = {*_NICKNAMES, *chain.from_iterable(map(_names, held))}
    long = [name for name in names if len(name) >= 5]

    @functools.cache
    def is_name(word: str) -> bool:
        return word in names or any(name in word for name in long)  # numpy, NumpyArray

    seen: set[bytes] = set()
    passages: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for document in held:
        own = {part.strip("_").lower() for part in document.module.split(".")}
        for text in chain.from_iterable(map(_pack, document.docstrings)):
            text = blank(text, own, is_name)
            if is_new(text, seen):
                passages[document.library][document.module].append(text)
    return passages


def _names(document: Document) -> set[str]:
    """What must not be said: the distribution's name and its top-level module."""
    library, top = document.library, document.module.split(".")[0].lower()
    # The standard library's top-level modules are everyday words: string, select, copy.
    if library == STANDARD_LIBRARY or document.module == "README":
        return {library}
    return {library, library.split("-")[0], top}


def _pack(docstring: list[str], enough: int = 20) -> Iterator[str]:
    """Consecutive sentences together, until there are `enough` words to tell a library by."""
    held: list[str] = []
    for sentence in docstring:
        held += sentence.split()
        if len(held) >= enough:
            yield " ".join(held)
            held = []


def blank(text: str, own: set[str], is_name: Callable[[str], bool]) -> str:
    """Puts a neutral word in the place of dotted names, of names and of the module's `own`."""

    def replace(word: re.Match[str]) -> str:
        lower = word.group().lower().strip("_")
        hidden = lower not in FUNCTION_WORDS and (lower in own or is_name(lower))
        return _BLANK if hidden else word.group()

    return re.sub(r"[A-Za-z_]\w*", replace, _DOTTED.sub(_BLANK, text))


class _Parts(NamedTuple):
    passages: dict[str, list[str]]  # of "train" and "dev"
    dev_modules: set[str]


def _divide(modules: dict[str, list[str]], need: dict[str, int]) -> _Parts:
    """Whole modules to dev until it is full, the others to train; both cut to size."""
    parts: dict[str, list[str]] = {"train": [], "dev": []}
    dev_modules = set()
    for module in sorted(modules, key=_digest):
        name = "dev" if len(parts["dev"]) < need["dev"] else "train"
        if name == "dev":
            dev_modules.add(module)
        parts[name] += modules[module]
    cut = {name: sorted(parts[name], key=_digest)[: need[name]] for name in parts}
    return _Parts(cut, dev_modules)


def _least_alike(texts: dict[str, list[str]], number: int) -> list[str]:
    """The first, then always the one whose words are least like those of the nearest taken."""
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(map(" ".join, texts.values()))
    alike = (vectors @ vectors.T).toarray()
    taken = [0]
    while len(taken) < min(number, len(texts)):
        nearest = alike[taken].max(axis=0)
        nearest[taken] = 2.0  # more than any cosine
        taken.append(int(nearest.argmin()))
    return [list(texts)[index] for index in taken]


def _digest(text: str) -> bytes:
    """A fixed order that has nothing to do with the alphabet."""
    return hashlib.sha256(text.encode()).digest()


def _write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = ["sentence\tlabel\n", *(f"{text}\t{label}\n" for text, label in rows)]
    write_whole(path, "".join(lines).encode())
