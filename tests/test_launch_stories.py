"""launch/quickstart.sh and launch/compare.sh: how they read their command lines."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from machine_room import ROOT

from bertjax import compare

# Notes its arguments, one a line, and ends the story at its first chapter.
PYTHON = """#!/bin/bash
printf '%s\\n' "$@" > '{}'
exit 3
"""


def launched(script: str, venv: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Runs a script from the folder of the environment."""
    return subprocess.run(
        [ROOT / "launch" / script, *map(str, words)],
        cwd=venv.parent,
        env=os.environ | {"BERTJAX_VENV": str(venv)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture()
def venv(tmp_path: Path) -> Path:
    """An environment that counts as installed; its Python notes what it is asked for in "asked"."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").write_text(f"PATH={folder}/bin:$PATH\n")
    python = folder / "bin" / "python"
    python.write_text(PYTHON.format(tmp_path / "asked"))
    python.chmod(0o755)
    required = [(ROOT / name).read_text() for name in ("setup.cfg", "pyproject.toml")]
    (folder / "installed").write_text(f"{ROOT}\n" + "".join(required))
    return folder


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        (["--input", "a.txt", "b c", "--workdir", "w"], ["HERE/a.txt", "HERE/b c"]),
        (["--input=a.txt", "--workdir=w"], ["HERE/a.txt"]),
        (["--workdir=w", "--input=x=y", "--input", "/z"], ["HERE/x=y", "/z"]),
        (["--input", "tfds:imdb/plain", "--workdir=w"], ["tfds:imdb/plain"]),
        (["--input=gs://bucket/a", "--workdir=w"], ["gs://bucket/a"]),
        (["--workdir=w"], []),
    ],
)
def test_quickstart_takes_both_forms_of_options(
    given: list[str], inputs: list[str], venv: Path
) -> None:
    here = str(venv.parent)
    ended = launched("quickstart.sh", venv, *given)
    assert ended.returncode == 3, ended.stderr
    asked = (venv.parent / "asked").read_text().splitlines()
    assert asked[:4] == ["-m", "bertjax.collect", "--output", f"{here}/w/text"]
    assert asked[4:] == ["--input"] * bool(inputs) + [i.replace("HERE", here) for i in inputs]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--workdir="], "--workdir needs a folder"),
        (["--workdir"], "--workdir needs a folder"),
        (["--workdir=gs://a/b"], "--workdir gs://a/b must be a local folder"),
        (["--input="], "--input needs a file or a folder"),
        (["--input", "--workdir=w"], "--input needs a file or a folder"),
        (["--steps=5"], "unknown argument '--steps'"),
        (["a.txt"], "unknown argument 'a.txt'"),
    ],
)
def test_quickstart_refuses_what_it_cannot_take(given: list[str], message: str, venv: Path) -> None:
    ended = launched("quickstart.sh", venv, *given)
    assert (ended.returncode, ended.stderr.startswith(f"error: {message}")) == (2, True)
    assert not (venv.parent / "asked").exists()


@pytest.mark.parametrize("script", ["quickstart.sh", "compare.sh"])
@pytest.mark.parametrize("given", [["--help"], ["-h"], ["--input", "a.txt", "--help"]])
def test_help_needs_no_environment(script: str, given: list[str], tmp_path: Path) -> None:
    ended = launched(script, tmp_path / "none", *given)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"usage: ./launch/{script} ")
    assert not (tmp_path / "none").exists()


def test_the_help_of_compare_names_all_its_flags(tmp_path: Path) -> None:
    flags = vars(compare.parse_arguments(["--input=x", "--data_dir=y"]))
    told = launched("compare.sh", tmp_path / "none", "--help").stdout
    assert not [name for name in flags if f"\n  --{name} " not in told]


def test_compare_hands_its_flags_on(venv: Path) -> None:
    given = ["--input", "a b", "--seeds=2"]
    assert launched("compare.sh", venv, *given).returncode == 3
    asked = (venv.parent / "asked").read_text().splitlines()
    assert asked == ["-m", "bertjax.compare", f"--config={ROOT}/configs/compare.py", *given]
