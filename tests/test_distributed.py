"""Several real processes train and fine-tune as one, stop as one, and tell when one is killed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import pytest

from bertjax import distributed, finetune, pretrain
from bertjax.data.records import Records
from bertjax.training import run_log

Command = Callable[..., int]
LOSSES = ("loss", "gradient_norm", "eval_masked_lm_loss", "eval_next_sentence_loss")

# Compiled quickly.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

# Pretrains. ACT=PROCESS:STEP:SIGNAL is sent to one process by itself. Every process
# writes down which of the held-out records it reads.
CHILD = """
import atexit, os, signal, sys, time
from pathlib import Path
from bertjax import distributed, pretrain
from bertjax.training import run_log
from bertjax.data.records import Records

number = os.environ["BERTJAX_PROCESS_ID"]
atexit.register(Path(f"late-{number}").touch)
actor, step, kind = os.environ["ACT"].split(":")
keep, get = run_log.RunLog.keep, Records.get

def kept(self, at, metrics):
    keep(self, at, metrics)
    # News of a signal is a second or two under way.
    time.sleep(3 if number == actor and at >= int(step) else 0.1)
    if (number, str(at)) == (actor, step) and "loss" in metrics:
        before = pretrain.parse_arguments().workdir / "checkpoints" / str(at - 1)
        while not before.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), getattr(signal, kind))

def got(self, index):
    if self.folder.name == "held":
        with open(f"reads-{number}", "a") as file:
            file.write(f"{index}\\n")
    return get(self, index)

run_log.RunLog.keep, Records.get = kept, got
sys.exit(distributed.run(pretrain.main))
"""


class Together:
    """Starts the same command in some processes with some devices each."""

    def __init__(
        self,
        folder: Path,
        processes: int,
        devices: int,
        act: str,
        *flags: str,
        program: Sequence[str] = ("-c", CHILD),
    ) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        settings = {
            "ACT": act,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {_QUICK}",
            distributed.COORDINATOR: address,
            distributed.NUM_PROCESSES: str(processes),
        }
        self.children = []
        for number in range(processes):
            mine = settings | {distributed.PROCESS_ID: str(number)}
            with (
                open(folder / f"out-{number}", "w") as out,
                open(folder / f"err-{number}", "w") as err,
            ):
                self.children.append(
                    subprocess.Popen(
                        [sys.executable, *program, *flags],
                        stdout=out,
                        stderr=err,
                        cwd=folder,
                        env=os.environ | mine,
                    )
                )

    def statuses(self) -> list[int]:
        """Waits for the end of all."""
        try:
            return [child.wait(timeout=240) for child in self.children]
        finally:
            for child in self.children:
                child.kill()

    def text(self, kind: str, number: int) -> str:
        return (self.folder / f"{kind}-{number}").read_text()

    def reads(self, number: int) -> list[int]:
        return [int(line) for line in self.text("reads", number).split()]


def losses(run: Path) -> dict[tuple[int, str], float]:
    return {
        (int(line["step"]), name): line[name]
        for line in run_log.read_metrics(run)
        for name in LOSSES
        if name in line
    }


def said(output: str) -> list[str]:
    """Lines without those of the library that joins the processes."""
    return [line for line in output.splitlines() if not line.startswith("[Gloo]")]


def test_two_then_four_processes_then_one_train_as_one_does(
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = shutil.copytree(tiny_records, tmp_path / "held")
    flags = [f"--config={tiny_settings}", f"data.records={tiny_records}"]
    flags += [f"data.eval_records={held}", "train.steps=8", "train.batch_size=48"]
    flags += ["eval_every=2", "save_every=1"]
    assert command(pretrain, *flags, f"--workdir={tmp_path / 'alone'}") == 0
    number, run = len(Records(held)), tmp_path / "together"
    flags.append(f"--workdir={run}")

    # Two processes; one gets SIGTERM, both save the same step and leave with 0.
    two = Together(tmp_path / "two", 2, 2, "1:3:SIGTERM", *flags)
    assert two.statuses() == [0, 0], two.text("err", 0) + two.text("err", 1)
    last = run_log.read_metrics(run)[-1]["step"]
    assert 3 <= last < 6
    assert f"stopped at step {last}" in two.text("out", 0)
    assert str(last) in os.listdir(run / "checkpoints")
    assert said(two.text("out", 1)) == [], "one process prints for all"
    assert not list(two.folder.glob("late-*")), "Python's own end takes seconds"
    # Each read its half of the held-out records; rows that fill the last batch are copies of 0.
    first, second = set(two.reads(0)), set(two.reads(1))
    assert first | second == set(range(number))
    assert first & second <= {0}

    # Four, on a mesh whose tensor axis spans two of them; one is killed.
    began = time.monotonic()
    mesh = ["mesh.data=1", "mesh.fsdp=2", "mesh.tensor=4"]
    four = Together(tmp_path / "four", 4, 2, f"2:{last + 2}:SIGKILL", *flags, *mesh)
    assert four.statuses() == [1, 1, -signal.SIGKILL, 1], four.text("err", 0)
    assert f"continuing at step {last}" in four.text("out", 0)
    for survivor in (0, 1, 3):
        line = four.text("err", survivor).splitlines()[-1]
        assert line.startswith("error: a process of this run has ended"), line
    stopped = (tmp_path / "four" / "out-0").stat().st_mtime
    assert time.monotonic() - began < 180 and time.time() - stopped < 60
    # Those whose devices differ along the tensor axis hold the same rows.
    shares = [set(four.reads(child)) for child in range(4)]
    assert shares[0] == shares[1] and shares[2] <= shares[3]
    assert shares[0] | shares[3] == set(range(number))
    assert shares[0] & shares[3] <= {0}

    # Two again; the first one, which all meet at, is killed.
    again = Together(tmp_path / "again", 2, 2, f"0:{last + 3}:SIGKILL", *flags)
    assert again.statuses() == [-signal.SIGKILL, 1], again.text("err", 1)
    line = again.text("err", 1).splitlines()[-1]
    assert line.startswith("error: a process of this run has ended"), line

    # And one process, which goes on from the last checkpoint that they have written.
    assert command(pretrain, *flags) == 0
    assert f"continuing at step {last + 2}" in capsys.readouterr().out
    found, wanted = losses(run), losses(tmp_path / "alone")
    assert found.keys() == wanted.keys() and len(wanted) == 8 * 2 + 4 * 2
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        (
            {distributed.PROCESS_ID: "0"},
            "BERTJAX_COORDINATOR is not set, but BERTJAX_PROCESS_ID is",
        ),
        (dict(zip(distributed.VARIABLES, ("h:1", "2", "2"), strict=True)), "numbered from 0 on"),
        (dict(zip(distributed.VARIABLES, ("h", "2", "1"), strict=True)), "give the first host as"),
    ],
)
def test_variables_that_make_no_sense_are_refused(
    variables: dict[str, str],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.run(lambda: pytest.fail("was run")) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("platform", "number", "count", "status", "part"),
    [
        ("cuda", 0, 1, 2, "error: JAX finds no devices: "),
        ("cpu", 1, 2, 1, "error: a process of this run has ended or cannot be reached"),
    ],
)
def test_what_is_missing_when_processes_meet_is_one_line(
    platform: str, number: int, count: int, status: int, part: str
) -> None:
    code = "import sys; from bertjax import distributed; distributed._JOIN_SECONDS = 2; "
    code += "sys.exit(distributed.run(lambda: print('ran')))"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    given = dict(zip(distributed.VARIABLES, (place, str(count), str(number)), strict=True))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | given | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr and "ran" not in done.stdout
    line = done.stderr.splitlines()[-1]
    assert line.startswith(part)


@pytest.mark.parametrize(
    ("variables", "alone"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2"}, True),
        ({"SLURM_NTASKS": "16", "SLURM_STEP_NUM_NODES": "2"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, False),
        # mpirun within a job of one task.
        (
            {"OMPI_COMM_WORLD_LOCAL_SIZE": "8", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_NODES": "1"},
            False,
        ),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2", "JAX_LOCAL_DEVICE_IDS": "0"}, False),
    ],
)
def test_the_only_process_of_a_host_takes_all_of_its_gpus(
    variables: dict[str, str], alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked: list[object] = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda **given: asked.append(given.get("local_device_ids"))
    )
    distributed.join()
    assert asked == [[] if alone else None]


def test_jax_restricts_no_gpus_where_none_are_named() -> None:
    """As the one task of a node; by itself JAX would choose the GPU of the task's number."""
    code = "import jax; from jax._src import xla_bridge; from bertjax import distributed; "
    code += "distributed.join(); print(jax.process_count(), xla_bridge.CUDA_VISIBLE_DEVICES.value)"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    task = {"JOB_ID": "7", "STEP_NODELIST": "127.0.0.1", "NTASKS": "1", "PROCID": "0"}
    task |= {"LOCALID": "0", "STEP_NUM_NODES": "1"}
    slurm = {f"SLURM_{name}": value for name, value in task.items()}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | slurm | {"JAX_COORDINATOR_PORT": port},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["1", "all"], done.stderr


def test_finetuning_in_two_processes_finds_and_writes_what_one_does(
    command: Command, tiny_run: Path, tmp_path: Path
) -> None:
    for split, rows in (("train", 40), ("dev", 21)):
        lines = [f"the {'river' if i % 2 else 'garden'} {i}\t{i % 2}" for i in range(rows)]
        text = "\n".join(["sentence\tlabel", *lines, ""])
        (tmp_path / f"{split}.tsv").write_text(text, encoding="utf-8")
    flags = ["--task=classify", f"--data_dir={tmp_path}", f"--init={tiny_run}", "--seeds=2"]
    flags += ["--batch_size=16", "--max_seq_length=16", "--epochs=2", "--learning_rate=1e-3"]
    assert command(finetune, *flags, f"--workdir={tmp_path / 'alone'}") == 0
    run = tmp_path / "together"
    two = Together(
        tmp_path / "two", 2, 2, "", *flags, f"--workdir={run}", program=("-m", "bertjax.finetune")
    )
    assert two.statuses() == [0, 0], two.text("err", 0) + two.text("err", 1)
    assert said(two.text("out", 1)) == [], "one process prints for all"
    found, wanted = (json.loads((f / "sweep.json").read_text()) for f in (run, tmp_path / "alone"))
    assert found["best"] == wanted["best"] and found["rows"] == wanted["rows"]
    for name in wanted["runs"]:
        ours, theirs = (confidences(folder / name) for folder in (run, tmp_path / "alone"))
        assert len(ours) == 21 and ours == pytest.approx(theirs, abs=1e-4)
    # Only the best run keeps its weights, which one process reads.
    assert [folder.parent.name for folder in run.glob("*/checkpoints")] == [found["best"]]
    assert command(finetune, *flags, f"--workdir={run}") == 0


def confidences(run: Path) -> list[float]:
    with open(run / "predictions-dev.tsv", encoding="utf-8", newline="") as file:
        return [float(row["confidence"]) for row in csv.DictReader(file, delimiter="\t")]


def test_ranks_that_jax_cannot_join_do_not_train_apart() -> None:
    """Open MPI 5 sets no variable by which JAX would find the first process."""
    gone = ("OMPI_MCA_orte_hnp_uri", "BERTJAX_COORDINATOR")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    done = subprocess.run(
        [sys.executable, "-m", "bertjax.doctor"],
        env=kept | {"OMPI_COMM_WORLD_SIZE": "8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Open MPI has started 8 processes, and JAX cannot tell")
    assert done.stderr.count("\n") == 1
