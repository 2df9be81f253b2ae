"""Where the paper's tasks find their data: folders, files side by side, a cache; what ends them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjax import data_sets, own_command, reproduce
from bertjax.files.json_file import write_json
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


def test_of_several_files_that_could_be_one_none_is_taken(
    tmp_path: Path, cached: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "squad2", "train-a.json", "train-b.json", "dev-a.json")
    assert find_data(SQUAD2, tmp_path) is None
    said = capsys.readouterr().out
    assert said.startswith(f"squad2: {tmp_path / 'squad2'} is passed over: several of its files")
    assert said.count("\n") == 1
    put(tmp_path / "squad2", "train-v2.0.json", "dev-v2.0.json")
    assert find_data(SQUAD2, tmp_path) == [f"--data_dir={tmp_path / 'squad2'}"]


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


SETTING = {"batch_size": 32, "learning_rate": 3e-5, "epochs": 3}
ROW = SETTING | {"median": 0.6, "deviation": 0.01, "best": 0.7, "seeds": 3}


def line(task: str, **run: Any) -> str:
    """The row of a task whose best run has these scores."""
    # Another setting has the best run, and this one the best median.
    runs = {
        "batch32-rate3e-05-epochs3-seed0": {"score": 0.5, "dev": {}, "other_splits": {}},
        "batch32-rate3e-05-epochs3-seed1": {"score": 0.7, "dev": {}, "other_splits": {}} | run,
        "batch32-rate5e-05-epochs3-seed1": {"score": 0.9, "dev": {}, "other_splits": {}},
    }
    result = {"rows": [ROW], "best": "batch32-rate5e-05-epochs3-seed1", "runs": runs}
    return reproduce.line(reproduce.Row(TASKS[task], [f"--task={task}"], result))


def test_the_diagnostic_examples_have_the_score_that_glue_takes() -> None:
    splits = {"dev_mismatched": {"accuracy": 0.5}, "ax": {"accuracy": 0.9, "matthews": 0.25}}
    assert "| dev_mismatched 50.00; ax (matthews) 25.00 |" in line("mnli", other_splits=splits)


def test_squad_has_both_scores_as_the_paper_has() -> None:
    found = line("squad", dev={"exact_match": 80.5, "f1": 88.25, "missing": 0})
    assert "| dev exact_match 80.50 | 80.8 EM, 88.5 F1 (dev) |" in found
    found = line("squad2", dev={"exact": 70.5, "f1": 73.25, "HasAns_exact": 1.0, "total": 9})
    assert "| dev exact 70.50 | 78.7 EM, 81.9 F1 (dev) (large) |" in found
    assert "| - |" in line("rte", dev={"accuracy": 0.5, "examples": 277})


# --- A task that fails ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "why"),
    [(2, "run its command to see why"), (1, "bertjax.finetune failed; what it says is above")],
)
def test_a_task_that_fails_is_told_in_the_table_and_the_others_run(
    status: int,
    why: str,
    flags: list[str],
    command: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(tmp_path / "glue" / "CoLA", "train.tsv", "dev.tsv")

    def run(made: list[str]) -> int:
        if "--task=cola" in made:
            return status
        runs = {"batch32-rate3e-05-epochs3-seed0": {"score": 0.7, "dev": {}, "other_splits": {}}}
        found = {"rows": [ROW], "best": next(iter(runs)), "runs": runs}
        write_json(tmp_path / "runs" / "rte" / "sweep.json", found)
        return 0

    monkeypatch.setattr(own_command, "run_program", run)
    assert command(reproduce, *flags) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: cola failed, as the table tells; the same command again")
    table = (tmp_path / "runs" / "paper.md").read_text()
    assert table in said.out
    _, _, cola, rte = table.splitlines()
    assert cola.startswith(f"| cola | matthews | failed: {why} | - | - | - | - | 52.1 (test) | `")
    assert rte.startswith("| rte | accuracy | 60.00 | 1.00 | 70.00 | 3 | - | 66.4 (test) | `")


# --- Being stopped --------------------------------------------------------------------------


@pytest.fixture()
def flags(tmp_path: Path) -> list[str]:
    put(tmp_path / "glue" / "RTE", "train.tsv", "dev.tsv")
    return [f"--data_dir={tmp_path}", "--init=x", f"--workdir={tmp_path / 'runs'}"]


def test_a_task_that_was_stopped_in_order_is_no_result(
    flags: list[str],
    command: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(own_command, "run_program", lambda *_: 0)
    assert command(reproduce, *flags) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/runs/rte: was stopped; run the same command again")


def test_asked_to_stop_it_asks_the_task_that_runs(
    flags: list[str], command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here that would wait for a minute."""
    monkeypatch.setattr(own_command, "_stopped", threading.Event())
    run = own_command.run_program

    def ask() -> None:
        while not own_command._running:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    def asked(*_: Any) -> int:
        threading.Thread(target=ask).start()
        return run(["sleep", "60"])

    monkeypatch.setattr(own_command, "run_program", asked)
    # A signal that nobody hears must end the test, not all of them.
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("SIGTERM is not heard"))
    try:
        assert command(reproduce, *flags) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
