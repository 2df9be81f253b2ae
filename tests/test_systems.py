"""Every system by its real commands: pretrained, stopped and continued, fine-tuned, refused."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from bertjax import export, fill, finetune, prepare, pretrain, settings
from bertjax.data import manifest as manifest_of
from bertjax.models import encoders, flops
from bertjax.models.config import BertConfig
from bertjax.runs import checkpoint, run_folder
from bertjax.text import tokenizer
from bertjax.training import inputs, run_log

Command = Callable[..., int]
CONFIGS = Path(__file__).parents[1] / "configs"

# As configs/elmo.py and its like, on the tiny settings.
_SETTINGS = """
from nano import get_config as nano


def get_config(name):
    config = nano()
    config.train.steps = 6
    if name == "elmo":
        config.encoder = "elmo"
        config.model = {
            "size": "tiny", "lstm_size": 16, "projection_size": 8, "words": "characters",
            "sampler": "log_uniform", "num_sampled": 20, "hidden_dropout": 0.1, "dtype": "float32",
        }
    elif name == "left_to_right":
        config.model.attention = "causal"
    else:
        parts = dict(residual="pre_norm", positions="rope", feed_forward="geglu",
                     attention="local_global", attention_window=8)
        config.model.update(parts)
        config.data.mask_unit, config.data.masked_lm_prob = "whole_word", 0.3
        config.train.next_sentence = False
    return config
"""
SYSTEMS = ("elmo", "left_to_right", "modern")
PARTS = {
    "elmo": ["forward_lm", "backward_lm"],
    "left_to_right": ["forward_lm"],
    "modern": ["masked_lm"],
}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory, tiny_settings: Path) -> Path:
    folder = tmp_path_factory.mktemp("systems")
    (folder / "nano.py").write_bytes(tiny_settings.read_bytes())
    (folder / "systems.py").write_text(_SETTINGS, encoding="utf-8")
    return folder / "systems.py"


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory, command: Command, tiny_corpus: Path
) -> Callable[[str], Path]:
    """Compact records: of words for ELMo; packed pairs with labels, of pieces, for the others."""
    folder = tmp_path_factory.mktemp("records")
    flags = [f"--input={tiny_corpus}", "--keep_lines", "--masking=dynamic", "--workers=1"]
    flags += ["--max_seq_length=32"]
    words = ["--vocab_kind=words", "--min_count=1", "--segments=doc_sentences"]
    assert command(prepare, *flags, *words, f"--output={folder / 'words'}") == 0
    pieces = ["--vocab_size=150", "--packed", "--segments=nsp"]
    assert command(prepare, *flags, *pieces, f"--output={folder / 'pieces'}") == 0
    return lambda system: folder / ("words" if system == "elmo" else "pieces")


@pytest.fixture(scope="module", params=SYSTEMS)
def system(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    command: Command,
    config_file: Path,
    records: Callable[[str], Path],
) -> tuple[str, Path, list[str]]:
    """(name, its run, the command that made it)."""
    name = request.param
    run, own = tmp_path_factory.mktemp("run") / name, records(name)
    flags = [f"--config={config_file}:{name}", f"data.records={own}", f"data.eval_records={own}"]
    assert command(pretrain, *flags, f"--workdir={run}") == 0
    return name, run, flags


def test_a_stopped_run_goes_on_bit_for_bit(
    system: tuple[str, Path, list[str]],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, whole, flags = system
    keep = run_log.RunLog.keep

    def kept(self: run_log.RunLog, step: int, metrics: dict[str, float]) -> None:
        keep(self, step, metrics)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def losses(run: Path) -> list[tuple[float, float]]:
        lines = run_log.read_metrics(run)
        return [(line["step"], line["loss"]) for line in lines if "loss" in line]

    with monkeypatch.context() as patch:
        patch.setattr(run_log.RunLog, "keep", kept)
        with pytest.raises(SystemExit):
            command(pretrain, *flags, f"--workdir={tmp_path}")
    assert len(losses(tmp_path)) == 2
    assert command(pretrain, *flags, f"--workdir={tmp_path}") == 0
    assert losses(tmp_path) == losses(whole)
    assert len(losses(whole)) == 6


def test_its_losses_are_logged_and_evaluated(system: tuple[str, Path, list[str]]) -> None:
    name, run, _ = system
    first, *_, evaluated = run_log.read_metrics(run)
    assert first["loss"] == pytest.approx(sum(first[f"{part}_loss"] for part in PARTS[name]))
    assert {key for key in first if key.endswith("_loss")} == {f"{p}_loss" for p in PARTS[name]}
    for part in PARTS[name]:
        loss = evaluated[f"eval_{part}_loss"]
        assert 0 <= evaluated[f"eval_{part}_accuracy"] <= 1
        if part != "masked_lm":
            found = evaluated[f"eval_{part}_perplexity"]
            assert found == pytest.approx(2.718281828**loss, rel=1e-5)
            assert f"{part}_perplexity" in first
    assert first["gradient_norm/layers"] > 0 and first["update_norm/layers"] > 0
    operations = first["teraflops_per_device"] * 1e12 * jax.device_count()
    operations *= first["seconds_per_step"]
    if name == "elmo":
        config: Any = encoders.from_run(run_folder.load_config(run))
        assert operations == pytest.approx(flops.pretraining_step(config, 16, 32, 32))
    assert operations > 0


def test_it_is_fine_tuned_and_predicts(
    system: tuple[str, Path, list[str]],
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, run, _ = system
    how = [] if name == "modern" else ["--encoder=frozen", "--layers=mix"]
    rows = ["the old farmer watched\tyes", "a green river found\tno"]
    table = tmp_path / "train.tsv"
    table.write_text("sentence\tlabel\n" + "\n".join(rows * 8) + "\n")
    flags = ["--task=classify", f"--init={run}", f"--train={table}", f"--dev={table}", *how]
    flags += [f"--workdir={tmp_path / 'tuned'}", "--epochs=1", "--batch_size=8"]
    assert command(finetune, *flags, "--max_seq_length=32") == 0
    said = capsys.readouterr().out
    assert f"weights from {run}" in said
    assert ("layer mix, embeddings first" in said) == bool(how)
    given = ["--mode=predict", f"--workdir={tmp_path / 'tuned'}", f"--input={table}"]
    assert command(finetune, *given, f"--output={tmp_path / 'out'}") == 0
    assert (tmp_path / "out" / "predictions-train.tsv").is_file()


def test_what_it_cannot_give_is_told_in_one_line(
    system: tuple[str, Path, list[str]],
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, run, flags = system
    assert command(export, "--format=tf1", f"--run={run}", f"--output={tmp_path / 'out'}") == 2
    told = {"elmo": "its encoder is elmo", "left_to_right": "attention=causal"}
    assert told.get(name, "residual=pre_norm") in capsys.readouterr().err
    if name != "modern":
        assert command(fill, f"--run={run}", "a [MASK]") == 2
        assert "has no masked-LM head" in capsys.readouterr().err
        assert command(pretrain, *flags, "data.masked_lm_prob=0.3", f"--workdir={tmp_path}") == 2
        assert "this model sees every token" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["elmo", "left_to_right", "modern"])
def test_its_config_is_a_short_difference_to_bert_s(name: str) -> None:
    base = settings.load(f"{CONFIGS / 'bert.py'}:mini", [])
    config: Any = settings.load(f"{CONFIGS / name}.py:mini", [])
    assert config.keys() == base.keys()
    assert config.data.keys() == base.data.keys()
    pairs = set() if name == "modern" else {"next_sentence"}
    assert set(config.train) == set(base.train) - pairs
    assert config.model.size == "mini"


def test_a_run_that_does_not_name_its_encoder_is_bert_s(tiny_run: Path) -> None:
    old = checkpoint.load_config(tiny_run)
    del old["encoder"]
    assert isinstance(encoders.from_run(old), BertConfig)


def test_the_marks_around_a_sequence_are_drawn_for_the_softmax_as_often_as_they_stand_there(
    records: Callable[[str], Path],
) -> None:
    """They are no words of the text, but a language model is to name them."""
    folder = records("elmo")
    manifest, words = manifest_of.load(folder), tokenizer.load(folder)
    found = inputs.counts(manifest, words)
    assert [found[words.cls_id], found[words.sep_id]] == [manifest.num_examples] * 2
