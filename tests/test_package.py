"""The package is light to import, its floors hold, and every entry point explains itself."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import bertjax

ROOT = Path(bertjax.__file__).parent

# A file imports from its own floor and those below; no two files import each other.
FLOORS = (
    "errors own_command command_line settings memory workers data_sets progress_bar",
    "files",
    "text",
    "starter",
    "scores",
    "partition programs shares distributed compile_cache",
    "data",
    "models",
    "runs",
    "weights",
    "training",
    "planner",
    "tasks",
    "reporting",
    "finetuning",
    "comparison",
    "prepare pretrain finetune export fill collect report reproduce plan compare doctor",
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
ENTRY_POINTS = FLOORS[-1].split()
# Heavy libraries, and the floors and files that must not take them when they are imported.
LIGHT = FLOORS[:5]
ALSO_LIGHT = {
    *("planner.hlo_text", "planner.hlo_cost", "planner.hlo_exchanges"),
    *("reporting.page", "training.chips", "weights.word_vectors"),
}
HEAVY = {"jax", "flax", "optax", "orbax", "tensorflow", "torch", "matplotlib"}


def modules() -> dict[str, ast.Module]:
    """Dotted name below bertjax -> syntax tree, of every file but the empty-handed packages."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__init__":
            found[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(tree: ast.AST) -> Iterator[str]:
    """Full dotted names of what a tree imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(name: str) -> set[str]:
    """The modules of bertjax that a module imports, as names below bertjax."""
    found = set()
    for full in imports(MODULES[name]):
        inner = full.removeprefix("bertjax.")
        while inner not in MODULES and "." in inner:
            inner = inner.rpartition(".")[0]
        if full.startswith("bertjax.") and inner in MODULES:
            found.add(inner)
    return found


def floor(name: str) -> int:
    """Files without a floor are told by a test of their own."""
    return FLOOR_OF.get(name.split(".")[0], len(FLOORS))


def test_import_is_light() -> None:
    code = "import sys, bertjax; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert HEAVY.isdisjoint(loaded)


def test_tensorflow_starts_in_silence() -> None:
    code = "import bertjax, tensorflow as tf; tf.constant(1)"
    asked = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    own = {name: value for name, value in os.environ.items() if name not in asked}
    ran = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_every_folder_is_a_package() -> None:
    """An installation that is not editable holds no other."""
    folders = {path.parent for path in ROOT.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_every_file_has_a_floor() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_only_from_floors_below(name: str) -> None:
    above = {other for other in imported_modules(name) if floor(other) > floor(name)}
    assert not above, f"{name} is on floor {floor(name)} and imports {above}"


def test_nobody_imports_an_entry_point() -> None:
    importers = {
        (name, other)
        for name in MODULES
        for other in imported_modules(name)
        if other in ENTRY_POINTS
    }
    assert not importers


def test_models_know_neither_data_nor_tasks() -> None:
    rooms = {
        other.split(".")[0]
        for name in MODULES
        if name.startswith("models.")
        for other in imported_modules(name)
    }
    assert rooms <= {"models", "errors", "partition", "programs", "settings"}


def test_there_is_no_circle() -> None:
    # Raises CycleError, which names the modules.
    TopologicalSorter({name: imported_modules(name) for name in MODULES}).prepare()


@pytest.mark.parametrize("name", sorted(ALSO_LIGHT | {n for n in MODULES if floor(n) < len(LIGHT)}))
def test_light_floors_take_no_heavy_library_at_import(name: str) -> None:
    top_level = [
        node for node in MODULES[name].body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    taken = {full.split(".")[0] for node in top_level for full in imports(node)}
    assert taken.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_help_fits_one_screen_and_shows_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"bertjax.{name}").parse_arguments(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 100
    assert f"python -m bertjax.{name} " in text[text.index("example") :]
