"""What a run shows beside its own log: a trace of some steps, metrics on Weights & Biases."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from bertjax import finetune, pretrain
from bertjax.models import flops
from bertjax.models.config import BertConfig
from bertjax.runs import run_folder
from bertjax.training import chips, run_log
from bertjax.training.profiler import Profiler

Command = Callable[..., int]


@pytest.fixture()
def wandb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in, which keeps in `seen` what its runs are given."""
    seen: dict[str, list[Any]] = {"init": [], "log": [], "finish": []}
    opened = types.SimpleNamespace(
        log=lambda metrics, step: seen["log"].append((step, metrics)),
        finish=lambda: seen["finish"].append(1),
    )
    module = types.ModuleType("wandb")
    away = type("CommError", (RuntimeError,), {})
    module.__dict__.update(
        seen=seen,
        init=lambda **given: seen["init"].append(given) or opened,
        Error=RuntimeError,
        errors=types.SimpleNamespace(
            CommError=away, AuthenticationError=type("AuthenticationError", (away,), {})
        ),
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def without_step(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step"}


def test_steps_are_traced_and_metrics_mirrored_also_when_a_run_goes_on(
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    tmp_path: Path,
    wandb: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen, away = wandb.seen, wandb.errors.CommError
    run = tmp_path / "run"
    flags = [f"--config={tiny_settings}", f"--workdir={run}", f"data.records={tiny_records}"]
    flags += ["train.steps=4", "log_every=1", "--wandb=encoders"]
    assert command(pretrain, *flags, "--profile=2:3") == 0
    assert len(list(run.glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert [step for step, _ in seen["log"]] == [1, 2, 3, 4]
    kept = [without_step(row) for row in run_log.read_metrics(run)]
    assert [metrics for _, metrics in seen["log"]] == kept
    assert seen["finish"] == [1]

    # A finished run started again is the same run there.
    assert command(pretrain, *flags) == 0
    first, again = seen["init"]
    assert first["project"] == "encoders" and first["config"]["settings"]["train"]["steps"] == 4
    assert first["id"].startswith("run-")
    assert (again["id"], again["resume"]) == (first["id"], "allow")

    def raises(kind: Any, said: str) -> Any:
        def init(**given: Any) -> None:
            raise kind(said)

        return init

    # A run does not end with a server that is away.
    wandb.__dict__["init"] = raises(away, "timed out")
    assert command(pretrain, *flags) == 0
    assert "--wandb=encoders: timed out; the run goes on without\n" in capsys.readouterr().out
    for kind in (RuntimeError, wandb.errors.AuthenticationError, away):
        wandb.__dict__["init"] = raises(kind, "No API key configured.\nAnd more.")
        assert command(pretrain, *flags) == 2
        told = capsys.readouterr().err.splitlines()
        assert told[-1].startswith(
            "error: --wandb=encoders: No API key configured; log in with `wandb login`"
        )


def test_what_is_missing_or_wrong_is_told_before_the_run_begins(
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    flags = [f"--config={tiny_settings}", f"--workdir={run}", f"data.records={tiny_records}"]
    assert command(pretrain, *flags, "--profile=3:2") == 2
    assert "--profile=3:2: give the first and the last step" in capsys.readouterr().err
    assert command(pretrain, *flags, "--profile=13:14") == 2
    assert "--profile=13:14: the run has 12 steps" in capsys.readouterr().err
    # A run that goes on, after a preemption say, does so with the flags that it began with.
    profiler = Profiler(steps=(3, 5))
    profiler.tell(4)
    assert not capsys.readouterr().out
    profiler.tell(5)
    told = "--profile=3:5: nothing to trace, the run is at step 5\n"
    assert capsys.readouterr().out == told
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert command(pretrain, *flags, "--wandb=encoders") == 2
    assert "pip install 'bertjax[wandb]'" in capsys.readouterr().err
    assert not run.exists()


@pytest.fixture()
def tuning(tiny_run: Path, tmp_path: Path) -> list[str]:
    """Flags of a fine-tuning of two steps."""
    table = tmp_path / "rows.tsv"
    table.write_text("sentence\tlabel\n" + "the river\twater\na garden\tland\n" * 8)
    flags = ["--task=classify", f"--train={table}", f"--dev={table}", f"--init={tiny_run}"]
    return [*flags, "--batch_size=8", "--max_seq_length=16", "--epochs=1"]


def test_a_fine_tuning_is_traced_and_mirrored_run_by_run(
    command: Command,
    tuning: list[str],
    tmp_path: Path,
    wandb: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, many, seen = tmp_path / "one", tmp_path / "many", wandb.seen
    flags = [*tuning, f"--workdir={one}", "--wandb=heads"]
    assert command(finetune, *flags, "--profile=2:2") == 0
    assert len(list(one.glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert [m for _, m in seen["log"]] == [without_step(r) for r in run_log.read_metrics(one)]
    assert "dev_accuracy" in seen["log"][-1][1] and seen["finish"] == [1]
    assert command(finetune, *flags, "--profile=2:2") == 0
    assert "--profile=2:2: nothing to trace, the run is at step 2\n" in capsys.readouterr().out
    assert command(finetune, *tuning, f"--workdir={many}", "--wandb=heads", "--seeds=2") == 0
    runs = [(given["project"], given["name"].rpartition("-")[2]) for given in seen["init"]]
    assert runs == [("heads", "one"), ("heads", "seed0"), ("heads", "seed1")]
    assert seen["init"][0]["config"]["task"] == "classify"


def test_what_of_a_fine_tuning_cannot_be_watched_is_told_before_it_begins(
    command: Command,
    tuning: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def told(*more: str) -> str:
        assert command(finetune, *tuning, f"--workdir={tmp_path / 'run'}", *more) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert "--profile=3:2: give the first and the last step" in told("--profile=3:2")
    assert "--profile=3:4: the run has 2 steps" in told("--profile=3:4")
    for many in ("--seeds=2", "--sweep", "--layers=all", "--extra_train=rows.tsv"):
        assert "--profile: traces one training; leave it out, or" in told("--profile=1:2", many)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install 'bertjax[wandb]'" in told("--wandb=heads")


def operations(line: dict[str, float], peak: float) -> float:
    """Of a step, as its line tells them by the share of peak."""
    return line["mfu"] * peak * jax.device_count() * line["seconds_per_step"]


def test_share_of_peak_is_that_of_the_models_operations(
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chips, "peak", lambda device: 1e12)
    run, tuned, table = tmp_path / "run", tmp_path / "tuned", tmp_path / "rows.tsv"
    flags = [f"--config={tiny_settings}", f"--workdir={run}", f"data.records={tiny_records}"]
    assert command(pretrain, *flags, "train.steps=2", "log_every=1") == 0
    encoder = BertConfig(**run_folder.load_config(run)["model"])
    one = flops.pretraining_step(encoder, rows=16, length=32, predictions=5)
    for line in run_log.read_metrics(run):
        assert operations(line, 1e12) == pytest.approx(one)

    table.write_text("sentence\tlabel\n" + "the river\twater\na garden\tland\n" * 8)
    flags = ["--task=classify", f"--train={table}", f"--dev={table}", f"--init={run}"]
    flags += ["--batch_size=16", "--max_seq_length=16", "--epochs=1", f"--workdir={tuned}"]
    assert command(finetune, *flags) == 0
    trained = [line for line in run_log.read_metrics(tuned) if "loss" in line]
    assert len(trained) == 1
    # Two words between [CLS] and [SEP].
    assert operations(trained[0], 1e12) == pytest.approx(3 * flops.encoder(encoder, 16, 4))
