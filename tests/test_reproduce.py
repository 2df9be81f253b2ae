"""Where the paper's tasks find their data: folders, files side by side, a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bertjax import data_sets, reproduce
from bertjax.reproduce import find_data
from bertjax.tasks.table import TASKS

SQUAD, SQUAD2, RTE = TASKS["squad"], TASKS["squad2"], TASKS["rte"]


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.fixture(autouse=True)
def cached(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the data sets that tensorflow-datasets has; none at first."""
    names: set[str] = set()
    monkeypatch.setattr(data_sets, "is_cached", names.__contains__)
    return names


def test_the_versions_of_squad_may_lie_side_by_side(tmp_path: Path) -> None:
    put(tmp_path / "squad", "train-v1.1.json", "dev-v1.1.json")
    told = [f"--data_dir={tmp_path / 'squad'}"]
    assert find_data(SQUAD, tmp_path) == told
    assert find_data(SQUAD2, tmp_path) is None
    put(tmp_path / "squad", "train-v2.0.json", "dev-v2.0.json")
    assert find_data(SQUAD, tmp_path) == find_data(SQUAD2, tmp_path) == told


def test_files_of_any_name_in_squads_folder_are_of_the_first_version(tmp_path: Path) -> None:
    put(tmp_path / "squad", "train-mine.json", "dev-mine.json")
    assert find_data(SQUAD2, tmp_path) is None


def test_a_cache_serves_where_no_folder_does(tmp_path: Path, cached: set[str]) -> None:
    assert find_data(RTE, None) is None
    cached.add("glue/rte")
    assert find_data(RTE, None) == find_data(RTE, tmp_path) == []
    put(tmp_path / "glue" / "RTE", "train.tsv", "dev.tsv")
    assert find_data(RTE, tmp_path) == [f"--data_dir={tmp_path / 'glue'}"]
    assert find_data(TASKS["swag"], None) is None


def test_without_any_data_one_line_tells_it(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(reproduce, "--init=x", f"--workdir={tmp_path}") == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: --data_dir is missing: the files of no task are there, nor")
    assert "no data of squad: https://" in said.out


def test_the_diagnostic_examples_have_the_score_that_glue_takes() -> None:
    splits = {"dev_mismatched": {"accuracy": 0.5}, "ax": {"accuracy": 0.9, "matthews": 0.25}}
    row = {"median": 0.6, "deviation": 0.01, "best": 0.7, "seeds": 2}
    result = {"rows": [row], "best": "a", "runs": {"a": {"other_splits": splits}}}
    line = reproduce.line(reproduce.Row(TASKS["mnli"], ["--task=mnli"], result))
    assert "| dev_mismatched 50.00; ax (matthews) 25.00 |" in line
