"""Fine-tuning by its real command: a separable task is learnt, and what is written is true."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from bertjax import export, finetune
from bertjax.errors import UserError
from bertjax.finetuning import earlier, from_flags, tuning
from bertjax.finetuning.method import Data
from bertjax.runs import checkpoint, run_folder
from bertjax.tasks.sentences import Example
from bertjax.training import run_log

Command = Callable[..., int]
FLAGS = ["--batch_size=16", "--max_seq_length=16", "--dropout=0", "--learning_rate=2e-3"]


def put_rows(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def sentence(rng: random.Random, noun: str) -> str:
    words = ["the", "small", "old", "quiet", "green", "distant", "farmer", "letter"]
    before, after = (rng.sample(words, rng.randint(1, 4)) for _ in range(2))
    return " ".join([*before, noun, *after])


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is the sentence about a river or a garden? 60 to train on, 21 to test with."""
    folder, rng = tmp_path_factory.mktemp("task"), random.Random(0)

    def rows(count: int) -> list[tuple[str, ...]]:
        names = ["water" if i % 2 else "land" for i in range(count)]
        nouns = {"water": "river", "land": "garden"}
        return [(sentence(rng, nouns[name]), name) for name in names]

    put_rows(folder / "train.tsv", [("sentence", "label"), *rows(60)])
    # Quotation marks are part of GLUE's texts, not of its format.
    odd = [('"the "old" river', "water"), ('garden"', "land")]
    put_rows(folder / "dev.tsv", [("sentence", "label"), *rows(19), *odd])
    put_rows(folder / "test.tsv", [("index", "sentence"), ("7", "the river"), ("8", "a garden")])
    return folder


@pytest.fixture(scope="module")
def arguments(task: Path, tiny_run: Path) -> list[str]:
    files = [f"--data_dir={task}", f"--init={tiny_run}"]
    return ["--task=classify", *files, *FLAGS, "--epochs=20"]


@pytest.fixture(scope="module")
def run(command: Command, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuned") / "run"
    assert command(finetune, *arguments, f"--workdir={folder}") == 0
    return folder


def predictions(run: Path, split: str = "dev") -> list[dict[str, str]]:
    with open(run / f"predictions-{split}.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def gold(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


# --- What is written ------------------------------------------------------------------------


def test_a_separable_task_is_learnt_completely(run: Path) -> None:
    assert result(run)["score"] == 1.0


def test_the_predictions_hold_every_example_in_order(run: Path, task: Path) -> None:
    rows = predictions(run)
    assert [row["index"] for row in rows] == [str(i) for i in range(21)]
    assert [[row["text_a"], row["label"]] for row in rows] == gold(task / "dev.tsv")
    assert all(0.5 <= float(row["confidence"]) <= 1 for row in rows)
    tested = predictions(run, "test")
    assert [row["text_a"] for row in tested] == ["the river", "a garden"]
    assert [row["prediction"] for row in tested] == ["water", "land"]
    assert [row["label"] for row in tested] == ["", ""]


def test_the_metrics_are_those_of_the_predictions_file(run: Path, tiny_run: Path) -> None:
    rows, written = predictions(run), result(run)
    right = np.mean([row["prediction"] == row["label"] for row in rows])
    assert written["dev"]["accuracy"] == written["score"] == right
    assert written["dev"]["examples"] == 21
    assert written["majority_baseline"] == pytest.approx(11 / 21)
    assert (written["task"], written["split"], written["primary"]) == (
        "classify",
        "dev",
        "accuracy",
    )
    assert written["init"] == str(tiny_run)


def test_the_run_keeps_labels_tokenizer_and_a_score_for_every_epoch(
    run: Path, tiny_run: Path
) -> None:
    config = run_folder.load_config(run)
    assert config["labels"] == ["land", "water"]
    assert config["model"]["hidden_size"] == 32
    assert (run / "vocab.txt").read_bytes() == (tiny_run / "vocab.txt").read_bytes()
    lines = run_log.read_metrics(run)
    # 60 examples are 4 steps of 16 an epoch.
    evaluated = {line["step"]: line["dev_accuracy"] for line in lines if "dev_accuracy" in line}
    assert sorted(evaluated) == [4 * epoch for epoch in range(1, 21)]
    assert max(evaluated.values()) == result(run)["score"]


# --- Again, and after a kill ----------------------------------------------------------------


def test_a_second_run_trains_nothing_and_says_so(
    command: Command,
    arguments: list[str],
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning.Tuner, "_train", None)
    assert command(finetune, *arguments, f"--workdir={run}") == 0
    assert f"reusing {run}: accuracy 1.0000 on dev" in capsys.readouterr().out


def test_a_run_is_not_reused_for_examples_or_weights_that_have_changed(
    command: Command,
    arguments: list[str],
    task: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: Any) -> None:
        raise UserError("far enough")

    monkeypatch.setattr(tuning.Tuner, "_train", stop)
    data, start = (shutil.copytree(f, tmp_path / f.name) for f in (task, tiny_run))
    flags = [*arguments, f"--data_dir={data}", f"--init={start}", f"--workdir={tmp_path / 'run'}"]

    def told() -> str:
        assert command(finetune, *flags) == 2
        return capsys.readouterr().err.removeprefix("error: ")

    assert told() == told() == "far enough\n"
    for split, what in (("train", "train examples"), ("dev", "dev examples")):
        file = data / f"{split}.tsv"
        before = file.read_text()
        file.write_text(before.replace("\twater", "\tland", 1))
        assert told() == (
            f"{tmp_path}/run: holds a run with other settings (the {what} have changed since); use "
            "another --workdir or delete the folder\n"
        )
        file.write_text(before)
    assert told() == "far enough\n"
    honest = checkpoint.load_params

    def trained_further(*given: Any, **more: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf * 2, honest(*given, **more))

    monkeypatch.setattr(checkpoint, "load_params", trained_further)
    assert "(the weights of --init have changed since)" in told()


def test_digests_tell_of_texts_and_labels_and_not_of_paths() -> None:
    def digests(gold: str, where: str) -> dict[str, str]:
        example = Example("a", "caf\u00e9", gold, where)
        return Data({"train": [example], "dev": [example] * 2, "test": []}, {}, "x").digests

    found = digests("yes", "a.tsv:2")
    assert found == digests("yes", "b.tsv:3")
    # As it was in another process.
    assert found["train"] == ("a93a2ae9f34b4d98227d8a0eb4671d5a6997b33a50d5d8f88d2209bde2adfb6d")
    other = digests("no", "a.tsv:2")
    assert all(found[name] != other[name] for name in ("train", "dev"))


def test_a_killed_run_goes_on_to_the_same_result(
    command: Command,
    arguments: list[str],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep = run_log.RunLog.keep

    def kept(self: run_log.RunLog, step: int, metrics: dict[str, float]) -> None:
        keep(self, step, metrics)
        if step == 24:
            os.kill(os.getpid(), signal.SIGTERM)

    flags = [*arguments, f"--workdir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(run_log.RunLog, "keep", kept)
        with pytest.raises(SystemExit) as left:
            command(finetune, *flags)
    assert left.value.code == 0

    # Asked to stop again when it has trained, between the predictions of dev and of test.
    conclude = tuning.conclude

    def concluded(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return conclude(*given)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "conclude", concluded)
        with pytest.raises(SystemExit) as left:
            command(finetune, *flags)
    assert left.value.code == 0
    assert not (tmp_path / "metrics.json").exists()
    assert command(finetune, *flags) == 0

    def scores(folder: Path) -> list[tuple[float, float | None, float | None]]:
        lines = run_log.read_metrics(folder)
        return [(line["step"], line.get("loss"), line.get("dev_accuracy")) for line in lines]

    assert scores(tmp_path) == scores(run)
    for name in ("predictions-dev.tsv", "predictions-test.tsv"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize(("per_epoch", "save_every"), [(4, 4), (5000, 1000)])
def test_a_long_epoch_is_saved_on_its_way(
    per_epoch: int,
    save_every: int,
    command: Command,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []

    def stop(*_: Any, timetable: Any, **others: Any) -> None:
        seen.append((timetable.eval_every, timetable.save_every))
        raise UserError("far enough")

    monkeypatch.setattr(tuning.data_rows, "steps_per_epoch", lambda *_: per_epoch)
    monkeypatch.setattr(tuning.loop, "train", stop)
    assert command(finetune, *arguments, f"--workdir={tmp_path}") == 2
    assert seen == [(per_epoch, save_every)]


# --- Where the weights come from ------------------------------------------------------------


def encoder_after_nothing(command: Command, arguments: list[str], run: Path, *more: str) -> Any:
    """The encoder of a run whose learning rate is 0: what it began with."""
    flags = [*arguments, "--learning_rate=0", "--epochs=1", f"--workdir={run}", *more]
    assert command(finetune, *flags) == 0
    return checkpoint.load_params(run)["encoder"]


def same(first: Any, second: Any) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(second)))


def test_the_pretrained_encoder_is_where_it_starts(
    command: Command,
    arguments: list[str],
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = checkpoint.load_params(tiny_run)["encoder"]
    assert same(encoder_after_nothing(command, arguments, tmp_path / "given"), wanted)
    said = capsys.readouterr().out
    assert f"weights from {tiny_run}" in said
    assert "+ head: starts fresh" in said
    assert "- masked_lm: left out" in said


def test_an_exported_folder_serves_as_well(
    command: Command, arguments: list[str], tiny_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "exported"
    assert command(export, f"--run={tiny_run}", f"--output={folder}") == 0
    found = encoder_after_nothing(command, arguments, tmp_path / "run", f"--init={folder}")
    assert same(found, checkpoint.load_params(tiny_run)["encoder"])


def test_from_scratch_takes_only_size_and_vocabulary(
    command: Command,
    arguments: list[str],
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = encoder_after_nothing(command, arguments, tmp_path / "a", f"--init=scratch:{tiny_run}")
    wanted = checkpoint.load_params(tiny_run)["encoder"]
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, wanted)
    fresh, given = (tree["embeddings"]["token"]["embedding"] for tree in (found, wanted))
    assert not np.allclose(fresh, given, atol=1e-3)
    assert "weights from" not in capsys.readouterr().out
    assert result(tmp_path / "a")["init"] == "scratch"


def test_labels_are_those_of_all_examples_however_few_are_drawn(
    command: Command, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, int]] = []

    def run_all(flags: Any, tuner: Any, folder: Path, data: Any, first: Any) -> Path:
        seen.append((tuner.context.labels, len(data.examples["train"])))
        return folder

    monkeypatch.setattr(from_flags, "run_all", run_all)
    assert command(finetune, *arguments, "--train_examples=1", f"--workdir={tmp_path}") == 0
    assert seen == [(["land", "water"], 1)]


def test_what_came_after_the_training_is_told_with_the_way_to_its_answers(
    command: Command,
    arguments: list[str],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    # What lies there is of other examples than the file's now.
    known = result(run)["digests"]
    (old / "metrics.json").write_text(json.dumps(result(run) | {"digests": known | {"test": "x"}}))
    assert command(finetune, *arguments, f"--workdir={old}") == 0
    way = f"predict it: --mode=predict --workdir={old} --output=DIR, with the same "
    assert f"on dev; test came after the training, {way}data\n" in capsys.readouterr().out
    data: Any = SimpleNamespace(digests=known)
    with pytest.raises(UserError) as refused:
        earlier.check_predicted(old, data, {"test": "SST-2.tsv"})
    assert str(refused.value).endswith(f"came after the training, {way}--data_dir and --submission")
    earlier.check_predicted(old, data, {"dev": "SST-2.tsv"})


def test_without_init_the_newest_pretraining_is_taken_and_told(
    command: Command,
    arguments: list[str],
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(from_flags, "run_all", lambda *_: tmp_path)
    flags = [flag for flag in arguments if not flag.startswith("--init=")]
    assert command(finetune, *flags) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: --init is missing, and runs/ holds no pretraining run to")
    assert not said.out
    shutil.copytree(tiny_run, tmp_path / "runs" / "base")
    assert command(finetune, *flags) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "weights: the newest run, runs/base (others: --init)"
    assert second.startswith("classify: train ")


def test_what_is_trained_on_first_is_read_with_the_rest_and_checked_before_any_model(
    command: Command,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = tmp_path / "more.tsv"
    flags = [*arguments, f"--extra_train={more}", f"--workdir={tmp_path / 'run'}"]

    def told() -> str:
        assert command(finetune, *flags) == 2
        return capsys.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr(finetune.method, "encode", None)
        assert told() == f"error: {more}: not found\n"
        put_rows(more, [("sentence", "label"), ("a", "b", "c")])
        assert told().startswith(f"error: {more}:2: 3 columns, the header has 2")
    monkeypatch.setattr(finetune, "Tuner", None)
    put_rows(more, [("sentence", "label"), ("the river", "mud")])
    assert told().startswith(f"error: {more}:2: unknown label 'mud'")


# --- Predicting -----------------------------------------------------------------------------


def test_what_is_cut_is_told_wherever_texts_are_read(
    command: Command,
    arguments: list[str],
    run: Path,
    task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = ("the old river " * 9, "water")
    put_rows(tmp_path / "new.tsv", [("sentence", "label"), ("a garden", ""), long])
    given = [f"--workdir={run}", f"--input={tmp_path / 'new.tsv'}", f"--output={tmp_path / 'p'}"]
    assert command(finetune, "--mode=predict", *given) == 0
    said = capsys.readouterr().out
    assert "\nnew: 2 examples; 1 cut at 16 tokens\n" in said
    reason = "for 1 of 2 examples have no label or answer; the first is"
    assert f"\nnew: no scores, {reason} {tmp_path}/new.tsv:2\n" in said

    def stop(*_: Any) -> None:
        raise UserError("far enough")

    monkeypatch.setattr(tuning.Tuner, "run", stop)
    put_rows(tmp_path / "more.tsv", [("sentence", "label"), ("a garden", "land"), long])
    flags = [*arguments, f"--extra_train={tmp_path / 'more.tsv'}", f"--workdir={tmp_path / 'r'}"]
    assert command(finetune, *flags) == 2
    said = capsys.readouterr().out
    assert said.endswith(f"first on {tmp_path}/more.tsv: 2 examples; 1 cut at 16 tokens\n")


def test_all_splits_are_checked_before_the_first_is_predicted(
    command: Command, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = tmp_path / "data", tmp_path / "predicted"
    rows = [("sentence", "label"), ("the river", "water")]
    put_rows(data / "train.tsv", rows)
    given = ["--mode=predict", f"--workdir={run}", f"--data_dir={data}", f"--output={output}"]
    assert command(finetune, *given) == 2
    assert capsys.readouterr().err.startswith(f"error: {data}: only train is there, which is not")
    put_rows(data / "dev.tsv", rows)
    put_rows(data / "test.tsv", [*rows, ("the sea", "salt")])
    assert command(finetune, *given) == 2
    assert f"error: {data / 'test.tsv'}:3: unknown label 'salt'" in capsys.readouterr().err
    assert not output.exists()


def test_a_run_s_own_predictions_are_not_replaced_whether_the_folder_is_named_or_not(
    command: Command, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the training's command, given again with --submission, would pack the others."""
    put_rows(tmp_path / "test.tsv", [("sentence",), ("a garden",)])
    another = shutil.copytree(run, tmp_path / "another")
    given = ["--mode=predict", f"--workdir={run}", f"--input={tmp_path / 'test.tsv'}"]
    for folder, output in (
        (run, []),
        (run, [f"--output={run}"]),
        (another, [f"--output={another}"]),
    ):
        before = (folder / "predictions-test.tsv").read_bytes()
        assert command(finetune, *given, *output) == 2
        told = (
            f"error: {folder}: holds the training's own predictions of test; give others a folder"
        )
        assert capsys.readouterr().err.startswith(told)
        assert (folder / "predictions-test.tsv").read_bytes() == before


# --- Formats --------------------------------------------------------------------------------


def test_sst2_as_glue_has_it(command: Command, tiny_run: Path, task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "SST-2"
    for split in ("train", "dev"):
        rows = [(text + " ", "01"[name == "water"]) for text, name in gold(task / f"{split}.tsv")]
        put_rows(folder / f"{split}.tsv", [("sentence", "label"), *rows])
    put_rows(folder / "test.tsv", [("index", "sentence"), ("0", "the river ")])
    archive = tmp_path / "glue.zip"
    files = [f"--data_dir={folder}", f"--init={tiny_run}", f"--workdir={tmp_path / 'run'}"]
    arguments = ["--task=sst2", *files, *FLAGS, "--epochs=20", f"--submission={archive}"]
    assert command(finetune, *arguments) == 0
    assert result(tmp_path / "run")["score"] == 1.0
    assert run_folder.load_config(tmp_path / "run")["labels"] == ["0", "1"]
    assert [row["prediction"] for row in predictions(tmp_path / "run", "test")] == ["1"]
    with zipfile.ZipFile(archive) as held:
        assert held.read("SST-2.tsv") == b"index\tprediction\n0\t1\n"
    # Predicting gives the same zip.
    given = [f"--workdir={tmp_path / 'run'}", f"--data_dir={folder}", f"--output={tmp_path / 'p'}"]
    again = tmp_path / "again.zip"
    assert command(finetune, "--mode=predict", *given, f"--submission={again}") == 0
    assert again.read_bytes() == archive.read_bytes()


def test_pairs_of_texts(command: Command, tiny_run: Path, tmp_path: Path) -> None:
    folder, rng = tmp_path / "pairs", random.Random(1)

    def rows(count: int) -> list[tuple[str, ...]]:
        return [
            (rng.choice(["an old letter", "the farmer"]), rng.choice(["river", "garden"]), "yes")
            for _ in range(count)
        ]

    # The label hangs on the second text alone.
    named = [(a, b, "yes" if b == "river" else "no") for a, b, _ in rows(60)]
    header = ("sentence1", "sentence2", "label")
    put_rows(folder / "train.tsv", [header, *named])
    put_rows(folder / "dev.tsv", [header, *named[:10]])
    files = [f"--data_dir={folder}", f"--init={tiny_run}", f"--workdir={tmp_path / 'run'}"]
    assert command(finetune, "--task=pair", *files, *FLAGS, "--epochs=40") == 0
    assert result(tmp_path / "run")["score"] == 1.0
    found = [(row["text_a"], row["text_b"], row["label"]) for row in predictions(tmp_path / "run")]
    assert found == named[:10]
