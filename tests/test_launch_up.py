"""launch/tpu.sh up against a stand-in gcloud: from nothing to the end, through what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine_room import TRICKY, Room, waits_the_first_time

TYPE = "--accelerator=v5e-16"
# What up asks for, looks at states left out.
UP = ["create", "scp", "setup", "check", "start"]


@pytest.fixture()
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    made.stand_in("gcloud")
    yield made
    made.clear()


@pytest.fixture()
def two_workers(room: Room) -> Room:
    room.workers = 2
    return room


@pytest.mark.parametrize("slices", [1, 2])
def test_up_runs_the_command_on_every_worker_and_deletes(two_workers: Room, slices: int) -> None:
    said = two_workers.folder / "said"
    said.mkdir()
    code = "import os, sys; name = os.path.basename(os.path.expanduser('~'))\n"
    code += f"open(os.path.join({str(said)!r}, name), 'w').write(repr(sys.argv[1:]))"
    words = ["up", "bert", TYPE, f"--slices={slices}", "--", "python", "-c", code, *TRICKY]
    status, output = two_workers.run("tpu.sh", *words)
    assert (status, two_workers.verbs()) == (0, [*UP, "delete"]), output
    found = {path.name: path.read_text() for path in said.iterdir()}
    nodes = ["bert"] if slices == 1 else ["bert-0", "bert-1"]
    assert set(found) == {f"{node}-w-{worker}" for node in nodes for worker in (0, 1)}
    assert set(found.values()) == {repr(TRICKY)}
    assert "bert has finished" in output


def test_up_looks_at_what_a_fine_tuning_reads_and_writes(two_workers: Room) -> None:
    flags = ["--init=gs://b/base", "--data_dir=gs://b/glue", "--workdir=gs://b/rte"]
    words = ["up", "bert", TYPE, "--", "python", "-m", "bertjax.finetune", "--task=rte", *flags]
    (two_workers.folder / "check.status").write_text("2")
    assert two_workers.run("tpu.sh", *words)[0] == 2
    looked = " ".join(["-m bertjax.doctor --platform=tpu", *flags])
    assert two_workers.lines("looked") == [looked] * 2
    assert not any("worker.sh start" in " ".join(call) for call in two_workers.calls())


# While the machines are set up, at the start, and later.
@pytest.mark.parametrize(
    ("moment", "after", "state"),
    [
        ("scp", 0, "SUSPENDED"),
        ("worker.sh setup", 0, "SUSPENDED"),
        ("check", 0, "FAILED"),
        ("worker.sh start", 0, "SUSPENDING SUSPENDED"),
        ("worker.sh start", 0, "SUSPENDED"),
        ("worker.sh state", 2, "SUSPENDED"),
        ("worker.sh state", 1, "FAILED"),
    ],
)
def test_preemption_leads_to_new_machines_and_the_same_command(
    room: Room, moment: str, after: int, state: str
) -> None:
    marks = room.folder / "marks"
    lost = moment == "worker.sh state"
    command = waits_the_first_time(marks, seconds=60 * lost)
    begun = {"awaits": str(marks)} if lost else {}
    room.rule(moment, after=after, preempt=state, exit=255, **begun)
    status, output = room.run("tpu.sh", "up", "bert", TYPE, "--spot", "--", *command, "a b")
    assert status == 0, output
    done = room.verbs()
    assert done[-len(UP) - 2 :] == ["delete", *UP, "delete"]
    creations = room.calls("create")
    assert len(creations) == 2 and creations[0] == creations[1]
    starts = {tuple(call) for call in room.calls() if "worker.sh start" in " ".join(call)}
    assert len(starts) == 1
    assert len(marks.read_text()) == 1 + lost
    first = room.calls()[: room.calls().index(room.calls("delete")[0])]
    looks = sum("worker.sh state" in " ".join(call) for call in first)
    assert looks == (after + 1) * lost, "what is known to be gone is not waited for"
    assert ("bert: SUSPENDED\n" in output) == (state.split()[-1] == "SUSPENDED")


@pytest.mark.parametrize("how", [{"lose": True}, {"preempt": "DELETING"}])
def test_deleted_by_somebody_is_not_created_again(room: Room, how: dict[str, Any]) -> None:
    room.rule("worker.sh state", after=1, exit=255, **how)
    words = ["up", "bert", TYPE, "--", "sleep", "60"]
    status, output = room.run("tpu.sh", *words)
    assert status == 1
    assert len(room.calls("create")) == 1
    assert "deleted by somebody" in output


@pytest.mark.parametrize(
    ("code", "starts", "status"),
    [
        ("print('ok')", 1, 0),
        ("raise SystemExit(2)", 1, 2),
        ("raise SystemExit(1)", 5, 1),
        ("import os; os.kill(os.getpid(), 9)", 5, 1),
    ],
)
def test_what_an_exit_status_leads_to(room: Room, code: str, starts: int, status: int) -> None:
    """0: finished; 2: refused, never tried again; all else is tried again, five times in a row."""
    found, output = room.run("tpu.sh", "up", "bert", TYPE, "--", "python", "-c", code)
    assert found == status, output
    assert sum("worker.sh start" in " ".join(call) for call in room.calls()) == starts
    assert room.verbs()[-1] == "delete"


def test_crash_after_a_long_time_is_the_first_one_again(room: Room) -> None:
    marks = room.folder / "marks"
    code = f"open({str(marks)!r}, 'a').write('x')\n"
    code += f"raise SystemExit(len(open({str(marks)!r}).read()) < 7)"
    words = ["up", "bert", TYPE, "--", "python", "-c", code]
    status, output = room.run("tpu.sh", *words, BERTJAX_STEADY_SECONDS=0)
    assert status == 0, output
    assert len(marks.read_text()) >= 7


def test_refused_command_leaves_the_ends_of_the_logs(two_workers: Room) -> None:
    code = "print('error: no such records'); raise SystemExit(2)"
    status, output = two_workers.run("tpu.sh", "up", "bert", TYPE, "--", "python", "-c", code)
    assert status == 2
    assert "wrong: error: no such records" in output
    assert (two_workers.checkout / "runs/launched/bert.log").read_text().count(
        "error: no such records"
    ) >= 2


def test_keep_leaves_the_machines(room: Room) -> None:
    status, output = room.run("tpu.sh", "up", "bert", TYPE, "--keep", "--", "true")
    assert (status, room.calls("delete")) == (0, [])
    assert "goes on costing" in output


def test_sick_machine_ends_it_before_the_command(room: Room) -> None:
    (room.folder / "check.status").write_text("2")
    assert room.run("tpu.sh", "up", "bert", TYPE, "--", "true")[0] == 2
    assert room.verbs() == ["create", "scp", "setup", "check", "last", "delete"]


def test_installation_that_fails_is_tried_again(room: Room) -> None:
    (room.folder / "pip.status").write_text("1")
    assert room.run("tpu.sh", "up", "bert", TYPE, "--", "true")[0] == 1
    assert sum("worker.sh setup" in " ".join(call) for call in room.calls()) == 5
    assert room.verbs()[-1] == "delete"


# Exit status 124 is what timeout gives for a call that hangs.
@pytest.mark.parametrize(
    ("verb", "status"),
    [
        ("create", 1),
        ("create", 124),
        ("describe", 124),
        ("delete", 124),
        ("scp", 1),
        ("setup", 124),
        ("start", 1),
        ("state", 124),
    ],
)
def test_call_that_fails_or_hangs_once_is_made_again(room: Room, verb: str, status: int) -> None:
    words = f"worker.sh {verb}" if verb in ("setup", "start", "state") else f" {verb} "
    room.rule(words, exit=status, says="ERROR: (gcloud) UNAVAILABLE")
    found, output = room.run("tpu.sh", "up", "bert", TYPE, "--", "true")
    assert found == 0, output
    assert len(room.calls("create")) == 1 + (verb == "create")
    assert not (room.folder / "states").exists()


def test_deletion_that_hung_but_succeeded_is_not_asked_for_again(room: Room) -> None:
    room.rule(" delete ", lose=True, exit=124)
    assert room.run("tpu.sh", "up", "bert", TYPE, "--", "true")[0] == 0
    assert len(room.calls("delete")) == 1


def test_without_login_it_gives_up(room: Room) -> None:
    room.rule("describe", exit=1, says="ERROR: no active account selected", times=99)
    status, output = room.run("tpu.sh", "up", "bert", TYPE, "--", "true")
    assert status == 2
    assert "no active account" in output
    assert not room.calls("create")


def test_unreachable_workers_are_replaced(room: Room) -> None:
    room.rule("worker.sh state", after=1, times=6, exit=255)
    command = waits_the_first_time(room.folder / "marks")
    status, output = room.run("tpu.sh", "up", "bert", TYPE, "--", *command)
    assert status == 0, output
    assert len(room.calls("create")) == 2


@pytest.mark.parametrize("moment", ["worker.sh state", "worker.sh start"])
def test_network_that_is_away_here_deletes_nothing_there(room: Room, moment: str) -> None:
    """All calls fail for a while, longer than one would wait for workers that are gone."""
    marks, go = room.folder / "marks", room.folder / "go"
    code = f"import os, time; open({str(marks)!r}, 'a').write('x')\n"
    code += f"while not os.path.exists({str(go)!r}): time.sleep(0.01)"
    begun = {"awaits": str(marks)} if moment == "worker.sh state" else {}
    room.rule(moment, exit=255, **begun)
    process = room.start("tpu.sh", "up", "bert", TYPE, "--spot", "--", "python", "-c", code)
    while not any(moment in " ".join(call) for call in room.calls()):
        assert process.poll() is None
    room.rule("gcloud", times=25, exit=1, says="ERROR: (gcloud) network is unreachable")
    while len(room.calls()) < 45:
        assert process.poll() is None, process.communicate()[0]
    go.touch()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert len(room.calls("create")) == len(room.calls("delete")) == 1
    assert marks.read_text() == "x"


@pytest.mark.parametrize("silent", ["", " describe ", "worker.sh state"])
def test_up_again_goes_on_watching_the_same_run(two_workers: Room, silent: str) -> None:
    """Also if it gets no answer at first."""
    go = two_workers.folder / "go"
    code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    words = ["up", "bert", TYPE, "--", "python", "-c", code]
    first = two_workers.start("tpu.sh", *words)
    two_workers.wait_for(
        two_workers.folder / "machines" / "bert-w-1" / "bertjax/runs/launched/bert/pid"
    )
    first.kill()
    first.communicate()
    if silent:
        two_workers.rule(silent, exit=255, says="ERROR: (gcloud) UNAVAILABLE")
    second = two_workers.start("tpu.sh", *words)
    assert second.stdout is not None
    assert any(line == "bert is running already\n" for line in second.stdout)
    other, output = two_workers.run("tpu.sh", "up", "bert", TYPE, "--", "true")
    assert other == 2 and "another command runs as bert" in output
    go.touch()
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    assert len(two_workers.calls("create")) == 1
    assert len(two_workers.lines("checks")) == 2, "a busy machine is not examined"
    assert two_workers.verbs()[-1] == "delete"


def test_up_again_leaves_alone_what_cannot_be_reached(room: Room) -> None:
    words = ["up", "bert", TYPE, "--", "sleep", "60"]
    first = room.start("tpu.sh", *words)
    room.wait_for(room.folder / "machines/bert-w-0/bertjax/runs/launched/bert/pid")
    first.kill()
    first.communicate()
    room.rule("worker.sh", times=99, exit=255, says="ssh: No route to host")
    status, output = room.run("tpu.sh", *words)
    assert status == 1 and "ssh: No route to host" in output
    assert output.endswith("can be reached; nothing is started or stopped\n")
    assert not room.calls("delete")


def test_stop_ends_up_as_well(two_workers: Room) -> None:
    code = "import signal, time; signal.signal(15, lambda *_: exit(0)); print('on'); time.sleep(60)"
    process = two_workers.start("tpu.sh", "up", "bert", TYPE, "--", "python", "-c", code)
    machines = [two_workers.folder / f"machines/bert-w-{i}/bertjax" for i in (0, 1)]
    logs = [machine / "runs/launched/bert/log" for machine in machines]
    while not all(log.exists() and log.read_text().endswith("\non\n") for log in logs):
        assert process.poll() is None
    assert two_workers.run("tpu.sh", "stop", "bert")[0] == 0
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 3, output
    assert sum("worker.sh start" in " ".join(call) for call in two_workers.calls()) == 1
    assert two_workers.verbs()[-1] == "delete"


def test_what_is_deleted_meanwhile_has_stopped(two_workers: Room) -> None:
    assert two_workers.run("tpu.sh", "create", "bert", TYPE)[0] == 0
    two_workers.rule("worker.sh end", exit=255, says="ssh: Connection refused")
    assert two_workers.run("tpu.sh", "stop", "bert")[0] != 0
    two_workers.rule("worker.sh end", lose=True, exit=255, says="ssh: Connection refused")
    assert two_workers.run("tpu.sh", "stop", "bert")[0] == 0
    assert two_workers.run("tpu.sh", "stop", "bert")[0] != 0, "nothing of that name"


def test_flags_for_ssh_reach_every_connection(room: Room) -> None:
    words = ["up", "bert", TYPE, "--ssh_flag=--internal-ip", "--zone=z", "--", "true"]
    assert room.run("tpu.sh", *words)[0] == 0
    assert len(room.calls("tpu-vm")) == len(room.calls("tpu-vm", "--internal-ip")) > 4
    assert len(room.calls()) == len(room.calls("--zone=z", "--quiet"))


def test_refusal_where_a_machine_goes_is_no_refusal(room: Room) -> None:
    """A check that cannot have its chips, a command whose peers vanish."""
    room.rule("check", preempt="SUSPENDED", exit=2)
    status, output = room.run("tpu.sh", "up", "bert", TYPE, "--", "true")
    assert status == 0, output
    assert len(room.calls("create")) == 2

    marks = room.folder / "marks"
    code = f"file = open({str(marks)!r}, 'a+'); file.write('x'); file.seek(0)\n"
    code += "raise SystemExit(2 * (file.read() == 'x'))"
    status_file = room.folder / "machines/bert-w-0/bertjax/runs/launched/bert/status"
    room.rule("worker.sh state", awaits=str(status_file))
    # Those before: two until they are there, and two that wait for them.
    room.rule("describe value(state.state)", after=3, preempt="SUSPENDED")
    status, output = room.run("tpu.sh", "up", "bert", TYPE, "--", "python", "-c", code)
    assert status == 0, output
    assert marks.read_text() == "xx" and len(room.calls("create")) == 4


def test_crash_before_a_preemption_is_not_counted_twice(room: Room) -> None:
    """Three times a process dies, and its machine goes while the command starts again."""
    marks = room.folder / "marks"
    code = f"file = open({str(marks)!r}, 'a+'); file.write('x'); file.seek(0)\n"
    code += "raise SystemExit(file.read() != 'xxxx')"
    room.rule("worker.sh start", after=1, preempt="SUSPENDED", exit=255)
    for _ in range(2):  # After the four other tries and one that succeeds.
        room.rule("worker.sh start", after=5, preempt="SUSPENDED", exit=255)
    status, output = room.run("tpu.sh", "up", "bert", TYPE, "--spot", "--", "python", "-c", code)
    assert status == 0, output
    assert marks.read_text() == "xxxx" and len(room.calls("create")) == 4


def test_ends_of_logs_are_kept_though_one_worker_has_none(two_workers: Room) -> None:
    code = "import os; os.path.expanduser('~').endswith('0') or os.remove('runs/launched/bert/log')"
    code += "\nprint('error: no such records'); raise SystemExit(2)"
    words = ["up", "bert", TYPE, "--", "python", "-c", code]
    assert two_workers.run("tpu.sh", *words)[0] == 2
    kept = (two_workers.checkout / "runs/launched/bert.log").read_text()
    assert "error: no such records" in kept
