"""The command that exports: every kind of run in both formats, and what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bertjax import export
from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.heads import TaskModel
from bertjax.models.masked_lm import PretrainingModel
from bertjax.runs import checkpoint, run_folder
from bertjax.runs.state import TrainState
from bertjax.text.tokenizer import Tokenizer, WordPieceTokenizer
from bertjax.weights import google, huggingface, model_folder

Command = Callable[..., int]
READERS = {"hf": huggingface.read_huggingface, "tf1": google.read_google}
LABELS = {"classification": ["a", "b", "c"], "tagging": ["O", "B-X", "I-X"]}
OUTPUTS = {"classification": 3, "regression": 1, "choice": 1, "tagging": 3, "span": 2}


@pytest.fixture(scope="module")
def params(tiny_config: BertConfig, random_params: Callable[..., Any]) -> Callable[..., Any]:
    """(head) -> parameters; "" stands for pretraining."""

    def make(head: str, **features: Any) -> Any:
        if not head:
            return random_params(PretrainingModel(tiny_config))
        return random_params(TaskModel(tiny_config, head, OUTPUTS[head], **features))

    return make


def _run_folder(path: Path, config: BertConfig, params: Any, own: Tokenizer, **more: Any) -> None:
    known = {"kind": "pretrain", "model": config.to_dict(), "max_seq_length": 64}
    run_folder.save_config(path, known | more)
    own.save(path)
    with checkpoint.Checkpoints(path) as checkpoints:
        for step in (1, 2):
            scaled = jax.tree.map(lambda leaf, step=step: jnp.asarray(leaf * step), params)
            zero = jnp.zeros((), jnp.int32)
            checkpoints.save(TrainState(jnp.asarray(step), zero, zero, scaled, {"count": zero}))


def _assert_same(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


# --- What is written ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("head", ["", *OUTPUTS])
def test_every_kind_of_run_is_written_and_compared(
    head: str,
    layout: str,
    tmp_path: Path,
    params: Callable[..., Any],
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given, labels = params(head), LABELS.get(head, [])
    config = dataclasses.replace(tiny_config, dtype="bfloat16")
    own = {"kind": "finetune", "head": head, "labels": labels} if head else {"kind": "pretrain"}
    _run_folder(tmp_path / "run", config, given, tiny_tokenizer, **own)
    target = tmp_path / "out"
    files = [f"--run={tmp_path / 'run'}", f"--output={target}"]
    assert command(export, f"--format={layout}", *files, "--step=1") == 0
    shown = capsys.readouterr().out
    assert f"{target}: {head or 'pretraining'}" in shown
    assert ", ".join(labels) in shown
    assert "largest difference of its outputs from the run's: 0.0e+00" in shown
    read_config, read, info = READERS[layout](target)
    assert (read_config, info.head, info.labels) == (tiny_config, head, labels)
    for part in read["encoder"]:
        _assert_same(read["encoder"][part], given["encoder"][part])
    _assert_same({**read, "encoder": {}}, {**given, "encoder": {}})
    assert command(export, f"--format={layout}", *files) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_newest_checkpoint_is_the_default(
    tmp_path: Path,
    params: Callable[..., Any],
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    command: Command,
) -> None:
    _run_folder(tmp_path / "run", tiny_config, params(""), tiny_tokenizer, kind="pretrain")
    assert command(export, f"--run={tmp_path / 'run'}", f"--output={tmp_path / 'out'}") == 0
    _, read, _ = huggingface.read_huggingface(tmp_path / "out")
    _assert_same(read, jax.tree.map(lambda leaf: leaf * 2, params("")))


def test_a_folder_of_transformers_comes_back_to_the_last_byte(
    tmp_path: Path,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    save_run: Callable[..., None],
    command: Command,
) -> None:
    """As a run of ours, and also by way of a checkpoint of 2018."""
    settings = transformers.BertConfig(**model_folder.config_json(tiny_config))
    model = transformers.BertForPreTraining(settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # Else all biases are alike.
    model.save_pretrained(tmp_path / "theirs")

    def exported(layout: str, read: tuple[BertConfig, Any, Any], name: str) -> Path:
        config, params, _ = read
        save_run(tmp_path / f"run-{name}", config, tiny_tokenizer, params)
        files = [f"--run={tmp_path / f'run-{name}'}", f"--output={tmp_path / name}"]
        assert command(export, f"--format={layout}", *files) == 0
        return tmp_path / name

    def tensors(folder: Path) -> dict[str, bytes]:
        found = safetensors.numpy.load_file(folder / "model.safetensors")
        return {name: array.tobytes() for name, array in found.items()}

    wanted, read = tensors(tmp_path / "theirs"), huggingface.read_huggingface(tmp_path / "theirs")
    assert tensors(exported("hf", read, "hf")) == wanted
    of_2018 = google.read_google(exported("tf1", read, "tf1"))
    assert tensors(exported("hf", of_2018, "again")) == wanted


# --- What is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("features", [{"layers": "mix"}, {"layers": "", "bilstm": True}])
def test_a_head_that_others_do_not_have_is_refused(
    features: dict[str, Any],
    tmp_path: Path,
    params: Callable[..., Any],
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = params("tagging", frozen=True, **features)
    own = {"head": "tagging", "labels": LABELS["tagging"], "features": features}
    _run_folder(tmp_path / "run", tiny_config, given, tiny_tokenizer, **own)
    files = [f"--run={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"]
    assert command(export, *files) == 2
    error = capsys.readouterr().err
    assert "its head reads other layers than the last or is a BiLSTM" in error
    assert not (tmp_path / "out").exists()


def test_a_broken_conversion_shows(
    tmp_path: Path,
    params: Callable[..., Any],
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _run_folder(tmp_path / "run", tiny_config, params(""), tiny_tokenizer, kind="pretrain")
    honest = huggingface.from_foreign

    def swapped(*given: Any) -> Any:
        read = honest(*given)
        attention = read["encoder"]["layer_0"]["attention"]
        attention["key"], attention["query"] = attention["query"], attention["value"]
        return read

    monkeypatch.setattr(huggingface, "from_foreign", swapped)
    monkeypatch.setattr(
        "sys.argv", ["export", f"--run={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"]
    )
    with pytest.raises(UserError, match="differs from the run by"):
        export.main()


def test_export_help_fits_one_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        export.parse_arguments(["--help"])
    shown = capsys.readouterr().out
    assert shown.count("\n") <= 24
    assert "python -m bertjax.export --format=hf --run=" in shown
    assert "python -m bertjax.export --format=tf1 --run=" in shown
