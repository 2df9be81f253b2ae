"""launch/hosts.sh and slurm.sh with stand-ins for ssh, sbatch and srun: many processes, one run."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_room import TRICKY, Room, waits_the_first_time

HOSTS = ["one", "me@two", "three"]
TELL = """
import json, os
names = ("BERTJAX_COORDINATOR", "BERTJAX_NUM_PROCESSES", "BERTJAX_PROCESS_ID")
print(json.dumps([os.environ[name] for name in names]))
"""


@pytest.fixture()
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    for name in ("ssh", "sbatch", "srun", "scancel", "squeue", "scontrol"):
        made.stand_in(name)
    for name in ("one", "two", "three"):
        (tmp_path / "machines" / name).mkdir(parents=True)
    yield made
    made.clear()


def log_of(room: Room, process: int) -> str:
    host = HOSTS[process].rpartition("@")[2]
    path = room.folder / "machines" / host / f"bertjax/runs/launched/run-{process}/log"
    return path.read_text() if path.exists() else ""


def test_every_process_is_told_of_the_others(room: Room) -> None:
    status, output = room.run("hosts.sh", *HOSTS, "--port=99", "--", "python", "-c", TELL)
    assert status == 0, output
    for process in range(3):
        told = json.loads(log_of(room, process).splitlines()[-1])
        assert told == ["one:99", "3", str(process)]


def test_setup_reaches_a_host_once_however_often_it_is_named(room: Room) -> None:
    assert room.run("hosts.sh", "one", "one", "two", "--", "true")[0] == 0
    assert len(room.lines("pip")) == 2
    assert len(room.lines("checks")) == 3, "every process looks, at the same time"
    assert (room.folder / "machines/one/bertjax/runs/launched/run-1/log").exists()


def test_no_setup_leaves_the_hosts_as_they_are(room: Room) -> None:
    assert room.run("hosts.sh", *HOSTS, "--", "true")[0] == 0
    (room.folder / "pip").unlink()
    assert room.run("hosts.sh", *HOSTS, "--no_setup", "--", "true")[0] == 0
    assert not (room.folder / "pip").exists()


def test_words_survive_ssh(room: Room) -> None:
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    assert room.run("hosts.sh", "one", "--", "python", "-c", code, *TRICKY)[0] == 0
    assert json.loads(log_of(room, 0).splitlines()[-1]) == TRICKY


def test_one_that_dies_stops_the_others_and_all_start_again(room: Room) -> None:
    """The second process dies the first time; the others would wait for it for ever."""
    once = room.folder / "once"
    code = f"""
import os, pathlib, time
once = pathlib.Path({str(once)!r})
if not once.exists():
    if os.environ["BERTJAX_PROCESS_ID"] == "1":
        once.touch()
        os.kill(os.getpid(), 9)
    time.sleep(60)
"""
    status, output = room.run("hosts.sh", *HOSTS, "--", "python", "-c", code)
    assert status == 0, output
    assert [log_of(room, process).count("== 2") for process in range(3)] == [2, 2, 2]
    assert "crash 1 of 5" in output


@pytest.mark.parametrize(("code", "count", "status"), [("2", 1, 2), ("1", 5, 1)])
def test_refusal_ends_it_and_so_do_five_crashes(
    room: Room, code: str, count: int, status: int
) -> None:
    words = ["python", "-c", f"raise SystemExit({code})"]
    found, output = room.run("hosts.sh", "one", "me@two", "--", *words)
    assert found == status, output
    assert log_of(room, 0).count("== 2") == count


def test_mark_of_an_earlier_run_does_not_end_one_that_was_not_reached(room: Room) -> None:
    words = ["hosts.sh", "one", "me@two", "--", "python", "-c", "print('on')"]
    assert room.run(*words)[0] == 0
    for marked in room.folder.glob("machines/*/bertjax/runs/launched/*"):
        (marked / "ended").touch()
        (marked / "status").write_text("75")
    room.rule("worker.sh start run-1", exit=255)
    status, output = room.run(*words)
    assert status == 0, output
    assert log_of(room, 1).count("== 2") == 2


def test_lost_connection_is_no_crash(room: Room) -> None:
    go = room.folder / "go"
    code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    room.rule("worker.sh state run-1", after=1, times=4, exit=255)
    process = room.start("hosts.sh", "one", "me@two", "--", "python", "-c", code)
    while len(room.calls()) < 24:
        assert process.poll() is None
    go.touch()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert log_of(room, 1).count("== 2") == 1


@pytest.mark.parametrize(
    ("silent", "after", "times"), [("worker.sh state run-1", 1, 8), ("worker.sh state", 2, 12)]
)
def test_one_host_or_all_that_are_gone_are_waited_for(
    room: Room, silent: str, after: int, times: int
) -> None:
    room.rule(silent, after=after, times=times, exit=255)
    command = waits_the_first_time(room.folder / "marks")
    status, output = room.run("hosts.sh", "one", "me@two", "--", *command)
    assert status == 0, output
    assert "waiting until all hosts can be reached" in output


def waits_for(path: Path) -> list[str]:
    """A command that ends when there is a file."""
    code = f"import os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)"
    return ["python", "-c", code]


def wait_for_runs(room: Room, *hosts: str) -> None:
    for number, name in enumerate(hosts):
        room.wait_for(room.folder / f"machines/{name}/bertjax/runs/launched/run-{number}/log")


def stops(room: Room) -> int:
    return sum("worker.sh stop" in call[-1] for call in room.calls())


@pytest.mark.parametrize(("silent", "status"), [(1, 0), (99, 1)])
def test_what_runs_unseen_is_left_alone(room: Room, silent: int, status: int) -> None:
    """The line again, and one host does not answer at first, or not at all."""
    go = room.folder / "go"
    words = ["hosts.sh", "one", "me@two", "--", *waits_for(go)]
    first = room.start(*words)
    wait_for_runs(room, "one", "two")
    first.kill()
    first.communicate()
    before = stops(room)
    room.rule("worker.sh state run-1", times=silent, exit=255, says="No route to host")
    second = room.start(*words)
    assert second.stdout is not None
    lines = iter(second.stdout.readline, "")
    assert any("No route to host" in line for line in lines)
    if not status:
        asked = {f"run-{number} is running already\n" for number in range(2)}
        while asked:
            asked.discard(next(lines, ""))
            assert second.poll() is None
        go.touch()
    output, _ = second.communicate(timeout=300)
    assert second.returncode == status, output
    assert ("nothing is started or stopped" in output) == bool(status)
    assert stops(room) == before, output
    assert [log_of(room, process).count("== 2") for process in range(2)] == [1, 1]
    go.touch()


def test_another_command_of_the_same_name_is_left_alone(room: Room) -> None:
    go = room.folder / "go"
    first = room.start("hosts.sh", "one", "me@two", "--", *waits_for(go))
    wait_for_runs(room, "one", "two")
    status, output = room.run("hosts.sh", "one", "three", "--", "true")
    assert status == 2
    assert output.endswith("error: another command runs as run; end it, or choose another name\n")
    assert not (room.folder / "machines/three/bertjax").exists()
    go.touch()
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output


def test_all_processes_look_at_the_data_together(room: Room) -> None:
    words = ["python", "-m", "bertjax.pretrain", "--config=c.py", "data.records=r"]
    words += ["--workdir", "w", "--profile", "1:2"]
    (room.folder / "check.status").write_text("2")
    assert room.run("hosts.sh", "one", "me@two", "--", *words)[0] == 2
    looked = "-m bertjax.doctor --config=c.py data.records=r --workdir w"
    assert room.lines("looked") == [looked] * 2
    checks = [call[-1] for call in room.calls() if "worker.sh check" in call[-1]]
    told = [line.split()[2:4] for line in sorted(checks)]
    settings = ["BERTJAX_NUM_PROCESSES=2", "BERTJAX_PROCESS_ID="]
    assert told == [[settings[0], f"{settings[1]}{number}"] for number in range(2)]


def test_asked_to_stop_it_stops_all(room: Room) -> None:
    process = room.start("hosts.sh", *HOSTS, "--", "sleep", "60")
    for name, number in (("one", 0), ("two", 1), ("three", 2)):
        room.wait_for(room.folder / f"machines/{name}/bertjax/runs/launched/run-{number}/log")
    room.rule("worker.sh stop run-2", exit=255)  # The status tells of the wish all the same.
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 143, output
    for name, number in (("one", 0), ("two", 1)):
        status = room.folder / f"machines/{name}/bertjax/runs/launched/run-{number}/status"
        assert status.read_text() == "75\n"


def test_hosts_dry_run_prints_and_calls_nothing(room: Room) -> None:
    words = ["--ssh_flag=-p2222", "--coordinator=head", "--dry_run", "--", "true", "a b"]
    status, output = room.run("hosts.sh", "one", "me@two", *words)
    assert status == 0 and not room.calls()
    calls = [shlex.split(line) for line in output.splitlines()]
    assert all(call[0] == "ssh" and "-p2222" in call for call in calls)
    assert len(calls) == 2 * 5
    started = [call[-1] for call in calls if " start run-" in call[-1]]
    assert all("BERTJAX_COORDINATOR=head:12421" in line for line in started)
    assert shlex.split(started[1])[-2:] == ["true", "a b"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("-- true", "no host is named"),
        ("one", "a command is missing behind --"),
        ("one --port=0 -- true", "--port=0 is not a whole number from 1"),
        ("one --ports=1 -- true", "unknown option '--ports=1'"),
        ("one --coordinator='a b' -- true", "--coordinator=a b is no host name"),
        ("one --port=70000 -- true", "--port=70000: ports go to 65535"),
        ("-x one -- true", "a host cannot be called -x"),
        ("one -x -- true", "a host cannot be called -x"),
    ],
)
def test_hosts_refuses_a_bad_line(room: Room, arguments: str, part: str) -> None:
    status, output = room.run("hosts.sh", *shlex.split(arguments))
    assert status == 2 and part in output and output.count("\n") == 1
    assert not room.calls()


# --- slurm.sh


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        ([], 1),
        (["--nodes=2"], 1),
        (["--gpus-per-node=8"], 8),
        (["--gpus-per-node", "4"], 4),
        (["--gpus-per-node=h100:2"], 2),
        (["--gres=gpu:8"], 8),
        (["--gres", "lustre:1,gpu:a100:4,shard:9"], 4),
        (["--gres=gpu"], 1),
        (["--gres=lustre:3"], 1),
    ],
)
def test_one_task_a_gpu(room: Room, options: list[str], tasks: int) -> None:
    assert room.run("slurm.sh", *options, "--", "python", "-m", "x", "a b")[0] == 0
    (call,) = room.calls("sbatch")
    wanted = {f"--ntasks-per-node={tasks}", "--requeue", "--signal=B:TERM@120", *options}
    assert wanted <= set(call)
    line = shlex.split(call[-1].removeprefix("--wrap="))
    assert line == ["exec", f"{room.checkout}/launch/slurm.sh", "job", "python", "-m", "x", "a b"]


@pytest.mark.parametrize(
    "options",
    [["--gpus=8"], ["-G", "8"], ["-G8"], ["--gpus-per-task=1"], ["--gpus-per-node=many"]],
)
def test_gpus_of_which_a_node_has_an_unknown_number_are_refused(
    room: Room, options: list[str]
) -> None:
    status, output = room.run("slurm.sh", *options, "--", "true")
    assert status == 2 and output.startswith("error: ") and output.count("\n") == 1
    assert "say --gpus-per-node=N" in output and not room.calls()


def test_slurm_dry_run_and_bad_lines(room: Room) -> None:
    status, output = room.run("slurm.sh", "--nodes=2", "--dry_run", "--", "true")
    assert status == 0 and output.startswith("sbatch --job-name=bertjax")
    status, output = room.run("slurm.sh", "--nodes=2", "true")
    assert status == 2 and "a command is missing behind --" in output
    for name in ("dirname", "readlink", "bash"):
        (room.programs / name).symlink_to(f"/usr/bin/{name}")
    (room.programs / "sbatch").unlink()
    status, output = room.run("slurm.sh", "--", "true", PATH=room.programs)
    assert status == 2 and "sbatch is not installed" in output
    assert not room.calls()


JOB = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("code", "status", "again"),
    [
        ("pass", 0, False),
        ("raise SystemExit(2)", 2, False),
        ("raise SystemExit(1)", 0, True),
        ("import os; raise SystemExit(int(os.environ['SLURM_PROCID']))", 0, True),
    ],
)
def test_job_is_queued_again_after_a_crash(room: Room, code: str, status: int, again: bool) -> None:
    found, output = room.run("slurm.sh", "job", "python3", "-c", code, **JOB)
    assert found == status, output
    assert room.calls("scontrol") == [["scontrol", "requeue", "77"]] * again


def test_job_that_crashes_five_times_is_given_up(room: Room) -> None:
    words = ["slurm.sh", "job", "python3", "-c", "raise SystemExit(1)"]
    assert [room.run(*words, **JOB)[0] for _ in range(5)] == [0, 0, 0, 0, 1]
    assert len(room.calls("scontrol")) == 4


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_time_limit_saves_and_queues_again_but_not_what_is_cancelled(
    room: Room, state: str
) -> None:
    """SLURM sends SIGTERM to the batch shell; the tasks save, exit with 0, and are not finished."""
    (room.folder / "job").write_text(f'"{state}"')
    code = "import signal, time; signal.signal(15, lambda *_: exit(0)); print(1); time.sleep(60)"
    process = room.start("slurm.sh", "job", "python3", "-c", code, **JOB)
    logs = [room.checkout / f"runs/launched/77-{task}/log" for task in (0, 1)]
    while not all(log.exists() and log.read_text().endswith("\n1\n") for log in logs):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == (state != "RUNNING"), output
    assert room.calls("scancel") == [["scancel", "--signal=TERM", "77"]]
    assert room.calls("scontrol") == [["scontrol", "requeue", "77"]] * (state == "RUNNING")
    assert output.count(" stopped: ") == 2


def test_job_looks_before_it_runs(room: Room) -> None:
    (room.checkout / "runs" / "launched").mkdir(parents=True)  # as when it was submitted
    words = ["python3", "-m", "bertjax.pretrain", "--config=c", "--workdir=w", "a=b"]
    for status, found, again in (("2", 2, 0), ("1", 0, 1)):
        (room.folder / "check.status").write_text(status)
        assert room.run("slurm.sh", "job", *words, **JOB)[0] == found
        assert len(room.calls("scontrol")) == again
    assert len(room.calls("srun")) == 2, "what cannot run is not started"
    assert room.lines("looked") == ["-m bertjax.doctor --config=c --workdir=w a=b"] * 4


def test_tasks_get_the_cores_that_are_asked_for(room: Room) -> None:
    """Since SLURM 22.05 srun does not take the number from sbatch."""
    code = "import os; raise SystemExit(2 * (os.environ.get('SRUN_CPUS_PER_TASK') != '12'))"
    words = ["slurm.sh", "job", "python3", "-c", code]
    assert room.run(*words, **JOB, SLURM_CPUS_PER_TASK="12")[0] == 0


def test_job_that_runs_long_between_crashes_goes_on(room: Room) -> None:
    words = ["slurm.sh", "job", "python3", "-c", "raise SystemExit(1)"]
    found = [room.run(*words, **JOB, BERTJAX_STEADY_SECONDS="0")[0] for _ in range(6)]
    assert found == [0] * 6
