"""The doctor says what fits, and names what does not with its mend."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from bertjax import distributed, doctor
from bertjax.data.records import Records
from bertjax.errors import UserError
from bertjax.files import storage

Command = Callable[..., int]


@pytest.fixture()
def shards(tiny_records: Path, tmp_path: Path) -> list[Path]:
    """Of records that may be damaged."""
    return sorted(shutil.copytree(tiny_records, tmp_path / "records").glob("*.tfrecord"))


def test_a_healthy_machine_gets_a_line_for_every_check(
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    flags = [f"data.records={tiny_records}", f"--config={tiny_settings}", "train.seed=1"]
    assert command(doctor, *flags, f"--workdir={run}") == 0, "settings may stand before flags"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "packages", "devices", "processes", "records", "workdir",
    ]  # fmt: skip
    assert f"{jax.local_device_count()} x cpu" in lines[1] and "computes right" in lines[1]
    assert f"{tiny_records}: " in lines[3]
    assert "for checkpoints" in lines[4]
    assert not run.exists(), "it only looks"


def test_what_a_fine_tuning_reads_and_writes_is_looked_at(
    command: Command, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "glue", tmp_path / "run"
    data.mkdir()
    (data / "train.tsv").write_text("sentence\tlabel\n")
    flags = [f"--init={tiny_run}", f"--data_dir={data}", f"--dev={data / 'train.tsv'}"]
    assert command(doctor, *flags, f"--workdir={run}") == 0
    init, files, workdir = capsys.readouterr().out.splitlines()[3:]
    assert init.startswith(f"init      {tiny_run}: bert, ")
    assert files == f"files     {data}, {data / 'train.tsv'}"
    assert workdir.startswith("workdir ") and not run.exists()

    assert command(doctor, f"--init={tmp_path / 'none'}") == 2
    assert f"error: {tmp_path / 'none'}: no such folder" in capsys.readouterr().err
    (data / "train.tsv").unlink()
    for place in (data, data / "train.tsv"):
        assert command(doctor, f"--data_dir={place}") == 2
        assert f"error: --data_dir={place}: no such file, and no fo" in capsys.readouterr().err
    (data / "file").touch()
    assert command(doctor, f"--workdir={data / 'file' / 'run'}") == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("setting", ["data.long_records", "data.eval_records", "init"])
def test_what_the_config_itself_names_is_looked_at(
    setting: str,
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As configs/lamb.py names data.long_records: nobody has typed it, and it must be there."""
    own = tmp_path / "own.py"
    lines = ["usual = get_config", "def get_config():", "    config = usual()"]
    lines += [f"    config.{setting} = 'records/none'", "    return config"]
    own.write_text("\n".join([tiny_settings.read_text(), *lines]))
    assert command(doctor, f"--config={own}", f"data.records={tiny_records}") == 2
    assert "records/none" in capsys.readouterr().err


def test_a_folder_that_hosts_do_not_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a relative path is on hosts with a checkout each; the first of them writes, all look."""
    monkeypatch.setattr(distributed, "several", lambda: True)
    assert "can be written to" in doctor.workdir(tmp_path / "run", 0)
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    with pytest.raises(UserError, match="run: is another folder on each host; give one that all"):
        doctor.workdir(tmp_path / "run", 0)
    assert not list(tmp_path.iterdir())


def test_devices_of_another_kind_are_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.metadata.version

    def without_libtpu(name: str) -> str:
        if name == "libtpu":
            raise importlib.metadata.PackageNotFoundError
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", without_libtpu)
    assert command(doctor, "--platform=tpu") == 2
    assert "libtpu is not installed: pip install 'libtpu" in capsys.readouterr().err
    monkeypatch.setattr(doctor, "packages", lambda wanted: "all fit")
    assert command(doctor, "--platform=tpu") == 2
    assert "--platform=tpu: JAX sees cpu only" in capsys.readouterr().err


# A platform whose devices another process holds.
BUSY = """
import sys
from jax._src import xla_bridge
from bertjax import doctor, errors

def fail():
    raise RuntimeError("ABORTED: the chips are in use by process 7")

xla_bridge.register_backend_factory("busy", fail, priority=500)
sys.exit(errors.run(doctor.main))
"""


@pytest.mark.parametrize(
    ("platform", "program", "status"),
    [
        ("cuda", ["-m", "bertjax.doctor"], 2),
        ("nonsense", ["-m", "bertjax.doctor"], 2),
        ("busy", ["-c", BUSY], 1),
    ],
)
def test_a_platform_without_devices_is_one_line(
    platform: str, program: list[str], status: int
) -> None:
    """What will never work is refused; a launcher tries again what may pass."""
    done = subprocess.run(
        [sys.executable, *program],
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("error: JAX finds no devices: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("package", "platform"), [("optax", "cpu"), ("libtpu", "tpu")])
def test_a_package_of_another_version_is_named(
    package: str,
    platform: str,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0.1" if name == package else real(name)
    )
    assert command(doctor, f"--platform={platform}") == 2
    told = capsys.readouterr().err
    assert f"{package} 0.0.1 does not fit: pip install '{package}" in told and ";" not in told


def test_a_run_that_never_saves_is_refused_as_pretraining_refuses_it(
    command: Command, tiny_settings: Path, tiny_records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--config={tiny_settings}", f"data.records={tiny_records}", "save_every=0"]
    assert command(doctor, *given) == 2
    assert capsys.readouterr().err == "error: save_every is 0; it must be at least 1, and finite\n"


def test_records_that_are_not_whole_are_named(
    command: Command, tiny_settings: Path, shards: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    last = shards[-1]
    last.write_bytes(last.read_bytes()[:-1])
    assert command(doctor, f"--config={tiny_settings}", f"data.records={last.parent}") == 2
    assert str(last) in capsys.readouterr().err


def test_a_changed_byte_in_a_file_is_found(
    command: Command, tiny_settings: Path, shards: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = shards[0]
    content = bytearray(first.read_bytes())
    content[-10] ^= 1
    first.write_bytes(content)
    assert command(doctor, f"--config={tiny_settings}", f"data.records={first.parent}") == 2
    assert f"{first}: is damaged" in capsys.readouterr().err


def test_a_damaged_copy_of_a_bucket_is_to_be_deleted(shards: list[Path]) -> None:
    """It has the right size, and would not be fetched again."""
    content = bytearray(shards[0].read_bytes())
    content[-10] ^= 1
    opened = Records(shards[0].parent)
    shards[0].write_bytes(content)
    opened.folder = storage.path("gs://bucket/records")
    with pytest.raises(UserError, match="delete it, and it is copied from the bucket again"):
        doctor._check_first(opened)


def test_a_disk_too_small_for_the_checkpoints_is_refused(
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    flags = [f"--config={tiny_settings}", f"data.records={tiny_records}"]
    run = tmp_path / "run"
    assert command(doctor, *flags, f"--workdir={run}") == 2
    assert "checkpoints will take" in capsys.readouterr().err

    # A run that goes on has taken most of that already.
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "params").write_bytes(bytes(10**8))
    assert command(doctor, *flags, f"--workdir={run}") == 0
