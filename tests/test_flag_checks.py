"""Flags that would change nothing are refused before anything is read or trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bertjax import finetune
from bertjax.errors import UserError
from bertjax.finetuning import flag_checks
from bertjax.tasks.table import TASKS

Command = Callable[..., int]
PREDICT = ["--mode=predict", "--workdir=none"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task=rte", "--input=x.tsv"], "--input: for --mode=predict"),
        (["--task=rte", "--output=x"], "--output: for --mode=predict"),
        (["--task=rte", "--ensemble", "a", "b"], "--ensemble: for --mode=predict"),
        (["--task=rte", "--keep_all"], "--keep_all: of one run all is kept; add --seeds=N or"),
        (["--task=rte", "--keep_all", "--seeds=1"], "--keep_all: of one run all is kept"),
        ([*PREDICT, "--seeds=3", "--sweep"], "--seeds, --sweep: --mode=predict goes on with"),
        ([*PREDICT, "--init=x"], "--init: --mode=predict goes on with"),
        ([*PREDICT, "--train=x.tsv"], "--train: --mode=predict goes on with"),
        ([*PREDICT, "--extra_train=x.tsv"], "--extra_train: --mode=predict goes on with"),
        ([*PREDICT, "--max_seq_length=8"], "--max_seq_length: --mode=predict goes on with"),
        ([*PREDICT, "--input=x.tsv", "--data_dir=y"], "--data_dir: --input alone is predicted"),
        ([*PREDICT, "--ensemble", "a", "b"], "--workdir: one run"),
        ([*PREDICT, f"--output={__file__}"], f"--output={__file__}: a file; give a folder"),
        (["--task=classify", "--doc_stride=4"], "--doc_stride=4: is for questions, not for"),
        (["--task=rte", "--n_best=4"], "--n_best=4: is for questions, not for --task=rte"),
        (["--task=squad", "--head=linear"], "--head=linear: is for tagging, not for"),
        (["--task=rte", "--no-document_context"], "--no-document_context: is for tagging"),
        (["--task=squad", "--null_threshold=1"], "--null_threshold=1: every question of"),
    ],
)
def test_idle_flags_are_refused(
    flags: list[str], message: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(finetune, *flags) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    "flags",
    [
        ["--task=conll", "--head=linear", "--no-document_context"],
        ["--task=squad", "--doc_stride=4", "--max_query_length=4", "--n_best=4"],
        ["--task=squad2", "--null_threshold=1"],
        ["--task=rte", "--sweep", "--epochs=1", "--seeds=2", "--dropout=0", "--bias_correction"],
        ["--task=rte", "--sweep", "--keep_all"],
        ["--task=rte", "--seeds=2", "--keep_all"],
        [*PREDICT, "--task=squad2", "--null_threshold=-2.1", "--n_best=1", "--input=x.json"],
        ["--mode=predict", "--ensemble", "a", "b", "--task=rte", "--output=x", "--data_dir=y"],
        [*PREDICT, "--task=tag", "--columns", "tokens=words", "--input=x.csv"],
    ],
)
def test_flags_that_are_read_pass(flags: list[str]) -> None:
    parsed = finetune.parse_arguments(flags)
    flag_checks.check_mode(parsed, finetune.parse_arguments([]))
    flag_checks.check_task(parsed, TASKS[parsed.task])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seeds=-1", "--seeds=-1: give at least 1"),
        ("--seeds=0", "--seeds=0: give at least 1"),
        ("--seed=-1", "--seed=-1: give a number from 0"),
        ("--epochs=0", "--epochs=0: give at least 1"),
        ("--warmup_share=nan", "--warmup_share=nan: give a share from 0 to 1"),
        ("--warmup_share=inf", "--warmup_share=inf: give a share"),
        ("--warmup_share=-1", "--warmup_share=-1.0: give a share"),
        ("--warmup_share=5", "--warmup_share=5.0: give a share"),
        ("--layer_decay=-1", "--layer_decay=-1.0: give a factor"),
        ("--layer_decay=0", "--layer_decay=0.0: give a factor"),
        ("--layer_decay=nan", "--layer_decay=nan: give a factor"),
        ("--learning_rate=inf", "--learning_rate=inf: give a number, 0 or more"),
        ("--learning_rate=nan", "--learning_rate=nan: give a number, 0 or more"),
        ("--learning_rate=-1", "--learning_rate=-1.0: give a number, 0 or more"),
        ("--null_threshold=nan", "--null_threshold=nan: give a number"),
        ("--batch_size=12", "batch_size 12 is not a multiple"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--sweep"]])
def test_numbers_that_cannot_be_trained_with_are_refused(
    flag: str,
    message: str,
    more: list[str],
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--task=squad2", "--init=none", "--batch_size=8", flag, *more]
    assert command(finetune, *given) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("held", "more", "message"),
    [
        ("sweep.json", [], ": holds a sweep, whose best run is all that is read of it; give a"),
        ("sweep.json", ["--seeds=1"], ": holds a sweep"),
        ("mix/sweep.json", ["--layers=all"], "/mix: holds a sweep"),
        ("config.json", ["--seeds=2"], ": holds a single run, which a sweep would hide; give this"),
        ("config.json", ["--sweep"], ": holds a single run"),
        ("last/config.json", ["--sweep", "--layers=all"], "/last: holds a single run"),
    ],
)
def test_a_sweep_and_a_single_run_do_not_share_a_folder(
    held: str,
    more: list[str],
    message: str,
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text('{"kind": "finetune"}')
    given = ["--task=rte", "--init=none", f"--workdir={tmp_path}", *more]
    assert command(finetune, *given) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}{message}")
    assert said.endswith("another --workdir\n")


def test_every_flag_belongs_to_a_mode_or_to_both() -> None:
    """A new flag must be given its place, or it would be ignored in silence."""
    both = {"task", "mode", "workdir", "data_dir", "dev", "test", "columns", "submission"}
    both |= {"max_answer_length", "n_best", "null_threshold"}
    placed = both | {*flag_checks.TRAINING, *flag_checks.PREDICTING}
    assert set(vars(finetune.parse_arguments([]))) == placed


def test_another_task_than_the_run_s_is_refused() -> None:
    flags = finetune.parse_arguments([*PREDICT, "--task=rte"])
    with pytest.raises(UserError, match=r"^--task=rte: the run is of --task=squad; leave it out$"):
        flag_checks.check_task(flags, TASKS["squad"])


def test_predicting_an_own_task_asks_for_a_file() -> None:
    flags = finetune.parse_arguments(PREDICT)
    with pytest.raises(UserError, match=r"^--input is missing: give the file"):
        flag_checks.check_input(flags, TASKS["classify"])
    flag_checks.check_input(flags, TASKS["squad"])
    given = finetune.parse_arguments([*PREDICT, "--dev=x.tsv"])
    flag_checks.check_input(given, TASKS["classify"])
