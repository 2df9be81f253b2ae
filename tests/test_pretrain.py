"""Pretraining by its real command: it learns, goes on after a kill bit for bit, and tells."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bertjax import prepare, pretrain
from bertjax.data import manifest as manifests
from bertjax.data.records import Records
from bertjax.data.shards import write_records
from bertjax.runs import run_folder
from bertjax.training import run_log

Command = Callable[..., int]
LOSSES = ("loss", "masked_lm_loss", "next_sentence_loss", "masked_lm_accuracy", "gradient_norm")


def losses(run: Path) -> list[tuple[float, ...]]:
    """(step, losses) of every line, to the last bit."""
    return [
        (line["step"], *(line[name] for name in LOSSES if name in line))
        for line in run_log.read_metrics(run)
    ]


@pytest.fixture(scope="module")
def arguments(tiny_settings: Path, tiny_records: Path) -> list[str]:
    """The command that made the fixture tiny_run, but for its workdir."""
    return [f"--config={tiny_settings}", f"data.records={tiny_records}"]


# --- Killed and started again ---------------------------------------------------------------

# Kills its own process, without any farewell, when step 8 is logged and a checkpoint is whole.
KILLED = """
import os, signal, time
from bertjax import pretrain
from bertjax.training import run_log
keep = run_log.RunLog.keep

def kept(self, step, metrics):
    keep(self, step, metrics)
    if step == 8:
        saved = pretrain.parse_arguments().workdir / "checkpoints"
        while not any(path.name.isdecimal() for path in saved.iterdir()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

run_log.RunLog.keep = kept
pretrain.main()
"""


def test_after_sigkill_the_losses_are_those_of_a_run_never_interrupted(
    command: Command,
    arguments: list[str],
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [*arguments, f"--workdir={tmp_path}"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *flags], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert losses(tmp_path) == losses(tiny_run)[:8]
    with open(tmp_path / run_log.METRICS, "a") as file:
        file.write('{"step": 9, "lo')
    assert command(pretrain, *flags) == 0
    assert "continuing at step 5" in capsys.readouterr().out
    assert losses(tmp_path) == losses(tiny_run)


def test_after_sigterm_the_run_goes_on_from_the_very_step(
    command: Command,
    arguments: list[str],
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [*arguments, f"--workdir={tmp_path}"]
    keep = run_log.RunLog.keep

    def kept(self: run_log.RunLog, step: int, metrics: dict[str, float]) -> None:
        keep(self, step, metrics)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_log.RunLog, "keep", kept)
        with pytest.raises(SystemExit) as left:
            command(pretrain, *flags)
    assert left.value.code == 0
    assert os.listdir(tmp_path / "checkpoints") == ["3"]
    assert "stopped at step 3" in capsys.readouterr().out
    assert command(pretrain, *flags) == 0
    said = capsys.readouterr().out
    assert "continuing at step 3" in said
    assert losses(tmp_path) == losses(tiny_run)
    # Twelve steps teach nothing yet, and the run says so.
    assert "warning: the masked-LM loss" in said
    assert "is not below" in said


def test_every_step_is_in_one_line_of_the_log_of_a_run_that_was_stopped(
    command: Command,
    arguments: list[str],
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = [*arguments, f"--workdir={tmp_path}", "log_every=5"]
    before = pretrain.phases.batches

    def until_the_third(*given: Any) -> Iterator[Any]:
        for number, batch in enumerate(before(*given), start=1):
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(pretrain.phases, "batches", until_the_third)
        with pytest.raises(SystemExit):
            command(pretrain, *flags)
    assert command(pretrain, *flags) == 0
    lines = {line["step"]: line["loss"] for line in run_log.read_metrics(tmp_path)}
    assert len(lines) == len(run_log.read_metrics(tmp_path))
    assert list(lines) == [3, 5, 10, 12]
    total = 3 * lines[3] + 2 * lines[5] + 5 * lines[10] + 2 * lines[12]
    assert total == pytest.approx(sum(loss for _, loss, *_ in losses(tiny_run)))


@pytest.fixture(scope="module")
def dynamic(
    tmp_path_factory: pytest.TempPathFactory,
    command: Command,
    tiny_corpus: Path,
    tiny_vocabulary: Path,
) -> Path:
    """Compact records: of sentences, 16 and 32 long, and packed pairs."""
    folder = tmp_path_factory.mktemp("dynamic")
    flags = [f"--input={tiny_corpus}", f"--vocab={tiny_vocabulary}", "--keep_lines"]
    flags += ["--masking=dynamic", "--workers=1"]
    for name, more in (
        ("shorter", ["--max_seq_length=16", "--segments=doc_sentences"]),
        ("longer", ["--max_seq_length=32", "--segments=doc_sentences"]),
        ("packed", ["--max_seq_length=32", "--packed", "--segments=sentence_pair"]),
    ):
        assert command(prepare, *flags, *more, f"--output={folder / name}") == 0
    return folder


def two_phases(folder: Path) -> list[str]:
    """Five steps at length 16, and seven at 32."""
    given = [f"data.records={folder / 'shorter'}", f"data.long_records={folder / 'longer'}"]
    return [*given, "train.long_share=0.6"]


def grown(folder: Path) -> list[str]:
    """LAMB with batches of 8 packed rows, and from step 7 on of 16; its moments in bfloat16."""
    given = [f"data.records={folder / 'packed'}", "train.batch_size=8"]
    given += ["train.batch_growth=((7, 16),)", "train.schedule=wsd"]
    return [*given, "train.optimizer=lamb", "train.moment_dtype=bfloat16"]


@pytest.mark.parametrize("records", [two_phases, grown])
def test_masks_phases_and_shapes_are_the_same_after_sigkill(
    records: Callable[[Path], list[str]],
    command: Command,
    tiny_settings: Path,
    dynamic: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [f"--config={tiny_settings}", *records(dynamic), "save_every=6"]
    whole, killed = (f"--workdir={tmp_path / name}" for name in ("whole", "killed"))
    assert command(pretrain, *flags, whole) == 0
    done = subprocess.run([sys.executable, "-c", KILLED, *flags, killed], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert command(pretrain, *flags, killed) == 0
    # Which lies in the second phase, or between two sizes of batches.
    assert "continuing at step 6" in capsys.readouterr().out
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 12
    assert all(np.isfinite(line["loss"]) for line in run_log.read_metrics(tmp_path / "whole"))


# --- What a run leaves ----------------------------------------------------------------------


def test_metrics_jsonl_has_a_line_a_step_with_the_promised_fields(tiny_run: Path) -> None:
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    promised = {*LOSSES, "next_sentence_accuracy", "tokens_per_second", "padding_share"}
    promised |= {"input_wait_share", "eta_seconds"}
    for line in lines:
        assert promised <= set(line)
        assert all(np.isfinite(value) for value in line.values())
        assert line["loss"] == pytest.approx(line["masked_lm_loss"] + line["next_sentence_loss"])
    # A fresh model knows nothing: the loss of guessing among V pieces and two labels.
    manifest = manifests.load(Path(run_folder.load_config(tiny_run)["settings"]["data"]["records"]))
    assert lines[0]["masked_lm_loss"] == pytest.approx(np.log(manifest.vocab_size), rel=0.05)
    assert lines[0]["next_sentence_loss"] == pytest.approx(np.log(2), rel=0.1)


def test_tensorboard_events_are_the_same_numbers(tiny_run: Path) -> None:
    found: dict[int, float] = {}
    for path in tiny_run.glob("events.out.tfevents.*"):
        for message in tf.data.TFRecordDataset([str(path)]):
            event = tf.compat.v1.Event.FromString(message.numpy())
            for value in event.summary.value:
                if value.tag == "loss":
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    lines = run_log.read_metrics(tiny_run)
    assert found == pytest.approx({line["step"]: line["loss"] for line in lines})


def test_the_run_folder_has_config_tokenizer_and_checkpoints(
    tiny_run: Path, tiny_records: Path
) -> None:
    config = run_folder.load_config(tiny_run)
    assert config["kind"] == "pretrain"
    assert config["max_seq_length"] == 32
    assert config["model"]["hidden_size"] == 32
    assert config["settings"]["train"]["steps"] == 12
    assert (tiny_run / "vocab.txt").read_bytes() == (tiny_records / "vocab.txt").read_bytes()
    # save_every=5, and the last step.
    assert sorted(os.listdir(tiny_run / "checkpoints")) == ["10", "12"]


def test_a_finished_run_started_again_changes_nothing(
    command: Command, arguments: list[str], tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_run / "metrics.jsonl").read_bytes()
    assert command(pretrain, *arguments, f"--workdir={tiny_run}") == 0
    assert "continuing at step 12" in capsys.readouterr().out
    assert (tiny_run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "other", ["train.seed=1", "train.learning_rate=0.5", "train.clip_norm=7.0"]
)
def test_a_workdir_with_other_settings_is_refused(
    other: str,
    command: Command,
    arguments: list[str],
    tiny_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (tiny_run / "config.json").read_bytes()
    assert command(pretrain, *arguments, other, f"--workdir={tiny_run}") == 2
    error = capsys.readouterr().err
    assert "holds a run with other settings" in error
    assert other.split("=")[1] in error
    assert (tiny_run / "config.json").read_bytes() == before


def test_what_changes_nothing_that_is_learnt_may_change(
    command: Command,
    arguments: list[str],
    tiny_run: Path,
    tiny_records: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    moved = shutil.copytree(tiny_records, tmp_path / "moved")
    flags = [*arguments, f"--workdir={run}", "log_every=7", "save_every=3", "eval_every=50"]
    flags += ["keep_last=1", "max_skipped=3", "stuck_after=9.0", "train.microbatches=2"]
    assert command(pretrain, *flags, f"data.records={moved}") == 0
    kept = run_folder.load_config(run)["settings"]
    assert (kept["log_every"], kept["data"]["records"]) == (7, str(moved))
    # Other records are others wherever they lie.
    manifest = manifests.load(moved)
    first, *rest = manifest.shards
    changed = (dataclasses.replace(first, sha256="0" * 64), *rest)
    dataclasses.replace(manifest, shards=changed).save(moved)
    assert command(pretrain, *flags, f"data.records={moved}") == 2
    assert "other settings (records was" in capsys.readouterr().err


def test_a_warm_up_that_does_not_end_is_told(
    command: Command, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*arguments, f"--workdir={tmp_path}", "train.steps=2", "train.warmup_steps=10000"]
    assert command(pretrain, *flags) == 0
    told = "warning: train.warmup_steps=10000 of 2 steps: the rate never reaches 0.001; give a"
    assert told in capsys.readouterr().out


# --- Damaged records ------------------------------------------------------------------------


def test_damaged_records_are_left_out_on_demand(
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(tiny_records, tmp_path / "records")
    paths = sorted(folder.glob("*.tfrecord"))
    for path in paths:  # one in each
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    flags = [f"--config={tiny_settings}", f"data.records={folder}", "train.steps=10"]
    flags += ["save_every=100", f"--workdir={tmp_path / 'run'}"]
    assert command(pretrain, *flags) == 2
    assert "leave such records out: data.skip_damaged=True" in capfd.readouterr().err
    assert command(pretrain, *flags, "data.skip_damaged=True") == 0
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(told) == len(paths)
    assert told[-1].endswith(f"skipped ({len(paths)} so far)")
    assert len(losses(tmp_path / "run")) == 10


# --- It learns ------------------------------------------------------------------------------


def test_one_batch_is_overfitted_far_below_the_unigram_entropy(
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The first sixteen records as a corpus of their own, trained on and evaluated.
    source = Records(tiny_records)
    folder = tmp_path / "records"
    folder.mkdir()
    shard = write_records(folder / "one.tfrecord", (source[i] for i in range(16)))
    dataclasses.replace(source.manifest, shards=(shard,)).save(folder)
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_records / name).read_bytes())
    flags = [f"--config={tiny_settings}", f"--workdir={tmp_path / 'run'}"]
    flags += [f"data.records={folder}", f"data.eval_records={folder}"]
    flags += ["train.steps=200", "train.learning_rate=5e-3", "train.warmup_steps=20"]
    flags += ["model.hidden_dropout=0.0", "model.attention_dropout=0.0", "log_every=50"]
    assert command(pretrain, *flags, "save_every=200", "eval_every=200") == 0

    entropy = source.manifest.corpus["unigram_entropy"]
    lines = {
        line["step"]: line for line in run_log.read_metrics(tmp_path / "run") if "loss" in line
    }
    assert lines[50]["masked_lm_loss"] < entropy
    assert lines[200]["masked_lm_loss"] < 0.1 * entropy
    assert lines[200]["next_sentence_loss"] < 0.1
    evaluated = run_log.read_metrics(tmp_path / "run")[-1]
    assert evaluated["eval_masked_lm_loss"] < 0.1 * entropy
    assert evaluated["eval_next_sentence_accuracy"] == 1
    said = capsys.readouterr().out
    assert f"must fall below {entropy:.3f}" in said
    assert "held out, step 200" in said
    assert "warning" not in said
