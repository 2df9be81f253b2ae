"""launch/worker.sh and gpu.sh: a command that outlives its connection, is stopped, starts again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_room import TRICKY, Room

# Saves when it is asked to, as a training does, and says so by its exit status 0.
PATIENT = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""
STUBBORN = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready')\ntime.sleep(60)"


@pytest.fixture()
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    made.program("nvidia-smi", "#!/bin/sh\necho 'GPU 0: one'")
    yield made
    made.clear()


def state(room: Room, name: str = "run") -> str:
    """The word, without what the log says."""
    status, output = room.run("worker.sh", "state", name)
    assert status == 0
    return output.split()[3].removesuffix(":")


def log_of(room: Room, name: str = "run") -> Path:
    return room.checkout / "runs" / "launched" / name / "log"


def wait_for_text(room: Room, text: str) -> None:
    room.wait_for(log_of(room))
    deadline = time.monotonic() + 30
    while text not in log_of(room).read_text():
        assert time.monotonic() < deadline, log_of(room).read_text()
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("raise SystemExit(0)", "finished"),
        ("raise SystemExit(2)", "wrong"),
        ("raise SystemExit(127)", "wrong"),  # as of a program that there is not
        ("raise SystemExit(75)", "stopped"),
        ("raise SystemExit(1)", "crashed"),
        ("import os; os.kill(os.getpid(), 9)", "crashed"),
    ],
)
def test_exit_status_becomes_a_word(room: Room, code: str, word: str) -> None:
    room.run("worker.sh", "keep", "run", "python3", "-c", code)
    assert state(room) == word


def test_what_was_never_started_is_lost(room: Room) -> None:
    assert state(room) == "lost"


def test_kill_is_told(room: Room) -> None:
    room.run("worker.sh", "keep", "run", "python3", "-c", "import os; os.kill(os.getpid(), 9)")
    assert " crashed: killed by SIGKILL" in room.run("worker.sh", "state", "run")[1]


def test_started_command_outlives_its_shell_and_is_stopped(room: Room) -> None:
    assert room.run("worker.sh", "start", "run", "python3", "-c", PATIENT)[0] == 0
    wait_for_text(room, "ready\n")
    assert state(room) == "running"
    assert room.run("worker.sh", "stop", "run") == (0, "")
    assert "saved" in log_of(room).read_text()
    assert state(room) == "stopped", "exit status 0 after SIGTERM does not mean finished"


def test_command_that_does_not_stop_is_killed(room: Room) -> None:
    room.run("worker.sh", "start", "run", "python3", "-c", STUBBORN)
    wait_for_text(room, "ready\n")
    assert room.run("worker.sh", "stop", "run", 0)[0] == 0
    assert state(room) == "stopped"


def test_kill_of_all_its_processes_is_a_loss(room: Room) -> None:
    room.run("worker.sh", "start", "run", "python3", "-c", STUBBORN)
    wait_for_text(room, "ready\n")
    os.killpg(int((log_of(room).parent / "pid").read_text()), signal.SIGKILL)
    while state(room) == "running":
        time.sleep(0.01)
    assert state(room) == "lost"


def test_orphan_still_counts_as_running(room: Room) -> None:
    room.run("worker.sh", "start", "run", "python3", "-c", STUBBORN)
    wait_for_text(room, "ready\n")
    os.kill(int((log_of(room).parent / "pid").read_text()), signal.SIGKILL)
    assert state(room) == "running"


def test_same_command_is_not_started_twice_and_another_is_refused(room: Room) -> None:
    words = ["worker.sh", "start", "run", "python3", "-c", PATIENT]
    room.run(*words)
    assert room.run(*words) == (0, "run is running already\n")
    status, output = room.run("worker.sh", "start", "run", "true")
    assert status == 2 and output.startswith("error: run is running already")
    room.run("worker.sh", "start", "other", "true")
    assert state(room, "other") in ("running", "finished")


def test_log_ends_with_the_command(room: Room) -> None:
    room.run("worker.sh", "start", "run", "python3", "-c", "print('line')")
    status, output = room.run("worker.sh", "log", "run")
    assert status == 0
    assert output.splitlines()[-1] == "line" or "python3 -c" in output
    assert room.run("worker.sh", "log", "other")[0] == 2


def test_state_shows_the_last_line_also_of_a_progress_bar(room: Room) -> None:
    room.run("worker.sh", "keep", "run", "printf", r"10 %%\r20 %%\r30 %%")
    assert room.run("worker.sh", "state", "run")[1].endswith(" finished: 30 %\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_command_as_a_wish_to_stop(room: Room, number: int) -> None:
    process = room.start("worker.sh", "run", "python3", "-c", PATIENT)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert (process.returncode, output) == (75, "saved\n")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["begin"], "unknown argument 'begin'"),
        (["run"], "too little behind run"),
        (["start", "run"], "too little behind start"),
        (["state"], "too little behind state"),
    ],
)
def test_bad_line_is_refused(room: Room, arguments: list[str], part: str) -> None:
    status, output = room.run("worker.sh", *arguments)
    assert status == 2 and part in output and output.count("\n") == 1


def test_old_python_is_passed_over_for_one_that_uv_brings(room: Room) -> None:
    """As on Ubuntu 22.04, of which the TPU images are made."""
    good = (room.programs / "python3").read_text()
    brought = room.folder / "brought"
    brought.mkdir()
    for name in ("python3", "python3.12"):
        (brought / name).write_text(good)
        (brought / name).chmod(0o755)
    uv = room.folder / "uv"
    uv.write_text(f'#!/bin/sh\nif [ "$2" = find ]; then echo {brought}/python3.12; fi\n')
    uv.chmod(0o755)
    old = f"""#!/bin/bash
[[ $* == *"--target "*" uv" ]] || exit 1
mkdir -p "${{*: -2:1}}/bin"
cp {uv} "${{*: -2:1}}/bin/uv"
"""
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        room.program(name, old)
    status, output = room.run("worker.sh", "setup", "tpu")
    assert status == 0, output
    assert "uv brings 3.12" in output
    (line,) = room.lines("pip")
    assert line.endswith("-e .[tpu]")


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["tpu"], ".[tpu]"),
        (["gpu"], ".[gpu]"),
        ([], ".[gpu]"),
        (["wandb"], ".[gpu,wandb]"),
        (["tpu,wandb"], ".[tpu,wandb]"),
    ],
)
def test_setup_installs_the_extra(room: Room, words: list[str], extra: str) -> None:
    assert room.run("worker.sh", "setup", *words)[0] == 0
    (line,) = room.lines("pip")
    assert line.endswith(f"-e {extra}")


def test_setup_without_a_gpu_installs_no_extra(room: Room) -> None:
    room.program("nvidia-smi", "#!/bin/sh\nexit 9")
    assert room.run("worker.sh", "setup")[0] == 0
    assert room.lines("pip")[0].endswith("-e .")


def test_process_of_another_machine_is_left_alone(room: Room) -> None:
    """On a disk that several share, a pid means something on one of them only."""
    room.run("worker.sh", "start", "run", "python3", "-c", PATIENT)
    wait_for_text(room, "ready\n")
    host = log_of(room).parent / "host"
    here = host.read_text()
    host.write_text("node7\n")
    for word in ("stop", "end"):
        status, output = room.run("worker.sh", word, "run")
        assert (status, output) == (2, "error: run runs on node7; call it there\n")
    assert state(room) == "running"
    host.write_text(here)
    assert room.run("worker.sh", "stop", "run")[0] == 0
    assert state(room) == "stopped", "no mark that it was ended by hand"


def test_disk_without_locks_is_told(room: Room) -> None:
    room.run("worker.sh", "keep", "run", "true")
    room.program("flock", "#!/bin/sh\nexit 71")
    for words in (["state", "run"], ["start", "run", "true"]):
        status, output = room.run("worker.sh", *words)
        assert status == 2 and output.endswith("put the checkout on a file system with flock\n")


def test_state_tells_whether_it_is_another_command(room: Room) -> None:
    words = ["python3", "-c", PATIENT]
    room.run("worker.sh", "start", "run", *words)
    assert " running: " in room.run("worker.sh", "state", "run", *words)[1]
    assert " other: " in room.run("worker.sh", "state", "run", "true")[1]


@pytest.mark.parametrize(
    ("words", "looked"),
    [
        ([], ""),
        (["tpu", "python", "-m", "bertjax.prepare", "--input=x", "--output=y"], ""),
        (
            [*["tpu", "python", "-m", "bertjax.finetune", "--task=rte", "--init", "gs://b/x y"]]
            + ["--data_dir=d", "--columns", "a=b", "--train_examples=5", "--workdir=w"],
            " --init gs://b/x y --data_dir=d --workdir=w",
        ),
        (
            [*["cuda", "env", "A=b", "python", "-m", "bertjax.pretrain", "--config", "c.py:x y"]]
            + ["a.b=c", "--wandb=p", "--workdir=w", "--profile", "1:2", "d=e"],
            " --config c.py:x y a.b=c --workdir=w d=e",
        ),
        (["cuda", "python", "-m", "bertjax.pretrain", "a=b", "--workdir"], " a=b --workdir "),
    ],
)
def test_check_looks_at_what_a_training_reads_and_writes(
    room: Room, words: list[str], looked: str
) -> None:
    assert room.run("worker.sh", "check", *words)[0] == 0
    kind = words[0] if words else "cuda"  # where nvidia-smi finds a GPU
    platform = kind.replace("cuda", "gpu")
    assert room.lines("looked") == [f"-m bertjax.doctor --platform={platform}{looked}"]
    assert room.lines("checks") == [f"{room.checkout} {kind},cpu"]


# --- gpu.sh


def starts(room: Room) -> int:
    return log_of(room).read_text().count("\n== ") + 1


@pytest.mark.parametrize(
    ("code", "count", "status"),
    [("pass", 1, 0), ("raise SystemExit(2)", 1, 2), ("raise SystemExit(3)", 5, 1)],
)
def test_gpu_starts_again_after_a_crash_only(
    room: Room, code: str, count: int, status: int
) -> None:
    found, output = room.run("gpu.sh", "--", "python3", "-c", code)
    assert found == status, output
    assert starts(room) == count


def test_gpu_crashes_between_long_runs_are_not_in_a_row(room: Room) -> None:
    """Every second run is long; it is stopped, as by a preemption."""
    marks = room.folder / "marks"
    code = f"""
import time
file = open({str(marks)!r}, "a+")
file.write("x")
file.seek(0)
count = len(file.read())
if count % 2:
    raise SystemExit(1)
time.sleep(2)
raise SystemExit(75 * (count < 10))
"""
    words = ["gpu.sh", "--no_setup", "--", "python3", "-c", code]
    status, output = room.run(*words, BERTJAX_STEADY_SECONDS="2")
    assert status == 0, output
    assert len(marks.read_text()) == 10


def test_gpu_checks_before_it_runs(room: Room) -> None:
    assert room.run("gpu.sh", "--", "true")[0] == 0
    assert room.lines("pip")[0].endswith("-e .[gpu]")
    assert room.lines("checks") == [f"{room.checkout} cuda,cpu"]
    (room.folder / "check.status").write_text("2")
    assert room.run("gpu.sh", "--name=two", "--", "true")[0] == 2
    assert not log_of(room, "two").exists()
    assert len(room.lines("checks")) == 2, "what is refused is not tried again"


def test_gpu_dry_run_prints_every_call_and_makes_none(room: Room) -> None:
    room.program("nvidia-smi", "#!/bin/sh\nexit 9")
    before = {path.name for path in room.checkout.iterdir()}
    status, output = room.run("gpu.sh", "--dry_run", "--", "true", "--wandb=a b")
    assert status == 0
    assert output.splitlines() == [
        "nvidia-smi --list-gpus",
        "./launch/worker.sh setup gpu,wandb",
        "./launch/worker.sh check cuda true --wandb='a b'",
        "./launch/worker.sh start run true --wandb='a b'",
        "./launch/worker.sh state run",
    ]
    status, output = room.run("gpu.sh", "--no_setup", "--dry_run", "--", "true")
    assert status == 0 and " setup " not in output
    assert {path.name for path in room.checkout.iterdir()} == before
    assert not room.lines("pip") and not room.lines("checks")


def test_gpu_without_a_driver_says_so(room: Room) -> None:
    room.program("nvidia-smi", "#!/bin/sh\nexit 9")
    status, output = room.run("gpu.sh", "--", "true")
    assert status == 2
    assert "error: nvidia-smi finds no GPU" in output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "a command is missing behind --"),
        (["python", "-m", "x"], "a command is missing behind --"),
        (["--gpus=2", "--", "true"], "unknown option '--gpus=2'"),
        (["--name=../x", "--", "true"], "--name=../x: a name is of"),
        (["--name", "--", "true"], "--name needs a value"),
        (["python", "-m", "x", "--", "true"], "'python -m x' stands before --"),
    ],
)
def test_gpu_refuses_a_bad_line(room: Room, arguments: list[str], part: str) -> None:
    status, output = room.run("gpu.sh", *arguments)
    assert status == 2 and part in output and output.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_gpu_asked_to_stop_saves(room: Room, number: int) -> None:
    process = room.start("gpu.sh", "--no_setup", "--", "python3", "-c", PATIENT)
    wait_for_text(room, "ready\n")
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number, output
    assert state(room) == "stopped"
    assert starts(room) == 1


def test_gpu_leaves_alone_what_is_ended_by_hand(room: Room) -> None:
    words = ["gpu.sh", "--no_setup", "--", "python3", "-c", PATIENT]
    process = room.start(*words)
    wait_for_text(room, "ready\n")
    assert room.run("worker.sh", "end", "run")[0] == 0
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 3, output
    assert (state(room), starts(room)) == ("ended", 1)
    assert "saved" in log_of(room).read_text()
    assert room.run("worker.sh", "start", "run", "python3", "-c", STUBBORN)[0] == 0
    assert room.run("worker.sh", "stop", "run", 0)[0] == 0
    assert state(room) == "stopped", "the mark is of the run before"


def test_gpu_does_not_start_again_what_is_ended_between_two_tries(room: Room) -> None:
    words = ["gpu.sh", "--no_setup", "--", "python3", "-c", "raise SystemExit(1)"]
    process = room.start(*words, BERTJAX_POLL_SECONDS=3)
    assert process.stdout
    while "crash 1 of 5" not in process.stdout.readline():
        assert process.poll() is None
    assert room.run("worker.sh", "end", "run")[0] == 0
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 3, output
    assert (state(room), starts(room)) == ("ended", 1)


def test_gpu_finds_its_command_again(room: Room) -> None:
    go = room.folder / "go"
    code = (
        f"import os, time\nprint('ready')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    )
    first = room.start("gpu.sh", "--", "python3", "-c", code)
    wait_for_text(room, "ready\n")
    first.kill()
    first.communicate()
    second = room.start("gpu.sh", "--", "python3", "-c", code)
    assert second.stdout is not None
    assert any(" running: " in line for line in second.stdout)
    go.touch()
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    assert starts(room) == 1
    assert len(room.lines("checks")) == 1


def test_words_reach_the_command_as_they_are(room: Room) -> None:
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    room.run("worker.sh", "keep", "run", "python3", "-c", code, *TRICKY)
    assert json.loads(log_of(room).read_text().splitlines()[-1]) == TRICKY
