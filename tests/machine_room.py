"""Stand-ins for gcloud, ssh, sbatch, srun and pip that do as they are told on pretended machines.

A machine is a folder; "ssh" runs a command there with that folder as its home. Rules make calls
fail, hang or be followed by a preemption.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

# Words that a shell would take apart, glob, expand or run.
TRICKY = ["two  words", "it's", '"', "$HOME", "*", "`id`", "a;b", "\\", "", "--x=a b", "ü", "a\nb"]

ROOT = Path(__file__).parent.parent
PROGRAM = """#!{python} -IS
import sys
sys.path.insert(0, {tests!r})
from machine_room import {function}
sys.exit({function}(sys.argv[1:]))
"""

# A Python that makes environments without pip; the check in them ends as check.status says.
PYTHON = """#!/bin/bash
room={room}
case "$*" in
  *find_spec*) exit 1 ;;
  "-m venv "*)
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    echo "PATH=$(cd "$3" && pwd)/bin:\\$PATH" > "$3/bin/activate" ;;
  *"-m pip install"*)
    echo "$PWD: $*" >> "$room/pip"
    exit "$(cat "$room/pip.status" 2> /dev/null || echo 0)" ;;
  *bertjax.doctor*)
    echo "$PWD $JAX_PLATFORMS" >> "$room/checks"
    echo "$*" >> "$room/looked"
    exit "$(cat "$room/check.status" 2> /dev/null || echo 0)" ;;
  *) exec {python} "$@" ;;
esac
"""


def waits_the_first_time(marks: Path, seconds: int = 60) -> list[str]:
    """A command that marks each of its runs; only the first takes long."""
    code = f"import time; file = open({str(marks)!r}, 'a+'); file.write('x'); file.flush(); "
    code += f"file.seek(0); time.sleep({seconds} * (file.read() == 'x'))"
    return ["python", "-c", code]


class Room:
    """The folder in which everything happens, and the scripts' run in it."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.folder = folder
        self.workers = workers  # of a slice
        self.checkout = folder / "checkout"
        self.programs = folder / "programs"
        self.programs.mkdir()
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        for name in ("setup.cfg", "pyproject.toml", ".gitignore"):
            shutil.copy(ROOT / name, self.checkout / name)
        subprocess.run(["git", "init", "-q"], cwd=self.checkout, check=True)
        text = PYTHON.format(room=folder, python=sys.executable)
        self.program("python3", text)
        self.program("python", text)

    def program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def stand_in(self, name: str) -> None:
        tests = str(Path(__file__).parent)
        self.program(name, PROGRAM.format(python=sys.executable, tests=tests, function=name))

    def rule(self, words: str, times: int = 1, after: int = 0, **what: Any) -> None:
        """For calls with all of the words, `after` some: exit, says, hang, preempt, lose, create.

        awaits: a file that must have been written to before any of it.
        """
        with (self.folder / "calls").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            rules = _read(self.folder / "rules", [])
            rules.append({"words": words.split(), "times": times, "after": after, **what})
            _write(self.folder / "rules", rules)

    def start(self, script: str, *arguments: object, **variables: object) -> subprocess.Popen[str]:
        """It is killed after five minutes, so that whoever reads what it prints comes to an end."""
        process = subprocess.Popen(
            [str(self.checkout / "launch" / script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self._environment() | {name: str(value) for name, value in variables.items()},
        )
        end = threading.Timer(300, process.kill)
        end.daemon = True
        end.start()
        return process

    def run(self, script: str, *arguments: object, **variables: object) -> tuple[int, str]:
        """Exit status, and what was printed."""
        process = self.start(script, *arguments, **variables)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "ROOM": str(self.folder),
            "WORKERS": str(self.workers),
            "BERTJAX_POLL_SECONDS": "0",
            "GIT_CONFIG_GLOBAL": "/dev/null",
        }

    def calls(self, *words: str) -> list[list[str]]:
        """The stand-ins' calls in order, all those that have every one of the words."""
        with (self.folder / "calls").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # a stand-in may be writing its line
            file.seek(0)
            lines = file.read().splitlines()
        return [call for call in map(json.loads, lines) if set(words) <= set(call)]

    def verbs(self) -> list[str]:
        """What gcloud was asked for in order, looks at states left out, repetitions once."""
        names: list[str] = []
        for call in self.calls("gcloud"):
            name = call[4] if call[2] == "tpus" else call[2]
            if name == "ssh":
                parts = ("setup", "check", "start", "state", "stop", "end", "last", "log")
                name = next(part for part in parts if f" {part}" in call[7])
            if name not in ("describe", "state") and names[-1:] != [name]:
                names.append(name)
        return names

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} does not appear"
            time.sleep(0.01)

    def clear(self) -> None:
        for machine in (self.folder / "machines").glob("*"):
            _turn_off(machine)
        _turn_off(self.checkout.parent)


def _read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def _write(path: Path, value: Any) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)


def _turn_off(machine: Path) -> None:
    """Kills what runs on a machine, as a power cut does."""
    for pid in machine.glob("*/runs/launched/*/pid"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            continue


def _room() -> Path:
    return Path(os.environ["ROOM"])


def _obey(call: list[str]) -> int | None:
    """Records a call and follows the rule for it; an exit status ends the call."""
    with (_room() / "calls").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(call) + "\n")
        rules = _read(_room() / "rules", [])
        rule = _rule_for(" ".join(call), rules)
        _write(_room() / "rules", rules)
    return _follow(rule)


def _rule_for(text: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    for rule in rules:
        if rule["times"] and all(word in text for word in rule["words"]):
            when = "after" if rule["after"] else "times"
            rule[when] -= 1
            return rule if when == "times" else {}
    return {}


def _follow(rule: dict[str, Any]) -> int | None:
    awaited = Path(rule["awaits"]) if "awaits" in rule else None
    while awaited and not (awaited.exists() and awaited.stat().st_size):
        time.sleep(0.05)
    if "says" in rule:
        print(rule["says"], file=sys.stderr)
    if "hang" in rule:
        time.sleep(60)
    if "preempt" in rule:
        _lose_machines()
        _write(_room() / "states", rule["preempt"].split())
    if "lose" in rule:
        _lose_machines()
    if "create" in rule:
        _write(_room() / "states", ["ACTIVE"])
    return rule.get("exit")


def _lose_machines() -> None:
    (_room() / "states").unlink()
    for machine in (_room() / "machines").glob("*"):
        _turn_off(machine)
        shutil.rmtree(machine)


def _on(machine: Path, line: str) -> int:
    if not machine.exists():
        print("ssh: connect to host: Connection refused", file=sys.stderr)
        return 255
    home = {"HOME": str(machine)}
    return subprocess.run(["bash", "-c", line], cwd=machine, env=os.environ | home).returncode


def gcloud(arguments: list[str]) -> int:
    status = _obey(["gcloud", *arguments])
    if status is not None:
        return status
    if arguments[0] == "storage":
        place = arguments[2] if arguments[1] == "ls" else arguments[-2]
        source = _room() / "bucket" / place.removeprefix("gs://")
        if not source.exists():
            print("ERROR: (gcloud.storage) URLs matched no objects.", file=sys.stderr)
            return 1
        if arguments[1] == "ls":
            return 0
        shutil.copytree(source, arguments[-1], dirs_exist_ok=True)
        return 0
    if arguments[2] == "queued-resources":
        return _queued_resource(arguments[3], arguments[4], arguments)
    return _tpu_vm(arguments[3], arguments[4:])


def _option(arguments: list[str], name: str, default: str = "") -> str:
    found = [word.partition("=")[2] for word in arguments if word.startswith(f"--{name}=")]
    return found[0] if found else default


def _queued_resource(verb: str, name: str, arguments: list[str]) -> int:
    room = _room()
    states = _read(room / "states", [])
    if verb == "create":
        count = int(_option(arguments, "node-count", "1"))
        nodes = [name] if count == 1 else [f"{name}-{i}" for i in range(count)]
        for node in nodes:
            for worker in range(int(os.environ["WORKERS"])):
                (room / "machines" / f"{node}-w-{worker}").mkdir(parents=True)
        _write(room / "states", _read(room / "coming", ["ACTIVE"]))
        _write(room / "count", count)
        _write(room / "type", _option(arguments, "accelerator-type"))
    elif not states:
        print("ERROR: (gcloud) NOT_FOUND: Resource was not found.", file=sys.stderr)
        return 1
    elif verb == "delete":
        _lose_machines()
    elif "nodeCount" in arguments[5]:
        print(_read(room / "count", 1) if _read(room / "count", 1) > 1 else "")
    elif "acceleratorType" in arguments[5]:
        print(_read(room / "type", ""))
    elif "failedData" in arguments[5]:
        print("no such quota")
    else:
        print(states[0])
        _write(room / "states", states[1:] or states)
    return 0


def _machines(node: str, arguments: list[str]) -> list[Path]:
    worker = _option(arguments, "worker", "0")
    numbers = range(int(os.environ["WORKERS"])) if worker == "all" else [int(worker)]
    return [_room() / "machines" / f"{node}-w-{number}" for number in numbers]


def _tpu_vm(verb: str, arguments: list[str]) -> int:
    if verb == "ssh":
        line = _option(arguments, "command")
        statuses = [_on(machine, line) for machine in _machines(arguments[0], arguments)]
        return next((status for status in statuses if status), 0)
    source, target = arguments[:2]
    if target.endswith(":"):
        machines = _machines(target[:-1], arguments)
        if not all(machine.exists() for machine in machines):
            return 255
        for machine in machines:
            shutil.copy(source, machine)
    else:
        node, _, path = source.partition(":")
        folder = _machines(node, arguments)[0] / path
        if not folder.exists():
            print(f"scp: {path}: No such file or directory", file=sys.stderr)
            return 1
        shutil.copytree(folder, target)
    return 0


def ssh(arguments: list[str]) -> int:
    status = _obey(["ssh", *arguments])
    if status is not None:
        return status
    host, line = arguments[-2:]
    return _on(_room() / "machines" / host.rpartition("@")[2], line)


def sbatch(arguments: list[str]) -> int:
    print("Submitted batch job 77")
    return _obey(["sbatch", *arguments]) or 0


def srun(arguments: list[str]) -> int:
    _obey(["srun", *arguments])  # the first argument is an option
    tasks = [
        subprocess.Popen(arguments[1:], env=os.environ | {"SLURM_PROCID": str(number)})
        for number in range(int(os.environ["SLURM_NTASKS"]))
    ]
    _write(_room() / "tasks", [task.pid for task in tasks])
    return max(task.wait() for task in tasks)


def scancel(arguments: list[str]) -> int:
    _obey(["scancel", *arguments])
    for pid in _read(_room() / "tasks", []):
        os.kill(pid, signal.SIGTERM)
    return 0


def squeue(arguments: list[str]) -> int:
    print(_read(_room() / "job", "RUNNING"))
    return _obey(["squeue", *arguments]) or 0


def scontrol(arguments: list[str]) -> int:
    return _obey(["scontrol", *arguments]) or 0
