"""--format=stablehlo: of every encoder a program that gives the model's numbers by itself."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import AutoTokenizer

from bertjax import export
from bertjax.models import encoders, heads
from bertjax.models.config import BertConfig
from bertjax.models.elmo import ElmoConfig
from bertjax.models.heads import TaskModel
from bertjax.models.word2vec import Word2VecConfig
from bertjax.text.tokenizer import SPECIALS, WordTokenizer
from bertjax.weights import random_batch, stablehlo

Command = Callable[..., int]
ENTRIES = ["a", "farmer", "river", "garden", "watched", "the", "old", "green"]
WORDS = WordTokenizer([*SPECIALS, *ENTRIES], lowercase=True)
_BERT = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
_ELMO: dict[str, Any] = {"filters": ((1, 4), (3, 4)), "character_size": 4, "max_characters": 8}
_MODERN: dict[str, Any] = {
    "residual": "pre_norm", "positions": "rope", "feed_forward": "geglu",
    "attention": "local_global", "attention_window": 4, "num_layers": 2,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    # Of a run in bfloat16, too, the program is float32.
    "bert": BertConfig(WORDS.vocab_size, max_positions=24, dtype="bfloat16", **_BERT),
    "left_to_right": BertConfig(WORDS.vocab_size, attention="causal", **_BERT),
    "modern": BertConfig(WORDS.vocab_size, **(_BERT | _MODERN)),
    "elmo": ElmoConfig(WORDS.vocab_size, 8, 4, 1, highway_layers=1, **_ELMO),
    "word2vec": Word2VecConfig(WORDS.vocab_size, 8, buckets=20),
}
# Each with a head that reads something else.
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("span", {"layers": "", "frozen": False, "bilstm": False}),
    "left_to_right": ("regression", {"layers": "", "frozen": False, "bilstm": False}),
    "modern": ("choice", {"layers": "last", "frozen": False, "bilstm": False}),
    "elmo": ("tagging", {"layers": "mix", "frozen": True, "bilstm": True}),
    "word2vec": ("classification", {"layers": "", "frozen": True, "bilstm": False}),
}
LABELS = {"classification": ["no", "yes"], "tagging": ["O", "B-X"]}
OUTPUTS = {"span": 2, "regression": 1, "choice": 1, "tagging": 2, "classification": 2}


def _module(name: str, head: str, **changes: Any) -> Any:
    config = dataclasses.replace(CONFIGS[name], **changes)
    if not head:
        return encoders.build(config, WORDS)
    return TaskModel(config, head, OUTPUTS[head], words=WORDS, **HEADS[name][1])


@pytest.fixture(scope="module")
def make_run(save_run: Callable[..., None]) -> Callable[..., None]:
    """(folder, name of the encoder, head, parameters of the encoder or with the head)"""

    def make(folder: Path, name: str, head: str, params: Any) -> None:
        if not head:
            held = {"encoder": params, "other": {"bias": jnp.ones(3)}}
            save_run(folder, CONFIGS[name], WORDS, held)
            return
        more = {"kind": "finetune", "head": head, "num_outputs": OUTPUTS[head]}
        more |= {"features": HEADS[name][1], "labels": LABELS.get(head, [])}
        save_run(folder, CONFIGS[name], WORDS, params, **more)

    return make


def _inputs(rows: int, length: int) -> list[np.ndarray]:
    random = np.random.default_rng(rows)
    ids = random.integers(WORDS.vocab_size, size=(rows, length))
    mask = np.arange(length) < random.integers(2, length + 1, size=(rows, 1))
    return [x.astype(np.int32) for x in (ids, mask, np.arange(length) >= 3 * mask)]


@pytest.mark.parametrize("tuned", [False, True], ids=["pretrained", "tuned"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_program_gives_the_model_s_numbers(
    name: str,
    tuned: bool,
    tmp_path: Path,
    random_params: Callable[..., Any],
    make_run: Callable[..., None],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For a batch of another size than the command has compared it on."""
    monkeypatch.setattr(heads, "BiLstm", functools.partial(heads.BiLstm, width=4))
    head = HEADS[name][0] if tuned else ""
    module = _module(name, head, dtype="float32")
    params = random_params(module)
    make_run(tmp_path / "run", name, head, params)
    target = tmp_path / "out"
    flags = ["--format=stablehlo", f"--run={tmp_path / 'run'}", f"--output={target}"]
    assert command(export, *flags) == 0
    said = capsys.readouterr().out
    assert "largest difference of its outputs from the run's: " in said
    assert "runs on cpu, cuda, tpu" in said
    told = json.loads((target / "program.json").read_text())
    assert (told["head"], told["labels"]) == (head, LABELS.get(head, []))
    program = jax.export.deserialize(bytearray((target / "program.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    rows, length = 3, 9
    assert rows != random_batch.ROWS and length != random_batch.LENGTH
    inputs = _inputs(rows, length)
    found = program.call(*inputs)
    wanted: Any = jax.jit(module.apply)({"params": params}, *inputs)
    wanted = {"scores": wanted} if head else wanted._asdict()
    assert found.keys() == told["outputs"].keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=2e-5)
        shape = told["outputs"][key]["shape"]
        named = {"batch": rows, "length": length}
        assert [named.get(size, size) for size in shape] == list(value.shape)
    assert command(export, *flags) == 2
    assert "exists already" in capsys.readouterr().err


# What a server without bertjax would do.
CALL = """
import json, sys
import jax, numpy as np
from jax import export
folder = sys.argv[1]
with open(folder + "/program.stablehlo", "rb") as file:
    program = export.deserialize(bytearray(file.read()))
inputs = np.load(sys.argv[2])
found = program.call(inputs["input_ids"], inputs["input_mask"], inputs["segment_ids"])
np.savez(sys.argv[3], **found)
assert not any(name.startswith(("bertjax", "flax")) for name in sys.modules)
"""


@pytest.fixture(scope="module")
def bert_program(
    tmp_path_factory: pytest.TempPathFactory,
    random_params: Callable[..., Any],
    make_run: Callable[..., None],
    command: Command,
) -> tuple[Path, Any]:
    """(its folder, the parameters of the encoder)"""
    folder = tmp_path_factory.mktemp("program")
    params = random_params(_module("bert", ""))
    make_run(folder / "run", "bert", "", params)
    flags = ["--format=stablehlo", f"--run={folder / 'run'}", f"--output={folder / 'out'}"]
    assert command(export, *flags) == 0
    return folder / "out", params


def test_a_process_that_knows_only_jax_calls_it(
    bert_program: tuple[Path, Any], tmp_path: Path
) -> None:
    """With ids of transformers' tokenizer, which reads the folder, too."""
    folder, params = bert_program
    words = AutoTokenizer.from_pretrained(folder)
    read = words(["the old farmer", "a river"], ["green garden"] * 2, padding=True)
    assert read["input_ids"][1] == [
        *(
            WORDS.ids[word]
            for word in ["[CLS]", "a", "river", "[SEP]", "green", "garden", "[SEP]", "[PAD]"]
        )
    ]
    ours = zip(stablehlo._INPUTS, ("input_ids", "attention_mask", "token_type_ids"), strict=True)
    inputs = {name: np.array(read[theirs], np.int32) for name, theirs in ours}
    np.savez(tmp_path / "in.npz", **inputs)
    files = [folder, tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", CALL, *map(str, files)], check=True, cwd=tmp_path)
    module = _module("bert", "", dtype="float32")
    wanted: Any = module.apply({"params": params}, *inputs.values())
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["pooled"], wanted.pooled, rtol=0, atol=2e-5)


def test_rows_longer_than_the_model_are_refused_by_it(bert_program: tuple[Path, Any]) -> None:
    folder, _ = bert_program
    assert json.loads((folder / "program.json").read_text())["max_length"] == 24
    program = jax.export.deserialize(bytearray((folder / "program.stablehlo").read_bytes()))
    with pytest.raises(ValueError, match="refining shapes"):
        program.call(*_inputs(2, 25))


def test_a_program_with_other_numbers_is_not_written(
    bert_program: tuple[Path, Any],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = stablehlo.lowered

    def changed(model: stablehlo.Model) -> Any:
        def function(*inputs: Any) -> Any:
            return jax.tree.map(lambda x: 1.1 * x, model.function(*inputs))

        return honest(model._replace(function=function))

    monkeypatch.setattr(stablehlo, "lowered", changed)
    run = bert_program[0].parent / "run"
    flags = ["--format=stablehlo", f"--run={run}", f"--output={tmp_path / 'out'}"]
    assert command(export, *flags) == 2
    assert "so nothing is written; report this as a bug" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
