"""Makes an English corpus of the documentation that every installation already carries.

Docstrings of the standard library and of the installed packages (read with `ast`, nothing is
imported) and the packages' descriptions, cleaned to prose sentences. Needs no network, so a first
model can be trained, and fine-tuned on a real labelled task, anywhere.
"""

from __future__ import annotations

import ast
import csv
import functools
import gc
import hashlib
import inspect
import multiprocessing
import os
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path

from bertjax.errors import UserError
from bertjax.text import sentences

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
    """One file to read: a Python module or, with an empty `path`, a package description."""

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


# --- From a docstring to sentences ----------------------------------------------------------

_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}\s*$")
# Directives, tables, headings, shell lines, tags, and section names such as "Args:".
_DROPPED = re.compile(
    r"\.\. |\||\+[-=]|#|@\w|In \[|Out\[|\$ |%|:type |:rtype|<|"
    r"[A-Z]\w+( \w+){0,2}:$"
)
_FIELD = re.compile(r":(?:param|arg|return|returns|raises|raise|keyword)[^:]*:\s*")
_GOOGLE_ARGUMENT = re.compile(r"[`*]*[\w.]+[`*]*( ?\([^)]*\))?:\s+(?=\S)")
_NUMPY_ARGUMENT = re.compile(r"[*\w][\w*, .]* : .*$")
_BULLET = re.compile(r"(?:[-*+•]|\(?\w{1,2}[.)])\s+(?=\S)")
_MARKUP = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"!?\[([^\]]*)\]\([^)]*\)", r"\1"),  # [text](target), images
        (r":[\w:+-]+:`~?([^`<]*?)\s*(?:<[^`]*>)?`", r"\1"),  # :role:`text <target>`
        (r"`([^`<]+?)\s*<[^`>]*>`_{0,2}", r"\1"),  # `text <target>`_
        (r"``?([^`]+)``?_{0,2}", r"\1"),  # ``code``, `name`
        (r"\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*", r"\1\2"),  # bold, italics
        (r"\s*\[(?:\d+|#\w*|[A-Z]\w*\d+)\]_?", ""),  # footnotes
        (r"\b(\w+)_(?=[\s.,;])", r"\1"),  # link_
        (r"<[^>]{1,40}>|\\[ `*]", ""),  # tags, escapes
        (r"\s+", " "),
    )
]
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of to in is are be was it its this that these those and or not for from with by "
        "on at as if when which can may will must should has have into than then there you we",
    )
)
_CODE_SIGNS = re.compile(r"[\\${}|]|://|__")
_PLAIN_WORD = re.compile(r"[(\"']?[A-Za-z][A-Za-z'’-]*[)\"']?[.,;:!?]?[)\"']?$")


def prose(docstring: str) -> list[str]:
    """The English sentences of a docstring or a description, without code, tables and markup.

    A sentence stays when it begins with a capital letter, ends in . ! or ?, has 5 to 80 words, at
    least 80 % of them plain words, at least 15 % of them English function words, and neither a
    link nor a sign that only code and formulas have.
    """
    found = []
    for paragraph in _paragraphs(inspect.cleandoc(docstring).splitlines()):
        for pattern, replacement in _MARKUP:
            paragraph = pattern.sub(replacement, paragraph)
        found += [s for s in sentences(paragraph.strip()) if _is_prose(s)]
    return found


def _is_prose(sentence: str) -> bool:
    if not (sentence[0].isupper() and sentence[-1] in ".!?" and sentence.isprintable()):
        return False
    if _CODE_SIGNS.search(sentence):
        return False
    words = sentence.split()
    plain = sum(_PLAIN_WORD.match(word) is not None for word in words)
    function = sum(word.lower() in _FUNCTION_WORDS for word in words)
    return 5 <= len(words) <= 80 and plain >= 0.8 * len(words) and function >= 0.15 * len(words)


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Joins the lines of running text; leaves out code, tables, headings, signatures."""
    held: list[str] = []
    for line in [*_without_code(lines), ""]:
        text = line.strip()
        begins = _BULLET.match(text) or _FIELD.match(text) or _GOOGLE_ARGUMENT.match(text)
        dropped = not text or _DROPPED.match(text) or _NUMPY_ARGUMENT.match(text)
        if held and (begins or dropped or _UNDERLINE.match(text)):
            if not _UNDERLINE.match(text):  # else what is held is a heading
                yield " ".join(held)
            held = []
        if not dropped and not _UNDERLINE.match(text):
            held.append(text[begins.end() :] if begins else text)


def _without_code(lines: list[str]) -> Iterator[str]:
    """Leaves out fenced code, doctests, literal blocks and directives with what is below them."""
    fence, below, doctest = "", -1, False
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if fence:
            fence = "" if text.startswith(fence) else fence
        elif text[:3] in ("```", "~~~"):
            fence = text[:3]
        elif not text or doctest or text.startswith(">>>"):
            doctest = bool(text)  # up to the next blank line it is code or output
            yield ""
        elif below < 0 or indent <= below:
            below = indent if text.endswith("::") or text.startswith(".. ") else -1
            yield "" if text.startswith(".. ") else line


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
        fresh = [[s for s in text if _is_new(s, seen)] for text in texts]
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


def _is_new(sentence: str, seen: set[bytes]) -> bool:
    key = hashlib.blake2b(sentence.lower().encode(), digest_size=8).digest()
    fresh = key not in seen
    seen.add(key)
    return fresh


def write_corpus(path: str | Path, found: Iterable[Document] | None = None) -> tuple[int, int]:
    """Writes one sentence a line, a blank line between documents; (documents, bytes) written.

    Raises:
      UserError: the installed packages carry no documentation, as in a stripped installation.
    """
    number = 0
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for document in found if found is not None else documents():
            file.write(("\n" if number else "") + "".join(s + "\n" for s in document.lines))
            number += 1
    if not number:
        temporary.unlink()
        raise UserError("the installed packages carry no documentation; give text files instead")
    size = temporary.stat().st_size
    os.replace(temporary, target)
    return number, size


# --- A labelled task: which library does this docstring belong to? --------------------------

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


def write_task(
    folder: str | Path,
    found: Iterable[Document] | None = None,
    *,
    classes: int = 8,
    train_per_class: int = 500,
    dev_per_class: int = 100,
) -> list[str]:
    """Writes train.tsv and dev.tsv (`sentence<TAB>label`) and gives the labels.

    An example is a passage of one docstring. The libraries are those with the most passages; all
    have the same number of examples. A module is either in train or in dev, and no text is in
    both. The names of all libraries, dotted names and the names of the module itself are blanked,
    so that only the way of writing and the subject can tell.

    Raises:
      UserError: fewer than two libraries have that many passages.
    """
    passages = _passages(found if found is not None else documents())
    need = {"train": train_per_class, "dev": dev_per_class}
    divided = {library: _divide(modules, need) for library, modules in passages.items()}
    full = [
        library
        for library, parts in divided.items()
        if all(len(parts[name]) == count for name, count in need.items())
    ]
    if len(full) < 2:
        raise UserError(
            f"fewer than two installed libraries have {sum(need.values())} passages of "
            "documentation; ask for fewer examples per class"
        )
    amount = {library: sum(map(len, passages[library].values())) for library in full}
    labels = sorted(sorted(full, key=lambda library: (-amount[library], library))[:classes])
    for name in need:
        rows = [(text, label) for label in labels for text in divided[label][name]]
        rows.sort(key=lambda row: _digest(row[0]))
        _write_rows(Path(folder) / f"{name}.tsv", rows)
    return labels


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
            if _is_new(text, seen):
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
        hidden = lower not in _FUNCTION_WORDS and (lower in own or is_name(lower))
        return _BLANK if hidden else word.group()

    return re.sub(r"[A-Za-z_]\w*", replace, _DOTTED.sub(_BLANK, text))


def _divide(modules: dict[str, list[str]], need: dict[str, int]) -> dict[str, list[str]]:
    """Whole modules to dev until it is full, the others to train; both cut to size."""
    order = sorted(modules, key=_digest)
    parts: dict[str, list[str]] = {"train": [], "dev": []}
    for module in order:
        name = "dev" if len(parts["dev"]) < need["dev"] else "train"
        parts[name] += modules[module]
    return {name: sorted(parts[name], key=_digest)[: need[name]] for name in parts}


def _digest(text: str) -> bytes:
    """A fixed order that has nothing to do with the alphabet."""
    return hashlib.sha256(text.encode()).digest()


def _write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("sentence\tlabel\n")
        file.writelines(f"{text}\t{label}\n" for text, label in rows)
    os.replace(temporary, path)
