"""The zip for the GLUE site: its files and words, the same bytes again, whole or not at all."""

from __future__ import annotations

import errno
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjax import finetune
from bertjax.errors import UserError
from bertjax.tasks.glue import GLUE
from bertjax.tasks.submission import TEST_SIZES, check_target, files_of, write_submission


def contents(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_files_are_added_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "glue.zip"
    missing = write_submission(path, {"RTE.tsv": ["entailment", "not_entailment"]})
    assert sorted([*missing, "RTE.tsv"]) == sorted(TEST_SIZES)
    write_submission(path, {"MNLI-m.tsv": ["neutral"], "MNLI-mm.tsv": ["contradiction"]})
    write_submission(path, {"RTE.tsv": ["not_entailment"]})
    assert contents(path) == {
        "MNLI-m.tsv": "index\tprediction\n0\tneutral\n",
        "MNLI-mm.tsv": "index\tprediction\n0\tcontradiction\n",
        "RTE.tsv": "index\tprediction\n0\tnot_entailment\n",
    }


def test_similarities_have_three_decimals_from_0_to_5(tmp_path: Path) -> None:
    path = tmp_path / "glue.zip"
    write_submission(path, {"STS-B.tsv": ["-0.250", "5.125", "3.5", "4.999"]})
    (table,) = contents(path).values()
    assert table == "index\tprediction\n0\t0.000\n1\t5.000\n2\t3.500\n3\t4.999\n"


def test_equal_answers_are_equal_bytes_in_whatever_order_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one.zip", tmp_path / "other.zip"
    write_submission(one, {"CoLA.tsv": ["1"], "AX.tsv": ["neutral"]})
    later = time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: later)
    write_submission(other, {"AX.tsv": ["neutral"]})
    write_submission(other, {"CoLA.tsv": ["1"]})
    assert one.read_bytes() == other.read_bytes()


def test_what_is_missing_and_what_is_too_short_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "glue.zip"
    most = [name for name in TEST_SIZES if name not in ("WNLI.tsv", "AX.tsv")]
    write_submission(path, {name: ["1"] for name in most})
    said = capsys.readouterr().out
    assert "CoLA.tsv: 1 answers; the site wants 1,063" in said
    assert said.endswith("still missing: AX.tsv, WNLI.tsv\n")
    assert write_submission(path, {"WNLI.tsv": ["0"] * 146, "AX.tsv": ["neutral"] * 1104}) == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"wrote {path} with WNLI.tsv, AX.tsv; it is complete"


def test_only_splits_that_the_site_takes_are_answered() -> None:
    mnli = GLUE["mnli"]
    wanted = {"test": "MNLI-m.tsv", "ax": "AX.tsv"}
    assert files_of(mnli, ["train", "dev", "test", "ax"]) == wanted
    with pytest.raises(UserError, match=r"^--submission: takes mnli's .*only train"):
        files_of(mnli, ["train", "dev"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task=classify"], "the GLUE site takes no answers of --task=classify"),
        (["--task=sst2", "--layers=all"], "--layers=all makes several"),
    ],
)
def test_a_zip_that_would_be_empty_is_refused_before_anything_is_read(
    flags: list[str],
    message: str,
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [f"--submission={tmp_path / 'glue.zip'}", "--data_dir=none", "--init=none"]
    assert command(finetune, *flags, *given) == 2
    assert message in capsys.readouterr().err


def test_a_zip_that_cannot_be_written_is_refused_before_anything_is_read(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    wrong = {
        tmp_path: f"--submission={tmp_path}: a folder; give a file, {tmp_path}/glue.zip",
        notes: f"{notes}: File is not a zip file; delete it or give",
        notes / "glue.zip": f"{notes}: a file of this name is in the way",
    }
    for path, message in wrong.items():
        given = ["--task=sst2", f"--submission={path}", "--data_dir=none", "--init=none"]
        assert command(finetune, *given) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_place_for_a_zip_is_left_as_it_is(tmp_path: Path) -> None:
    check_target(tmp_path / "new" / "glue.zip")
    assert not list(tmp_path.iterdir())


def test_what_is_no_zip_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt: File is not a zip file; delete it or give"):
        write_submission(path, {"RTE.tsv": ["entailment"]})
    assert path.read_text() == "mine"


def test_a_write_that_fails_leaves_the_old_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "glue.zip"
    write_submission(path, {"RTE.tsv": ["entailment"]})
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_submission(path, {"CoLA.tsv": ["1"]})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
