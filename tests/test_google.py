"""Google's folders of 2018: plain TensorFlow 1 variables on the other side, and the errors."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.heads import TaskModel
from bertjax.models.masked_lm import PretrainingModel
from bertjax.text import tokenizer, vocab, word_counts
from bertjax.text.tokenizer import WordPieceTokenizer
from bertjax.weights import convert, google
from bertjax.weights.model_folder import FolderInfo

Variables = dict[str, np.ndarray]
# Kind of head -> names of its outputs, or how many there are.
HEADS: dict[str, Any] = {
    "classification": ["contradiction", "entailment", "neutral"],
    "regression": 1,
    "choice": 1,
    "tagging": ["O", "B-PER", "I-PER", "B-LOC"],
    "span": 2,
}


def _labels(head: str) -> list[str]:
    return HEADS[head] if isinstance(HEADS[head], list) else []


# --- The graph of 2018 ----------------------------------------------------------------------


def shapes_2018(config: BertConfig) -> dict[str, list[int]]:
    """The variables that modeling.py and run_pretraining.py make, written out from their scopes."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes = {
        "bert/embeddings/word_embeddings": [config.vocab_size, width],
        "bert/embeddings/token_type_embeddings": [config.num_segments, width],
        "bert/embeddings/position_embeddings": [config.max_positions, width],
        "bert/pooler/dense/kernel": [width, width],
        "bert/pooler/dense/bias": [width],
        "cls/predictions/transform/dense/kernel": [width, width],
        "cls/predictions/transform/dense/bias": [width],
        "cls/predictions/output_bias": [config.vocab_size],
        "cls/seq_relationship/output_weights": [2, width],
        "cls/seq_relationship/output_bias": [2],
    }
    norms = ["bert/embeddings", "cls/predictions/transform"]
    for i in range(config.num_layers):
        layer = f"bert/encoder/layer_{i}"
        for name, rows, columns in (
            ("attention/self/query", width, width),
            ("attention/self/key", width, width),
            ("attention/self/value", width, width),
            ("attention/output/dense", width, width),
            ("intermediate/dense", width, inner),
            ("output/dense", inner, width),
        ):
            shapes |= {f"{layer}/{name}/kernel": [rows, columns], f"{layer}/{name}/bias": [columns]}
        norms += [f"{layer}/attention/output", f"{layer}/output"]
    for scope in norms:
        shapes |= {f"{scope}/LayerNorm/gamma": [width], f"{scope}/LayerNorm/beta": [width]}
    return shapes


def _norm(x: np.ndarray, v: Variables, scope: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return scaled * v[f"{scope}/LayerNorm/gamma"] + v[f"{scope}/LayerNorm/beta"]


def _dense(x: np.ndarray, v: Variables, scope: str) -> np.ndarray:
    return x @ v[f"{scope}/kernel"] + v[f"{scope}/bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def _attend(x: np.ndarray, mask: np.ndarray, v: Variables, scope: str, heads: int) -> np.ndarray:
    def split(name: str) -> np.ndarray:
        rows = _dense(x, v, f"{scope}/self/{name}").reshape(*x.shape[:2], heads, -1)
        return rows.transpose(0, 2, 1, 3)

    query, key, value = split("query"), split("key"), split("value")
    scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1])
    scores = np.exp(scores - 10000.0 * (1 - mask[:, None, None, :]))
    mixed = scores / scores.sum(-1, keepdims=True) @ value
    mixed = mixed.transpose(0, 2, 1, 3).reshape(x.shape)
    return _norm(x + _dense(mixed, v, f"{scope}/output/dense"), v, f"{scope}/output")


def sequence_2018(v: Variables, config: BertConfig, batch: dict[str, np.ndarray]) -> np.ndarray:
    """[B, T, D], what modeling.py computes of the variables, with the first release's GELU."""
    x = v["bert/embeddings/word_embeddings"][batch["input_ids"]]
    x = x + v["bert/embeddings/token_type_embeddings"][batch["segment_ids"]]
    x = x + v["bert/embeddings/position_embeddings"][: x.shape[1]]
    x = _norm(x, v, "bert/embeddings")
    for i in range(config.num_layers):
        layer = f"bert/encoder/layer_{i}"
        x = _attend(x, batch["input_mask"], v, f"{layer}/attention", config.num_heads)
        inner = _gelu(_dense(x, v, f"{layer}/intermediate/dense"))
        x = _norm(x + _dense(inner, v, f"{layer}/output/dense"), v, f"{layer}/output")
    return x


def pooled_2018(v: Variables, sequence: np.ndarray) -> np.ndarray:
    return np.tanh(_dense(sequence[:, 0], v, "bert/pooler/dense"))


def save_2018(prefix: Path, variables: Variables) -> None:
    """Saves variables as an Estimator of TensorFlow 1 does."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in variables.items():
            tf.compat.v1.get_variable(name, initializer=array)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(prefix), write_state=False)


def restore_2018(prefix: Path, shapes: dict[str, list[int]]) -> Variables:
    """Starts a graph's variables from a checkpoint, as run_classifier.py does."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        own = {name: tf.compat.v1.get_variable(name, shape) for name, shape in shapes.items()}
        there = [name for name, _ in tf.train.list_variables(str(prefix))]
        tf.compat.v1.train.init_from_checkpoint(
            str(prefix), {name: name for name in there if name in own}
        )
        session.run(tf.compat.v1.global_variables_initializer())
        return session.run(own)


# --- Folders --------------------------------------------------------------------------------


def _random(shapes: dict[str, list[int]]) -> Variables:
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(float("gamma" in name), 0.15, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def variables(tiny_config: BertConfig) -> Variables:
    return _random(shapes_2018(tiny_config))


@pytest.fixture
def put_folder(
    tmp_path: Path, tiny_config: BertConfig, tiny_tokens: list[str]
) -> Callable[..., Path]:
    """Writes a folder as Google has released them: three files and nothing of ours."""

    def call(variables: Variables, name: str = "bert_model.ckpt") -> Path:
        settings = {
            "attention_probs_dropout_prob": 0.1,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": 32,
            "initializer_range": 0.02,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "type_vocab_size": 2,
            "vocab_size": tiny_config.vocab_size,
            # Only the multilingual releases have these.
            "directionality": "bidi",
            "pooler_num_attention_heads": 12,
        }
        folder = tmp_path / "released"
        folder.mkdir(exist_ok=True)
        (folder / "bert_config.json").write_text(json.dumps(settings))
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tiny_tokens))
        save_2018(folder / name, variables)
        return folder

    return call


@pytest.fixture(scope="module")
def pretraining(tiny_config: BertConfig, random_params: Callable[..., Any]) -> Any:
    return random_params(PretrainingModel(tiny_config))


@pytest.fixture
def write(
    tmp_path: Path,
    pretraining: Any,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    random_params: Callable[..., Any],
) -> Callable[..., tuple[Path, Any]]:
    """Writes a model of ours; "" for pretraining."""

    def call(head: str = "", labels: list[str] | None = None) -> tuple[Path, Any]:
        params, names = pretraining, []
        if head:
            names = _labels(head)
            params = random_params(TaskModel(tiny_config, head, len(names) or HEADS[head]))
        folder = tmp_path / "new" / (head or "pretraining")
        names = names if labels is None else labels
        google.write_google(folder, params, tiny_config, tiny_tokenizer, head=head, labels=names)
        return folder, params

    return call


def _set(folder: Path, **changes: Any) -> None:
    path = folder / "bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _listed(folder: Path) -> dict[str, list[int]]:
    return dict(tf.train.list_variables(str(folder / "bert_model.ckpt")))


def _assert_same(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


def _assert_close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def _apply(model: Any, params: Any, batch: dict[str, np.ndarray], *more: Any) -> Any:
    names = ("input_ids", "input_mask", "segment_ids")
    inputs = [jnp.asarray(batch[name]) for name in names]
    return jax.jit(model.apply)({"params": params}, *inputs, *more)


# --- What Google has released, read by us ---------------------------------------------------


def test_a_released_folder_gives_what_its_variables_say(
    variables: Variables,
    put_folder: Callable[..., Path],
    tiny_config: BertConfig,
    tiny_batch: dict[str, np.ndarray],
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    folder = put_folder(variables)
    config, params, info = google.read_google(folder)
    assert (config, info) == (tiny_config, FolderInfo("", []))
    positions = jnp.tile(jnp.arange(16), (32, 1))
    ours = _apply(PretrainingModel(config), params, tiny_batch, positions)

    sequence = sequence_2018(variables, config, tiny_batch)
    x = _gelu(_dense(sequence, variables, "cls/predictions/transform/dense"))
    x = _norm(x, variables, "cls/predictions/transform")
    words = x @ variables["bert/embeddings/word_embeddings"].T
    _assert_close(ours.masked_lm, words + variables["cls/predictions/output_bias"])
    weights = variables["cls/seq_relationship/output_weights"]
    pair = pooled_2018(variables, sequence) @ weights.T
    _assert_close(ours.next_sentence, pair + variables["cls/seq_relationship/output_bias"])
    # The folder does not say that its vocabulary is uncased; the vocabulary does.
    assert tokenizer.load(folder).fingerprint == tiny_tokenizer.fingerprint


def test_an_optimizers_variables_are_left_out_and_counted(
    variables: Variables, put_folder: Callable[..., Path], tiny_config: BertConfig
) -> None:
    slots = {f"{name}/{slot}": array for name, array in variables.items() for slot in SLOTS}
    folder = put_folder(variables | slots | {"global_step": np.array(7, np.int64)})
    _, params, info = google.read_google(folder)
    assert info.skipped == 2 * len(variables) + 1
    again = convert.to_foreign(params, tiny_config, "google")
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in variables.items()
    }


SLOTS = ("adam_m", "adam_v")


@pytest.mark.parametrize(
    ("head", "scope", "num_outputs"), [("classification", "", 3), ("span", "cls/squad/", 2)]
)
def test_a_fine_tuned_checkpoint_gives_the_scores_of_its_head(
    head: str,
    scope: str,
    num_outputs: int,
    variables: Variables,
    put_folder: Callable[..., Path],
    tiny_batch: dict[str, np.ndarray],
) -> None:
    """run_classifier.py's and run_squad.py's, which know nothing of labels or kinds."""
    names = {f"{scope}output_weights": [num_outputs, 32], f"{scope}output_bias": [num_outputs]}
    own = _random(names)
    tuned = own | {name: array for name, array in variables.items() if name.startswith("bert/")}
    config, params, info = google.read_google(put_folder(tuned, "model.ckpt-343"))
    assert info == FolderInfo(head, [])
    sequence = sequence_2018(tuned, config, tiny_batch)
    read = sequence if head == "span" else pooled_2018(tuned, sequence)
    expected = read @ own[f"{scope}output_weights"].T + own[f"{scope}output_bias"]
    _assert_close(_apply(TaskModel(config, head, num_outputs), params, tiny_batch), expected)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.ckpt-9", "model.ckpt-100"], "model.ckpt-100"),
        (["model.ckpt-9", "bert_model.ckpt"], "bert_model.ckpt"),
        (["uncased.ckpt"], "uncased.ckpt"),
        (["one.ckpt", "two.ckpt"], None),
        (["one.ckpt", "model.ckpt-9"], None),
    ],
)
def test_the_checkpoint_of_a_folder_is_found_or_asked_for(
    names: list[str],
    chosen: str | None,
    variables: Variables,
    put_folder: Callable[..., Path],
) -> None:
    bias = "bert/pooler/dense/bias"
    for number, name in enumerate(names):
        folder = put_folder(variables | {bias: np.full(32, number, np.float32)}, name)
    if chosen is None:
        with pytest.raises(UserError, match="needs one checkpoint.*one.ckpt"):
            google.read_google(folder)
    else:
        _, params, _ = google.read_google(folder)
        assert set(params["encoder"]["pooler"]["bias"]) == {names.index(chosen)}


def test_segments_have_16_rows_where_the_config_is_silent(
    variables: Variables, put_folder: Callable[..., Path]
) -> None:
    folder = put_folder(variables)
    settings = json.loads((folder / "bert_config.json").read_text())
    del settings["type_vocab_size"]
    (folder / "bert_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"token_type_embeddings has shape \(2, 32\).*\(16, 32\)"):
        google.read_google(folder)


# --- Ours, read by the code of 2018 ---------------------------------------------------------


def test_we_write_the_variables_of_the_2018_graph_and_no_others(
    write: Callable[..., tuple[Path, Any]], tiny_config: BertConfig
) -> None:
    folder, params = write()
    assert _listed(folder) == shapes_2018(tiny_config)
    reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    assert set(reader.get_variable_to_dtype_map().values()) == {tf.float32}
    restored = restore_2018(folder / "bert_model.ckpt", shapes_2018(tiny_config))
    _assert_same(convert.from_foreign(restored, tiny_config, "google"), params)
    # The keys of modeling.BertConfig, as in the released files.
    assert json.loads((folder / "bert_config.json").read_text()) == {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "type_vocab_size": 2,
        "vocab_size": tiny_config.vocab_size,
    }
    assert not (folder / "labels.txt").exists()


@pytest.mark.parametrize(
    ("feed_forward", "written"),
    [
        ("gelu", {"hidden_act": "gelu"}),
        # The newest code of Google knows no other name for what it computes.
        ("gelu_tanh", {"hidden_act": "gelu", "gelu": "gelu_new"}),
        ("relu", {"hidden_act": "relu"}),
    ],
)
def test_the_function_of_the_layers_is_written_by_a_name_that_they_know(
    feed_forward: str,
    written: dict[str, str],
    pretraining: Any,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    tmp_path: Path,
) -> None:
    config = dataclasses.replace(tiny_config, feed_forward=feed_forward)
    google.write_google(tmp_path / "out", pretraining, config, tiny_tokenizer)
    settings = json.loads((tmp_path / "out" / "bert_config.json").read_text())
    assert {name: settings[name] for name in settings.keys() & {"hidden_act", "gelu"}} == written
    assert google.read_config(tmp_path / "out") == config
    if feed_forward == "gelu_tanh":
        _set(tmp_path / "out", hidden_act="gelu_new", gelu="gelu")
        assert google.read_config(tmp_path / "out") == config


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_written_under_its_name_and_read_back(
    head: str,
    write: Callable[..., tuple[Path, Any]],
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    folder, params = write(head)
    scope, outputs = "cls/squad/" if head == "span" else "", len(params["head"]["bias"])
    own = {f"{scope}output_weights": [outputs, 32], f"{scope}output_bias": [outputs]}
    encoder = {n: shape for n, shape in shapes_2018(tiny_config).items() if n.startswith("bert/")}
    assert _listed(folder) == encoder | own
    config, read, info = google.read_google(folder)
    assert (config, info) == (tiny_config, FolderInfo(head, _labels(head)))
    _assert_same(read, params)
    assert tokenizer.load(folder).fingerprint == tiny_tokenizer.fingerprint
    if _labels(head):
        assert (folder / "labels.txt").read_text().split("\n") == [*_labels(head), ""]


# --- Errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bert/pooler/dense/bias": None}, "tensor bert/pooler/dense/bias is missing"),
        ({"gate/kernel": np.zeros(2, np.float32)}, "tensor gate/kernel .*no place"),
        (
            {"bert/pooler/dense/kernel": np.zeros((32, 8), np.float32)},
            r"bert/pooler/dense/kernel has shape \(32, 8\), .*\(32, 32\)",
        ),
        (
            {"output_weights": np.zeros((3, 32), np.float32)},
            "output_bias is missing",
        ),
    ],
)
def test_wrong_variables_are_named_with_their_checkpoint(
    change: dict[str, Any], message: str, variables: Variables, put_folder: Callable[..., Path]
) -> None:
    wrong = {name: array for name, array in (variables | change).items() if array is not None}
    with pytest.raises(UserError, match=f"bert_model.ckpt: .*{message}"):
        google.read_google(put_folder(wrong))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "tanh"}, "hidden_act is 'tanh', supported here are gelu, gelu_new,"),
        ({"head": "ranking"}, "head is 'ranking', not one of classification,"),
        ({"head": "span"}, "tensor cls/squad/output_weights is missing"),
        ({"num_hidden_layers": 3}, "layer_2/.* is missing"),
        ({"hidden_size": 33}, "bert_config.json: hidden_size 33 is not a multiple"),
    ],
)
def test_a_config_that_means_another_model_is_refused(
    change: dict[str, Any], message: str, write: Callable[..., tuple[Path, Any]]
) -> None:
    folder, _ = write()
    _set(folder, **change)
    with pytest.raises(UserError, match=message):
        google.read_google(folder)


def test_broken_folders_are_refused(write: Callable[..., tuple[Path, Any]]) -> None:
    folder, _ = write()
    index, data = sorted(folder.glob("bert_model.ckpt.*"), reverse=True)
    content = data.read_bytes()
    for broken in (content[:-8], content[:-8] + b"\0\0\0\0\0\0\0\1", b""):
        data.write_bytes(broken)
        with pytest.raises(UserError, match="bert_model.ckpt: broken, cut short or without"):
            google.read_google(folder)
    data.unlink()
    with pytest.raises(UserError, match="without its data"):
        google.read_google(folder)
    index.write_bytes(index.read_bytes()[:-8])
    with pytest.raises(UserError, match="broken"):
        google.read_google(folder)
    index.unlink()
    with pytest.raises(UserError, match="needs one checkpoint, .*no .*index file"):
        google.read_google(folder)
    (folder / "bert_config.json").unlink()
    with pytest.raises(UserError, match="bert_config.json: no such file"):
        google.read_google(folder)


def test_labels_must_fit_the_head(tmp_path: Path, write: Callable[..., tuple[Path, Any]]) -> None:
    for labels in ([], ["yes", "no"], ["yes", "no", "no"]):
        with pytest.raises(UserError, match="3 outputs need as many different labels"):
            write("classification", labels)
    with pytest.raises(UserError, match="'two\\\\nlines' is not one line"):
        write("classification", ["yes", "no", "two\nlines"])
    assert list(tmp_path.iterdir()) == []
    folder, _ = write("classification")
    (folder / "labels.txt").write_text("yes\nno\n")
    with pytest.raises(UserError, match="labels.txt: 3 outputs need as many"):
        google.read_google(folder)
    (folder / "labels.txt").write_bytes(b"yes\nno\n\xff\n")
    with pytest.raises(UserError, match="labels.txt: not UTF-8 text"):
        google.read_google(folder)


def test_what_2018_does_not_have_is_refused_and_nothing_is_left(
    tmp_path: Path,
    pretraining: Any,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    tiny_corpus: Path,
) -> None:
    lines = tiny_corpus.read_text().splitlines()
    pieces = vocab.learn(word_counts.of_lines(lines), kind="sentencepiece", size=128).tokenizer
    with pytest.raises(UserError, match="sentencepiece tokenizer has no counterpart"):
        google.write_google(tmp_path / "out", pretraining, tiny_config, pieces)
    wider = BertConfig(**tiny_config.to_dict() | {"norm_epsilon": 1e-6})
    with pytest.raises(UserError, match="norm_epsilon is 1e-06"):
        google.write_google(tmp_path / "out", pretraining, wider, tiny_tokenizer)
    with pytest.raises(UserError, match="parameter mix/gamma has no name"):
        mixed = pretraining | {"mix": {"gamma": np.ones(())}}
        google.write_google(tmp_path / "out", mixed, tiny_config, tiny_tokenizer)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="exists already"):
        google.write_google(tmp_path / "out", pretraining, tiny_config, tiny_tokenizer)


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, write: Callable[..., tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(google, "_write_variables", full)
    with pytest.raises(OSError, match="No space"):
        write()
    assert list((tmp_path / "new").iterdir()) == []
