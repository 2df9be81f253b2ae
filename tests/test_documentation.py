"""The corpus holds prose only, is the same everywhere, and its task leaks nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.starter import documentation, library_task
from bertjax.text import corpus

DOCSTRING = '''"""Compute the mean of the values along an axis.

    The result is a new array; see `alpha.core.mean` and :func:`~alpha.sum <target>`
    for the **details** of the method.

    .. math::

        x = \\\\sum_i y_i

    Parameters
    ----------
    axis : int, optional
        The axis along which the values are added up.
    other: An argument in the style of the other school.

    Returns:
      The mean of all of the values in the array.

    >>> mean([1, 2])
    This is output that is not a sentence of the text.

    A literal block is the code that follows here::

        This is not to be read as a sentence of the text.

    ====  ====
    a     b
    ====  ====

    See https://example.com/ for the rest of this text.
    Das ist kein englischer Satz und soll nicht bleiben.
    """'''


def add_package(root: Path, name: str, modules: dict[str, str], about: str = "") -> None:
    info = root / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n{about}")
    files = [f"{name}/{module}.py" for module in modules]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file, code in zip(files, modules.values(), strict=True):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(code)


def add_library(root: Path, name: str, subject: str, modules: int = 12) -> None:
    """A package whose docstrings are all different but for a few that all libraries share."""
    code = {}
    for m in range(modules):
        letters = chr(97 + m // 26) + chr(97 + m % 26)
        texts = [
            f"Moves the {subject} of module {letters} by part {chr(97 + i)} of the {name} line, "
            f"as {name.title()}Tool and {name}.core do it in the long run of all these words."
            for i in range(6)
        ]
        texts.append(
            "Shared words of a text that all libraries have in the very same order here. "
            "They are as good as copied from the one to the other by someone."
        )
        code[f"part_{letters}"] = "\n".join(
            f'def f{i}():\n    """{text}"""' for i, text in enumerate(texts)
        )
    add_package(root, name, code)


def read(root: Path) -> list[documentation.Document]:
    return list(documentation.documents(search=[str(root)], workers=1))


def test_only_prose_is_kept(tmp_path: Path) -> None:
    about = "# Alpha\n\nAlpha is a library for the [mean](https://example.com).\n\n```\nA b.\n```\n"
    about += "\n- It is used by the people in the know.\n"
    add_package(tmp_path, "alpha", {"core": f"def mean():\n    {DOCSTRING}\n"}, about)
    description, module = read(tmp_path)
    assert (description.library, description.module) == ("alpha", "README")
    assert description.lines == [
        "Alpha is a library for the mean.",
        "It is used by the people in the know.",
    ]
    assert module.module == "alpha.core"
    assert module.lines == [
        "Compute the mean of the values along an axis.",
        "The result is a new array; see alpha.core.mean and alpha.sum for the details of the "
        "method.",
        "The axis along which the values are added up.",
        "An argument in the style of the other school.",
        "The mean of all of the values in the array.",
    ]


def test_modules_are_read_not_imported(tmp_path: Path) -> None:
    code = '"""It is a module of the kind that fails. It must not be run in any case."""\nraise X'
    add_package(tmp_path, "bravo", {"fails": code, "broken": "def ("})
    assert [document.module for document in read(tmp_path)] == ["bravo.fails"]
    assert "bravo" not in sys.modules


def test_a_sentence_occurs_once(tmp_path: Path) -> None:
    same = '"""This is the same text in all of them. It is not to be read twice."""'
    more = '\nclass A:\n    """This is the same text in all of them. %s is only in here. One more '
    more += 'of the kind is here for %s."""'
    add_package(tmp_path, "alpha", {"a": same, "b": same, "c": same + more % ("That", "you")})
    documents = read(tmp_path)
    assert [document.module for document in documents] == ["alpha.a", "alpha.c"]
    lines = [line for document in documents for line in document.lines]
    assert len(lines) == len(set(lines)) == 4


def test_place_and_number_of_workers_change_nothing(tmp_path: Path) -> None:
    for place in ("one", "another/deeper"):
        add_library(tmp_path / place, "bravo", "cats", 110)
        add_library(tmp_path / place, "alpha", "dogs", 110)
    first = read(tmp_path / "one")
    assert first == read(tmp_path / "another/deeper")
    search = [str(tmp_path / "one")]
    seen: list[tuple[int, int]] = []
    several = documentation.documents(
        search=search, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert list(several) == first
    assert seen == [(220, 220)]
    assert [d.library for d in first] == ["alpha"] * 110 + ["bravo"] * 110


def test_corpus_is_read_back_as_the_same_documents(tmp_path: Path) -> None:
    add_library(tmp_path, "alpha", "dogs")
    documents = read(tmp_path)
    path = tmp_path / "corpus.txt"
    number, size = documentation.write_corpus(path, documents)
    assert (number, size) == (12, path.stat().st_size)
    found = list(corpus.parts([path]))
    assert all(part.is_whole for part in found)
    assert list(map(corpus.lines, found)) == [document.lines for document in documents]
    with pytest.raises(UserError, match="carry no documentation"):
        documentation.write_corpus(tmp_path / "none.txt", [])
    assert not list(tmp_path.glob("none*"))


def test_the_standard_library_gives_text_and_tests_are_left_out() -> None:
    modules = {s.module: s for s in documentation.sources() if s.library == "python"}
    assert {"json.decoder", "argparse", "json"} <= set(modules)
    assert not any(part == "test" for module in modules for part in module.split("."))
    found = documentation._read(modules["argparse"])
    assert sum(map(len, found)) > 20


def rows(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "sentence\tlabel"
    return [line.split("\t") for line in lines[1:]]


def test_task_is_balanced_and_leaks_nothing(tmp_path: Path) -> None:
    names = {"alpha": "dogs", "bravo": "cats", "charlie": "birds", "delta": "fish"}
    for name, subject in names.items():
        add_library(tmp_path / "site", name, subject, modules=12 if name != "delta" else 1)
    documents = read(tmp_path / "site")
    labels, dev_modules = library_task.write_task(
        tmp_path, documents, classes=3, train_per_class=30, dev_per_class=10
    )
    assert labels == ["alpha", "bravo", "charlie"]  # delta has too few
    train, dev = rows(tmp_path / "train.tsv"), rows(tmp_path / "dev.tsv")
    for label in labels:
        assert [row[1] for row in train].count(label) == 30
        assert [row[1] for row in dev].count(label) == 10
    texts = [row[0] for row in train + dev]
    assert len(texts) == len({text.lower() for text in texts})
    sentences = [{s for t, _ in part for s in t.split(". ")} for part in (train, dev)]
    assert not sentences[0] & sentences[1]
    assert not any(name in text.lower() for name in names for text in texts)
    of_module = [
        {
            (label, text.split("of module ")[1].split()[0])
            for text, label in part
            if "of module" in text
        }
        for part in (train, dev)
    ]
    assert of_module[0] and of_module[1] and not of_module[0] & of_module[1]


def test_the_task_takes_the_libraries_that_write_least_alike(tmp_path: Path) -> None:
    for name, subject, modules in (
        ("alpha", "dogs", 14),
        ("bravo", "old dogs", 12),
        ("zulu", "cats", 11),
    ):
        add_library(tmp_path / "site", name, subject, modules)
    documents = read(tmp_path / "site")
    written = library_task.write_task(
        tmp_path, documents, classes=2, train_per_class=30, dev_per_class=10
    )
    assert written.labels == ["alpha", "zulu"]  # bravo has more passages, of dogs, too


def test_task_is_deterministic(tmp_path: Path) -> None:
    add_library(tmp_path / "site", "alpha", "dogs")
    add_library(tmp_path / "site", "bravo", "cats")
    documents = read(tmp_path / "site")
    for folder in ("1", "2"):
        library_task.write_task(tmp_path / folder, documents, train_per_class=20, dev_per_class=5)
    for name in ("train.tsv", "dev.tsv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_task_needs_two_libraries(tmp_path: Path) -> None:
    add_library(tmp_path / "site", "alpha", "dogs")
    with pytest.raises(UserError, match="fewer than two"):
        library_task.write_task(tmp_path, read(tmp_path / "site"))
    assert not (tmp_path / "train.tsv").exists()


def test_names_are_blanked() -> None:
    def is_name(word: str) -> bool:
        return "numpy" in word or word == "np"

    text = "NumPy's np.array, i.e. a NumpyArray in linalg, as numpy.linalg.norm() is."
    blanked = library_task.blank(text, {"linalg", "is"}, is_name)
    assert blanked == "it's it, i.e. a it in it, as it is."
