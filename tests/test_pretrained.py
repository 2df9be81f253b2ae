"""What a fine-tuning starts from: every kind of folder, and what is taken of it."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import fill, partition
from bertjax.errors import UserError
from bertjax.finetuning import finished
from bertjax.models import heads
from bertjax.models.config import BertConfig
from bertjax.models.heads import TaskModel
from bertjax.models.masked_lm import PretrainingModel
from bertjax.runs import checkpoint, run_folder
from bertjax.runs.state import TrainState
from bertjax.text.tokenizer import WordPieceTokenizer
from bertjax.weights import google, huggingface, pretrained, word_layer, word_vectors
from bertjax.weights.pretrained import Pretrained
from bertjax.weights.transplant import transplant
from bertjax.weights.word_vectors import WordVectors

LABELS = ["contradiction", "entailment", "neutral"]


@pytest.fixture(scope="module")
def params(tiny_config: BertConfig, random_params: Callable[..., Any]) -> Callable[..., Any]:
    """(head, outputs, seed) -> parameters; "" stands for pretraining."""

    def make(head: str = "", outputs: int = 3, seed: int = 0, **features: Any) -> Any:
        if not head:
            return random_params(PretrainingModel(tiny_config), seed)
        return random_params(TaskModel(tiny_config, head, outputs, **features), seed)

    return make


@pytest.fixture
def put(
    tmp_path: Path, tiny_config: BertConfig, tiny_tokenizer: WordPieceTokenizer
) -> Callable[..., Path]:
    """Writes a folder of a kind: "run", "huggingface" or "google"."""

    def call(kind: str, given: Any, head: str = "", **more: Any) -> Path:
        folder, labels = tmp_path / kind, LABELS if head in ("classification", "tagging") else []
        if kind == "google":
            google.write_google(
                folder, given, tiny_config, tiny_tokenizer, head=head, labels=labels
            )
        elif kind == "huggingface":
            huggingface.write_huggingface(
                folder,
                given,
                tiny_config,
                tiny_tokenizer,
                head=head,
                labels=labels,
                max_seq_length=32,
            )
        else:
            config = {"kind": "pretrain", "model": tiny_config.to_dict(), **more}
            run_folder.save_config(folder, config | {"head": head, "labels": labels})
            tiny_tokenizer.save(folder)
            zero, leaves = jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, given)
            with checkpoint.Checkpoints(folder) as checkpoints:
                checkpoints.save(TrainState(zero, zero, zero, leaves, {"count": zero}))
        return folder

    return call


def _assert_same(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


# --- Loading --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["run", "huggingface", "google"])
@pytest.mark.parametrize(
    ("head", "outputs"), [("", 0), ("classification", 3), ("choice", 1), ("span", 2)]
)
def test_every_kind_of_folder_loads_with_its_head_and_labels(
    kind: str,
    head: str,
    outputs: int,
    params: Callable[..., Any],
    put: Callable[..., Path],
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    given = params(head, outputs)
    folder = put(kind, given, head)
    start = pretrained.load(folder)
    assert (start.name, start.config, start.head) == (str(folder), tiny_config, head)
    assert start.labels == (LABELS if head == "classification" else [])
    assert start.tokenizer.fingerprint == tiny_tokenizer.fingerprint
    for part in given.keys() - {"encoder"}:
        _assert_same(start.params[part], given[part])
    # transformers' class for spans has no pooler.
    assert ("pooler" in start.params["encoder"]) == ((kind, head) != ("huggingface", "span"))
    for part in start.params["encoder"]:
        _assert_same(start.params["encoder"][part], given["encoder"][part])


def test_a_sweep_stands_for_its_best_run_and_its_other_runs_tell_what_they_lack(
    params: Callable[..., Any], put: Callable[..., Path], tmp_path: Path
) -> None:
    run = put("run", params("choice", 1), "choice")
    (tmp_path / "sweep.json").write_text(json.dumps({"best": run.name}))
    assert pretrained.load(tmp_path).name == str(run)
    other = tmp_path / "other"
    # It is a run, not a folder of Hugging Face, which has a config.json, too.
    model = run_folder.load_config(run)["model"]
    run_folder.save_config(other, {"kind": "finetune", "model": model})
    with pytest.raises(UserError, match=r"other: no checkpoint yet"):
        pretrained.load(other)
    (other / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"other: its weights were given up by the sweep"):
        pretrained.load(other)


@pytest.mark.parametrize("kind", ["run", "huggingface", "google"])
def test_from_scratch_a_folder_needs_no_weights(
    kind: str,
    params: Callable[..., Any],
    put: Callable[..., Path],
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    folder = put(kind, params())
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for path in (*folder.glob("*.safetensors"), *folder.glob("bert_model.ckpt*")):
        path.unlink()
    with pytest.raises(UserError):
        pretrained.load(folder)
    start = pretrained.find(f"scratch:{folder}")
    assert (start.name, start.config, start.params) == ("scratch", tiny_config, None)
    assert start.tokenizer.fingerprint == tiny_tokenizer.fingerprint


@pytest.mark.parametrize(
    ("init", "said"),
    [
        (None, "--init is missing, and"),
        ("scratch", "--init=scratch names no folder, and"),
        ("scratch:", "--init=scratch: names no folder, and"),
    ],
)
def test_what_was_given_is_named_where_there_is_no_run_to_take(
    init: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{said} runs/ holds no pretraining run to take instead;"):
        pretrained.find(init)


def test_the_newest_run_is_that_of_the_newest_checkpoint(tmp_path: Path) -> None:
    """Not one that has just begun, nor one of another kind."""
    made: dict[str, tuple[str, list[str]]] = {
        "first": ("pretrain", ["5", "10"]),
        "second": ("pretrain", ["15"]),
        "begun": ("pretrain", ["3.orbax-checkpoint-tmp"]),
        "task": ("finetune", ["20"]),
    }
    for age, (name, (kind, steps)) in enumerate(made.items()):
        for step in steps:
            (tmp_path / name / "checkpoints" / step).mkdir(parents=True)
            os.utime(tmp_path / name / "checkpoints" / step, (age, age))
        (tmp_path / name / "config.json").write_text(json.dumps({"kind": kind}))
    assert run_folder.newest_run(tmp_path, "pretrain") == tmp_path / "second"
    # It goes on.
    os.utime(tmp_path / "first" / "checkpoints" / "10", (9, 9))
    assert run_folder.newest_run(tmp_path, "pretrain") == tmp_path / "first"
    assert run_folder.newest_run(tmp_path / "begun", "pretrain") is None


def test_who_reads_no_pooler_needs_none(
    params: Callable[..., Any], put: Callable[..., Path]
) -> None:
    """As of transformers' BertForMaskedLM."""
    start = pretrained.load(put("run", params()))
    words = [start.tokenizer.encode(word) for word in ("river", "garden")]
    found = fill.fill(start, "the [MASK]", 2), word_layer.WordLayer(start).vectors(words)
    del start.params["next_sentence"], start.params["encoder"]["pooler"]
    assert fill.fill(start, "the [MASK]", 2) == found[0]
    np.testing.assert_array_equal(word_layer.WordLayer(start).vectors(words), found[1])


@pytest.mark.parametrize("bilstm", [False, True])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": LABELS[:2]}, "2 labels, but the checkpoint's head has 3 outputs"),
        ({"labels": [*LABELS, "other"]}, "4 labels"),
        ({"labels": ["a", "b", "a"]}, "a label twice"),
        ({"num_outputs": 4}, "num_outputs 4"),
    ],
)
def test_a_run_s_labels_must_be_those_of_its_checkpoint(
    changed: dict[str, Any],
    message: str,
    bilstm: bool,
    params: Callable[..., Any],
    put: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heads, "BiLstm", functools.partial(heads.BiLstm, width=8))
    more = {"features": {"layers": "", "frozen": bilstm, "bilstm": bilstm}, "task": "tag"}
    run = put("run", params("tagging", 3, bilstm=bilstm), "tagging", **more)
    pretrained.load(run)
    config = run_folder.load_config(run) | {"kind": "finetune"} | changed
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"run/config\.json: {message}.*; bring back"):
        pretrained.load(run)
    with pytest.raises(UserError, match=rf"run/config\.json: {message}.*; bring back"):
        finished.load(run, partition.make_mesh())


@pytest.mark.parametrize(
    ("features", "head"),
    [
        ({}, "tagging"),
        ({"layers": "", "frozen": True, "bilstm": False}, "tagging"),
        ({"layers": "last"}, "tagging"),
        ({"layers": "mix"}, ""),
        ({"layers": "sum_last4"}, ""),
        ({"layers": "", "bilstm": True}, ""),
    ],
)
def test_a_head_counts_as_its_kind_only_if_it_reads_what_the_papers_does(
    features: dict[str, Any], head: str
) -> None:
    assert pretrained.paper_head({"head": "tagging", "features": features}) == head


def test_a_sentence_head_that_reads_tokens_is_not_the_papers() -> None:
    run = {"head": "classification", "features": {"layers": "last"}}
    assert pretrained.paper_head(run) == ""
    assert pretrained.paper_head({"kind": "pretrain"}) == ""


def test_a_folder_of_no_kind_is_told_which_there_are(tmp_path: Path) -> None:
    kinds = "a run of bertjax, a Hugging Face folder .*config.json.* Google's 2018 .*bert_config"
    with pytest.raises(UserError, match=f"none: no such folder; give {kinds}"):
        pretrained.load(tmp_path / "none")
    with pytest.raises(UserError, match=f"neither config.json nor bert_config.json.*{kinds}"):
        pretrained.load(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "model.safetensors",
        "config.json",
        "bert_model.ckpt.index",
    ],
)
def test_a_file_of_a_model_is_not_read_as_word_vectors(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=f"{name}: a part of a model; give its folder, {tmp_path}$"):
        pretrained.load(tmp_path / name)


def test_word_vectors_may_end_in_bin(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    word_vectors.write_text(path, WordVectors(["river"], np.ones((1, 4), np.float32)))
    assert pretrained.load(path).tokenizer.encode("river")


# --- Transplanting --------------------------------------------------------------------------


@pytest.fixture
def start(tiny_config: BertConfig, tiny_tokenizer: WordPieceTokenizer) -> Callable[..., Pretrained]:
    def make(given: Any, head: str = "", labels: list[str] | None = None, skipped: int = 0) -> Any:
        return Pretrained(
            "runs/given", tiny_config, given, tiny_tokenizer, head, labels or [], skipped
        )

    return make


def test_only_the_encoder_of_a_pretrained_model_is_taken(
    params: Callable[..., Any], start: Callable[..., Pretrained]
) -> None:
    given, fresh = params(), params("classification", seed=1)
    merged, lines = transplant(start(given, skipped=5), fresh, head="classification", labels=LABELS)
    _assert_same(merged, {"encoder": given["encoder"], "head": fresh["head"]})
    assert lines == [
        "+ head: starts fresh",
        "- masked_lm: left out",
        "- next_sentence: left out",
        "- optimizer: 5 tensors left out",
    ]


def test_a_missing_pooler_starts_fresh(
    params: Callable[..., Any], start: Callable[..., Pretrained]
) -> None:
    given, fresh = params("span", 2), params("span", 2, seed=1)
    del given["encoder"]["pooler"]
    merged, lines = transplant(start(given, "span"), fresh, head="span")
    pooler = {"pooler": fresh["encoder"]["pooler"]}
    _assert_same(merged, {"encoder": given["encoder"] | pooler, "head": given["head"]})
    assert lines == ["= head: kept (span)", "+ encoder/pooler: starts fresh"]


def test_a_head_is_kept_with_its_outputs_in_the_order_of_the_names(
    params: Callable[..., Any],
    start: Callable[..., Pretrained],
    tiny_config: BertConfig,
    tiny_batch: dict[str, np.ndarray],
) -> None:
    given, fresh = params("tagging"), params("tagging", seed=1)
    wanted = ["neutral", "contradiction", "entailment"]
    merged, lines = transplant(
        start(given, "tagging", LABELS), fresh, head="tagging", labels=wanted
    )
    assert lines == [f"= head: kept (tagging of {', '.join(LABELS)})"]
    inputs = [tiny_batch[name] for name in ("input_ids", "input_mask", "segment_ids")]
    apply = jax.jit(TaskModel(tiny_config, "tagging", 3).apply)
    before, after = (apply({"params": tree}, *inputs) for tree in (given, merged))
    for index, name in enumerate(wanted):
        np.testing.assert_array_equal(after[..., index], before[..., LABELS.index(name)])


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        ("", []),
        ("classification", LABELS),
        ("tagging", ["contradiction", "entailment", "other"]),
        ("tagging", []),
    ],
)
def test_another_head_starts_fresh(
    head: str,
    labels: list[str],
    params: Callable[..., Any],
    start: Callable[..., Pretrained],
) -> None:
    given, fresh = params("tagging"), params("tagging", seed=1)
    merged, lines = transplant(start(given, "tagging", LABELS), fresh, head=head, labels=labels)
    _assert_same(merged, {"encoder": given["encoder"], "head": fresh["head"]})
    names = ", ".join(LABELS)
    assert lines == ["+ head: starts fresh", f"- head: left out (tagging of {names})"]


def test_a_head_of_several_labels_at_a_time_is_left_out(
    params: Callable[..., Any], put: Callable[..., Path]
) -> None:
    """transformers calls its class as that of one label; only the encoder is of use here."""
    folder = put("huggingface", params("classification"), "classification")
    config = json.loads((folder / "config.json").read_text())
    config |= {"problem_type": "multi_label_classification"}
    (folder / "config.json").write_text(json.dumps(config))
    given, fresh = pretrained.load(folder), params("classification", seed=1)
    assert (given.head, given.labels) == ("", [])
    merged, lines = transplant(given, fresh, "classification", LABELS)
    _assert_same(merged, {"encoder": given.params["encoder"], "head": fresh["head"]})
    assert lines == ["+ head: starts fresh", "- head: left out (of another kind)"]


@pytest.mark.parametrize("features", [{"layers": "mix"}, {"layers": "", "bilstm": True}])
def test_parts_that_only_one_side_has_are_left_out_or_start_fresh(
    features: dict[str, Any], params: Callable[..., Any], start: Callable[..., Pretrained]
) -> None:
    other, plain = params("tagging", **features), params("tagging", seed=1)
    mix = ["mix"] if "mix" in other else []
    merged, lines = transplant(start(other), plain, head="tagging", labels=LABELS)
    _assert_same(merged, {"encoder": other["encoder"], "head": plain["head"]})
    assert sorted(lines) == [
        "+ head: starts fresh",
        "- head: left out (of another kind)",
        *(f"- {part}: left out" for part in mix),
    ]
    merged, lines = transplant(
        start(plain, "tagging", LABELS), other, head="tagging", labels=LABELS
    )
    _assert_same(merged, other | {"encoder": plain["encoder"]})
    assert {f"+ {part}: starts fresh" for part in ["head", *mix]} < set(lines)


def test_an_encoder_of_another_size_is_refused(
    params: Callable[..., Any], start: Callable[..., Pretrained]
) -> None:
    given, fresh = params(), params("span", 2)
    given["encoder"]["embeddings"]["norm"]["bias"] = np.zeros(48)
    with pytest.raises(UserError, match="runs/given: parameter encoder/embeddings/norm/bias has"):
        transplant(start(given), fresh)
    del given["encoder"]["embeddings"]["norm"]["bias"]
    with pytest.raises(UserError, match="encoder/embeddings/norm/bias is missing there"):
        transplant(start(given), fresh)
