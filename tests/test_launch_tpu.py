"""launch/tpu.sh against a stand-in gcloud: what is asked for, and by which lines."""

from __future__ import annotations

import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_room import TRICKY, Room

TYPE = "--accelerator=v5e-16"
TUNE = "python -m bertjax.finetune --task=rte"
PREDICT = f"{TUNE} --mode=predict --output=gs://b/x"
PRETRAIN = "python -m bertjax.pretrain --workdir=gs://b/x"


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


@pytest.mark.parametrize(
    ("accelerator", "type_", "image"),
    [
        ("v2-8", "v2-8", "tpu-ubuntu2204-base"),
        ("v3-32", "v3-32", "tpu-ubuntu2204-base"),
        ("v4-8", "v4-8", "tpu-ubuntu2204-base"),
        ("v5e-16", "v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5litepod-256", "v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v5p-128", "v5p-128", "v2-alpha-tpuv5"),
        ("v6e-16", "v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_image_goes_with_the_accelerator(
    room: Room, accelerator: str, type_: str, image: str
) -> None:
    assert room.run("tpu.sh", "create", "bert", f"--accelerator={accelerator}")[0] == 0
    (call,) = room.calls("create")
    assert f"--accelerator-type={type_}" in call
    assert f"--runtime-version={image}" in call


@pytest.mark.parametrize(
    ("options", "wanted", "unwanted"),
    [
        ([], ["--node-id=bert"], ["--spot", "--reserved"]),
        (["--spot"], ["--spot"], ["--reserved"]),
        (["--reserved"], ["--reserved"], ["--spot"]),
        (["--slices=2"], ["--node-count=2", "--node-prefix=bert"], ["--node-id=bert"]),
        (["--slices", "2", "--spot"], ["--node-count=2", "--spot"], []),
        (["--zone=z", "--project=p"], ["--zone=z", "--project=p"], []),
        (["--runtime_version=mine"], ["--runtime-version=mine"], []),
        (["--create_flag=--network=n", "--create_flag=--internal-ips"], ["--network=n"], []),
    ],
)
def test_create_asks_for(
    room: Room, options: list[str], wanted: list[str], unwanted: list[str]
) -> None:
    assert room.run("tpu.sh", "create", "bert", TYPE, *options)[0] == 0
    (call,) = room.calls("create")
    assert set(wanted) <= set(call)
    assert set(unwanted).isdisjoint(call)
    assert call[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "bert"]


def test_another_image_serves_an_unknown_accelerator(room: Room) -> None:
    options = ["--accelerator=v9-8", "--runtime_version=new"]
    assert room.run("tpu.sh", "create", "bert", *options)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "the first word must be one of"),
        ("start bert", "the first word must be one of"),
        ("create", "takes 1 words"),
        ("create bert also " + TYPE, "takes 1 words"),
        ("create bert", "--accelerator is missing"),
        ("create bert --accelerator=v5e", "want a kind and a size"),
        ("create bert --accelerator=v5e-0", "want a kind and a size"),
        ("create bert --accelerator=tpu7x-8", "no image is known"),
        ("create Bert " + TYPE, "small letters"),
        ("create bert-" + " " + TYPE, "small letters"),
        ("create bert --spot --reserved " + TYPE, "exclude each other"),
        ("create bert --slices=0 " + TYPE, "--slices=0 is not a whole number from 1"),
        ("create bert --slices=two " + TYPE, "--slices=two is not a whole number"),
        ("create bert --worker=-1 " + TYPE, "--worker=-1 is not a whole number from 0"),
        ("create bert --zone", "--zone needs a value"),
        ("create bert --zone= " + TYPE, "--zone needs a value"),
        ("create bert --sopt " + TYPE, "unknown option '--sopt'"),
        ("create bert --spot=yes " + TYPE, "unknown option '--spot=yes'"),
        (f"create bert {TYPE} -- python", "takes no command"),
        ("run bert", "a command is missing behind --"),
        ("run bert python -m x", "a command goes behind --"),
        ("up bert -- python", "--accelerator is missing"),
        (f"up bert {TYPE} -- python -m x --workdir=runs/x", "--workdir=runs/x lies on"),
        (f"up bert {TYPE} -- python -m x --workdir runs/x", "--workdir=runs/x lies on"),
        ("fetch bert gs://b/x", "takes 3 words"),
        ("logs bert --spot", "--spot does nothing for logs"),
        ("stop bert --worker=1", "--worker does nothing for stop"),
        ("create bert --keep " + TYPE, "--keep does nothing for create"),
        ("delete bert " + TYPE, "--accelerator does nothing for delete"),
        (f"up bert {TYPE} -- {TUNE} --init=gs://b/x", "--workdir=gs://... is missing"),
        (f"up bert {TYPE} -- {TUNE} --workdir=gs://b/x --init runs/x", "--init=runs/x is on no"),
        (f"up bert {TYPE} -- {TUNE} --workdir=gs://b/x --init=scratch:x", "--init=x is on no"),
        (f"up bert {TYPE} -- {TUNE} --workdir=gs://b/x --train=x", "--train=x is on no worker"),
        (f"up bert {TYPE} -- {PREDICT} --ensemble=runs/a", "--ensemble=runs/a is on no worker"),
        (
            f"up bert {TYPE} -- {PREDICT} --ensemble gs://b/x runs/a --test=gs://b/y",
            "--ensemble=runs/a is on no worker",
        ),
        (f"up bert {TYPE} -- {PRETRAIN} data.records=r", "data.records=r is on no worker"),
        (f"up bert {TYPE} -- {PRETRAIN} init=/x", "init=/x is on no worker"),
        (f"up bert {TYPE} -- {PRETRAIN} --config=brt.py:base", "--config=brt.py is on no worker"),
        (f"up bert {TYPE} -- {PRETRAIN} --workdir=gs://b/x", "data.records=gs://... is missing"),
        (f"up bert {TYPE} -- {TUNE} --workdir=gs://b/x", "--init=gs://... is missing"),
    ],
)
def test_bad_line_is_refused_before_any_call(room: Room, arguments: str, part: str) -> None:
    status, output = room.run("tpu.sh", *shlex.split(arguments))
    assert status == 2
    assert part in output
    assert output.startswith("error: ") and output.count("\n") == 1
    assert not room.calls()


def test_without_gcloud_it_says_where_it_is_had(room: Room) -> None:
    (room.programs / "gcloud").unlink()
    for name in ("dirname", "bash", "timeout"):
        (room.programs / name).symlink_to(f"/usr/bin/{name}")
    status, output = room.run("tpu.sh", "delete", "bert", PATH=room.programs)
    assert status == 2
    assert output.startswith("error: gcloud is not installed; it is had at https://cloud.google")


def test_inputs_may_be_files_that_are_packed(room: Room) -> None:
    (room.checkout / "mails").mkdir()
    (room.checkout / "mails" / "train.csv").touch()
    words = shlex.split(f"up bert {TYPE} --dry_run -- {TUNE} --workdir=gs://b/x --init=scratch")
    several = ["--ensemble", "gs://b/a", "gs://b/c", "mails", "--epochs", "3"]
    for more in (["--train=mails/train.csv"], ["--data_dir=mails"], several):
        status, output = room.run("tpu.sh", *words, *more)
        assert status == 0, output


def test_dry_run_of_up_prints_every_call_and_makes_none(room: Room) -> None:
    words = ["up", "bert", TYPE, "--spot", "--slices=2", "--zone=z", "--dry_run"]
    status, output = room.run("tpu.sh", *words, "--", "python", "-c", *TRICKY)
    assert status == 0
    assert not room.calls()
    calls = [shlex.split(line) for line in output.split("\ngcloud ")]
    calls = [["gcloud", *call] if call[0] != "gcloud" else call for call in calls]
    assert {call[0] for call in calls} == {"gcloud"}
    assert [call[4] for call in calls] == [
        "create",
        "describe",
        *["scp"] * 2,
        *["ssh"] * 8,
        "delete",
    ]
    started = [call for call in calls if "start bert" in call[-3]]
    assert len(started) == 2
    line = shlex.split(started[0][-3].removeprefix("--command="))
    assert line[1:] == ["start", "bert", "python", "-c", *TRICKY]


@pytest.mark.parametrize("subcommand", ["create", "setup", "status", "logs", "stop", "delete"])
def test_dry_run_of_every_subcommand(room: Room, subcommand: str) -> None:
    before = {path.name for path in room.checkout.iterdir()}
    words = [subcommand, "bert", *[TYPE] * (subcommand == "create")]
    status, output = room.run("tpu.sh", *words, "--dry_run")
    assert status == 0
    assert all(line.startswith("gcloud compute tpus ") for line in output.splitlines())
    assert {path.name for path in room.checkout.iterdir()} == before
    assert not room.calls()


def test_setup_installs_the_tpu_extra_and_checks_every_worker(two_workers: Room) -> None:
    two_workers.run("tpu.sh", "create", "bert", TYPE)
    (two_workers.checkout / "new.py").touch()
    (two_workers.checkout / "runs").mkdir()
    (two_workers.checkout / "runs" / "large").touch()
    assert two_workers.run("tpu.sh", "setup", "bert")[0] == 0
    workers = [two_workers.folder / "machines" / f"bert-w-{i}" / "bertjax" for i in (0, 1)]
    assert sorted(two_workers.lines("checks")) == [f"{worker} tpu,cpu" for worker in workers]
    assert (
        all("-e .[tpu]" in line for line in two_workers.lines("pip"))
        and len(two_workers.lines("pip")) == 2
    )
    assert all((worker / "new.py").exists() for worker in workers)
    assert not (workers[0] / "runs" / "large").exists()
    assert two_workers.run("tpu.sh", "setup", "bert")[0] == 0
    assert len(two_workers.lines("pip")) == 2, "an environment that fits is reused"


@pytest.mark.parametrize("words", [["--wandb=p"], ["--wandb", "p"]])
def test_setup_installs_what_the_command_writes_to(room: Room, words: list[str]) -> None:
    status, output = room.run("tpu.sh", "up", "bert", TYPE, "--dry_run", "--", "true", *words)
    assert status == 0 and "worker.sh setup tpu,wandb" in output


def test_waits_in_the_queue(room: Room) -> None:
    states = ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    (room.folder / "coming").write_text(str(states).replace("'", '"'))
    status, output = room.run("tpu.sh", "create", "bert", TYPE)
    assert status == 0
    assert [line.split()[-1] for line in output.splitlines()] == ["ABSENT", *states]
    assert len(room.calls("create")) == 1


def test_suspending_machines_are_waited_for(room: Room) -> None:
    (room.folder / "coming").write_text('["PROVISIONING", "SUSPENDING", "SUSPENDED"]')
    room.rule("delete", exit=None)
    room.rule("create", after=1, exit=1, says="ERROR: PERMISSION_DENIED", times=9)
    status, output = room.run("tpu.sh", "create", "bert", TYPE)
    assert status == 2
    assert room.verbs() == ["create", "delete", "create"]
    assert output.endswith("error: bert does not come up; see above what gcloud says\n")


def test_gives_up_on_machines_that_always_fail(room: Room) -> None:
    (room.folder / "coming").write_text('["FAILED"]')
    status, output = room.run("tpu.sh", "create", "bert", TYPE)
    assert status == 2
    assert len(room.calls("create")) == 5
    assert "no such quota" in output


def test_hanging_call_is_ended(room: Room) -> None:
    room.rule(" describe ", hang=True)
    status, output = room.run("tpu.sh", "create", "bert", TYPE, BERTJAX_CALL_SECONDS=1)
    assert status == 0
    assert "UNKNOWN" in output


def test_create_that_hung_but_succeeded_is_not_made_twice(room: Room) -> None:
    room.rule("create", exit=None, says="slow")
    (room.folder / "coming").write_text('["CREATING", "", "ACTIVE"]')
    assert room.run("tpu.sh", "create", "bert", TYPE)[0] == 0
    assert len(room.calls("create")) == 1


def test_last_try_to_create_that_failed_but_succeeded_counts(room: Room) -> None:
    room.rule(" create ", times=4, exit=1)
    room.rule(" create ", exit=124, create=True)
    status, output = room.run("tpu.sh", "create", "bert", TYPE)
    assert status == 0, output
    assert len(room.calls("create")) == 5


@pytest.mark.parametrize("subcommand", ["create", "up"])
@pytest.mark.parametrize("options", [["--accelerator=v4-8"], [TYPE, "--slices=2"]])
def test_other_machines_of_the_same_name_are_left_alone(
    room: Room, subcommand: str, options: list[str]
) -> None:
    assert room.run("tpu.sh", "create", "bert", TYPE)[0] == 0
    command = ["--", "true"] if subcommand == "up" else []
    status, output = room.run("tpu.sh", subcommand, "bert", *options, *command)
    assert status == 2
    assert output.startswith("error: bert is there already, 1 x v5litepod-16;")
    assert len(room.calls("create")) == 1 and not room.calls("delete")
    assert room.run("tpu.sh", "create", "bert", TYPE)[0] == 0


def test_checkout_that_cannot_be_packed_is_told_before_anything_is_made(room: Room) -> None:
    shutil.rmtree(room.checkout / ".git")
    status, output = room.run("tpu.sh", "up", "bert", TYPE, "--", "true")
    assert status == 2
    assert "error: this checkout cannot be packed" in output
    assert not room.calls()


def test_status_logs_stop_and_delete(two_workers: Room) -> None:
    two_workers.run("tpu.sh", "create", "bert", TYPE)
    two_workers.run("tpu.sh", "setup", "bert")
    code = "import time; print('step 1'); time.sleep(60)"
    assert two_workers.run("tpu.sh", "run", "bert", "--", "python", "-c", code)[0] == 0
    two_workers.wait_for(two_workers.folder / "machines/bert-w-0/bertjax/runs/launched/bert/log")
    _, output = two_workers.run("tpu.sh", "status", "bert")
    assert output.startswith("ACTIVE\n") and output.count(" running: ") == 2
    assert two_workers.run("tpu.sh", "stop", "bert")[0] == 0
    assert two_workers.run("tpu.sh", "status", "bert")[1].count(" ended: ") == 2
    status, output = two_workers.run("tpu.sh", "logs", "bert", "--worker=1")
    assert status == 0 and "time.sleep(60)" in output
    assert "--worker=1" in two_workers.calls()[-1]
    assert two_workers.run("tpu.sh", "delete", "bert")[0] == 0
    assert two_workers.run("tpu.sh", "status", "bert") == (0, "ABSENT\n")
    two_workers.rule("gcloud", times=1, exit=1, says="ERROR: (gcloud) network is unreachable")
    status, output = two_workers.run("tpu.sh", "status", "bert")
    assert status == 1 and output.endswith("network is unreachable\nUNKNOWN\n")
    status, output = two_workers.run("tpu.sh", "delete", "bert", "--zone=z")
    assert status == 0 and output.endswith("  there is no bert in z\n")


@pytest.mark.parametrize("words", [["logs", "bert"], ["fetch", "bert", "runs/x", "here"]])
def test_what_follows_or_copies_ends_with_its_script(room: Room, words: list[str]) -> None:
    room.run("tpu.sh", "create", "bert", TYPE)
    child = room.folder / "child"
    # In the place of the stand-in, for what comes after it is told where the workers are.
    room.program(
        "gcloud",
        f"#!/bin/bash\nif [[ $* == *describe* ]]; then exit; fi\n"
        f"echo $$ > {child}.new; mv {child}.new {child}; exec sleep 60",
    )
    process = room.start("tpu.sh", *words)
    room.wait_for(child)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    pid = int(child.read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "gcloud outlives its script"
        time.sleep(0.05)


def test_fetch_asks_again_where_the_slices_are(room: Room) -> None:
    room.run("tpu.sh", "create", "bert", TYPE)
    (room.folder / "machines/bert-w-0/bertjax/runs/x").mkdir(parents=True)
    room.rule("describe", exit=1, says="ERROR: (gcloud) UNAVAILABLE")
    assert room.run("tpu.sh", "fetch", "bert", "runs/x", "here")[0] == 0
    copies = [call for call in room.calls() if "scp" in call]
    assert len(copies) == 1, "nothing is copied while it is not known from where"


@pytest.mark.parametrize("source", ["gs://results/run", "runs/x"])
def test_fetch_copies_a_folder_whole(two_workers: Room, source: str) -> None:
    two_workers.run("tpu.sh", "create", "bert", TYPE)
    for folder in ("bucket/results/run", "machines/bert-w-1/bertjax/runs/x"):
        (two_workers.folder / folder).mkdir(parents=True)
        (two_workers.folder / folder / "metrics").write_text("0.9")
    two_workers.rule("--recurs", exit=1)
    words = ["fetch", "bert", source, "here/results", "--worker=1"]
    assert two_workers.run("tpu.sh", *words)[0] == 0
    assert (two_workers.folder / "here/results/metrics").read_text() == "0.9"
    assert [path.name for path in (two_workers.folder / "here").iterdir()] == ["results"]
    status, output = two_workers.run("tpu.sh", *words)
    assert (status, output) == (
        2,
        "error: here/results exists already; choose another folder or remove it\n",
    )


@pytest.mark.parametrize("source", ["gs://results/rnu", "runs/rnu"])
def test_fetch_of_what_is_not_there_is_not_tried_again(room: Room, source: str) -> None:
    room.run("tpu.sh", "create", "bert", TYPE)
    status, output = room.run("tpu.sh", "fetch", "bert", source, "here/results")
    assert status == 2
    assert output.endswith(f"error: there is no {source}\n")
    assert not list((room.folder / "here").iterdir())
