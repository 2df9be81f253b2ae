"""Pretraining goes on from a model, and new words begin as the mean of their old pieces."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bertjax import prepare, pretrain
from bertjax.errors import UserError
from bertjax.models import encoders
from bertjax.models.config import BertConfig
from bertjax.models.elmo import ElmoConfig
from bertjax.models.word2vec import Word2VecConfig
from bertjax.runs import parameters, run_folder
from bertjax.text import tokenizer
from bertjax.text.tokenizer import SPECIALS, WordPieceTokenizer, WordTokenizer
from bertjax.text.words import OpenWords
from bertjax.training import continuation
from bertjax.weights import pretrained, word_vectors
from bertjax.weights.word_vectors import WordVectors

Command = Callable[..., int]
CONFIGS = Path(__file__).parents[1] / "configs"
OLD_WORDS = WordTokenizer([*SPECIALS, "cat", "dog", "[unused0]"], lowercase=True)
# Encoders of whole words; the model may have more rows than its vocabulary has entries.
ROWS = OLD_WORDS.vocab_size + 2
OF_WORDS: dict[str, Any] = {
    "word2vec": Word2VecConfig(ROWS, 4),
    "word2vec with n-grams": Word2VecConfig(ROWS, 4, buckets=6),
    "elmo": ElmoConfig(ROWS, 6, 3, 1, filters=((3, 2),), highway_layers=1, max_characters=6),
}


@pytest.fixture(scope="module")
def start(tiny_run: Path) -> pretrained.Pretrained:
    return pretrained.load(tiny_run)


def extended(start: pretrained.Pretrained, *words: str) -> WordPieceTokenizer:
    tokens = start.tokenizer.pieces(range(start.tokenizer.vocab_size))
    return WordPieceTokenizer([*tokens, *words], lowercase=True)


def fresh(start: pretrained.Pretrained, rows: int) -> Any:
    """A tree of the same parts with tables of so many rows, all of them 7."""
    flat = parameters.flat(start.params)
    known = start.config.vocab_size
    shapes = {
        path: tuple(rows if size == known else size for size in leaf.shape)
        for path, leaf in flat.items()
    }
    tree: dict[str, Any] = {}
    for path, shape in shapes.items():
        *above, name = path.split("/")
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = np.full(shape, 7.0, np.float32)
    return tree


def test_new_words_are_the_mean_of_their_pieces_and_all_else_stays(
    start: pretrained.Pretrained,
) -> None:
    words = extended(start, "riverlantern", "[unused9]")
    merged, lines = continuation.merge(start, fresh(start, words.vocab_size), words)
    found, given = parameters.flat(merged), parameters.flat(start.params)
    known = start.tokenizer.vocab_size
    for path in given:
        old, new = np.asarray(given[path]), np.asarray(found[path])
        if path in ("encoder/embeddings/token/embedding", "masked_lm/bias"):
            pieces = start.tokenizer.encode("riverlantern")
            assert len(pieces) > 1
            np.testing.assert_array_equal(new[:known], old[:known])
            np.testing.assert_allclose(new[known], old[pieces].mean(axis=0), rtol=1e-6)
            assert (new[known + 1] == 7).all()  # an unused entry starts fresh
        else:
            np.testing.assert_array_equal(new, old)
    assert lines == ["+ 2 new entries, 1 of them as the mean of their pieces"]


@pytest.mark.parametrize("config", OF_WORDS.values(), ids=list(OF_WORDS))
def test_new_whole_words_begin_as_unknown_ones(
    config: Any, random_params: Callable[..., Any]
) -> None:
    """Also where words are read by their letters, which takes in every word that is met."""
    model = encoders.pretraining(config).model
    words = OpenWords(OLD_WORDS) if config.reads_letters else OLD_WORDS
    given = random_params(model(config, words, None))
    start = pretrained.Pretrained("given", config, given, words, "", [], 0)
    more = WordTokenizer([*OLD_WORDS.tokens, "mouse", "owl", "[unused1]"], lowercase=True)
    wider = dataclasses.replace(config, vocab_size=more.vocab_size)
    wanted = random_params(model(wider, more, None), 1)
    merged, lines = continuation.merge(start, wanted, more)
    assert lines == ["+ 3 new entries, 2 of them as the mean of their pieces"]
    found, old, fresh = map(parameters.flat, (merged, given, wanted))
    known, grown = OLD_WORDS.vocab_size, 0
    for path, leaf in found.items():
        if leaf.shape == old[path].shape:
            np.testing.assert_array_equal(leaf, old[path])
            continue
        grown += 1
        np.testing.assert_array_equal(leaf[:known], old[path][:known])
        np.testing.assert_allclose(leaf[known : known + 2], old[path][[OLD_WORDS.unk_id] * 2])
        np.testing.assert_array_equal(leaf[known + 2], fresh[path][known + 2])
        # N-grams have the same rows behind the words.
        np.testing.assert_array_equal(leaf[known + 3 :], old[path][ROWS:])
    assert grown == 2 and words.vocab_size == known


@pytest.mark.parametrize("config", OF_WORDS.values(), ids=list(OF_WORDS))
def test_of_the_same_words_all_is_taken(config: Any, random_params: Callable[..., Any]) -> None:
    config = dataclasses.replace(config, vocab_size=OLD_WORDS.vocab_size)
    model = encoders.pretraining(config).model(config, OLD_WORDS, None)
    given = random_params(model)
    words = OpenWords(OLD_WORDS) if config.reads_letters else OLD_WORDS
    start = pretrained.Pretrained("given", config, given, words, "", [], 0)
    merged, lines = continuation.merge(start, random_params(model, 1), OLD_WORDS)
    assert lines == []
    jax.tree.map(np.testing.assert_array_equal, merged, given)


def test_how_it_is_trained_is_the_new_configs() -> None:
    own = Word2VecConfig(ROWS, 4, buckets=6, window=2)
    start = pretrained.Pretrained("given", own, {}, OLD_WORDS, "", [], 0)
    wanted = Word2VecConfig(ROWS + 8, 100, buckets=6, window=10, method="cbow", negatives=15)
    found = continuation.resized(start, wanted)
    assert found == dataclasses.replace(wanted, hidden_size=4)


@pytest.mark.parametrize(
    ("own", "other", "name"),
    [
        (BertConfig(64, 16, 1, 2, 32), {"attention": "causal"}, "attention=full"),
        (
            BertConfig(64, 16, 1, 2, 32, positions="rope"),
            {"positions": "learned"},
            "positions=rope",
        ),
        (Word2VecConfig(ROWS, 4), {"buckets": 6}, "buckets=0"),
    ],
)
def test_a_model_of_other_parts_is_refused_and_not_taken_as_it_is(
    own: Any, other: dict[str, Any], name: str
) -> None:
    """A masked LM would go on where the config says that it is to be left-to-right."""
    start = pretrained.Pretrained("given", own, {}, OLD_WORDS, "", [], 0)
    with pytest.raises(UserError, match=f"init=given: is made with model.{name}, .*; set model"):
        continuation.resized(start, dataclasses.replace(own, **other))


def test_heads_that_the_model_lacks_start_fresh(start: pretrained.Pretrained) -> None:
    words = extended(start)
    bare = start._replace(params={"encoder": start.params["encoder"]})
    merged, lines = continuation.merge(bare, fresh(start, start.config.vocab_size), words)
    assert lines == ["+ masked_lm: starts fresh", "+ next_sentence: starts fresh"]
    assert (merged["masked_lm"]["bias"] == 7).all()


def test_another_vocabulary_is_refused_with_the_mend(start: pretrained.Pretrained) -> None:
    tokens = start.tokenizer.pieces(range(start.tokenizer.vocab_size))
    tokens[-1] = "otherwise"
    with pytest.raises(UserError, match="prepare them with --vocab .* --extend"):
        continuation.check_vocabulary(start, WordPieceTokenizer(tokens, lowercase=True))
    with pytest.raises(UserError, match="not the one of the records"):
        continuation.check_vocabulary(start, WordPieceTokenizer(tokens[:-1], lowercase=True))


def test_a_run_goes_on_from_another_with_new_words(
    command: Command,
    tiny_run: Path,
    tiny_settings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "\n\n".join(f"Kafka reads {word} often.\nKafka writes letters." for word in "abcdef")
    (tmp_path / "text.txt").write_text(text)
    records, run = tmp_path / "records", tmp_path / "run"
    made = [f"--input={tmp_path / 'text.txt'}", f"--output={records}", f"--vocab={tiny_run}"]
    flags = ["--extend=3", "--max_seq_length=32", "--max_predictions_per_seq=5", "--workers=1"]
    assert command(prepare, *made, *flags) == 0
    words = tokenizer.load(records)
    assert words.pieces(words.encode("kafka")) == ["kafka"]
    given = [f"--config={tiny_settings}", f"--workdir={run}", f"data.records={records}"]
    settings = [f"init={tiny_run}", "train.steps=2", "train.batch_size=8", "mesh.data=8"]
    assert command(pretrain, *given, *settings) == 0
    assert "new entries" in capsys.readouterr().out
    config = run_folder.load_config(run)["model"]
    assert config["vocab_size"] == words.vocab_size > pretrained.load(tiny_run).config.vocab_size
    assert config["hidden_size"] == 32
    # And without them the vocabulary does not fit.
    other = [*given[:1], f"--workdir={tmp_path / 'other'}", f"init={run}"]
    folder = run_folder.load_config(tiny_run)["settings"]["data"]["records"]
    assert command(pretrain, *other, f"data.records={folder}", "train.steps=2") == 2
    assert "its vocabulary is not the one of the records" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_run_goes_on_from_vectors_of_others(
    command: Command, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--vocab takes the words of a file of vectors, --extend adds those of the text."""
    words, vectors, records = ["river", "café", "garden"], tmp_path / "v.txt", tmp_path / "records"
    word_vectors.write_text(vectors, WordVectors(words, np.eye(3, 12, dtype=np.float32)))
    made = [f"--input={tiny_corpus}", f"--output={records}", f"--vocab={vectors}", "--extend=20"]
    flags = ["--masking=dynamic", "--segments=doc_sentences", "--max_seq_length=32", "--workers=1"]
    assert command(prepare, *made, *flags) == 0
    found = tokenizer.load(records)
    assert found.kind == "words" and found.vocab_size == 8 + 24
    assert found.pieces(range(5, 8)) == words
    given = [f"--config={CONFIGS / 'word2vec.py'}", f"--workdir={tmp_path / 'run'}"]
    given += [f"data.records={records}", f"init={vectors}", "model.window=3"]
    assert command(pretrain, *given, "train.steps=2", "train.batch_size=8") == 0
    assert "mean of their pieces\n+ output: starts fresh\n" in capsys.readouterr().out
    config = run_folder.load_config(tmp_path / "run")["model"]
    assert (config["hidden_size"], config["window"]) == (12, 3)
    table = pretrained.load(tmp_path / "run").params["encoder"]["embeddings"]["token"]["embedding"]
    np.testing.assert_allclose(table[5:8], np.eye(3, 12), atol=0.2)
    # With --cased text keeps its accents, as these words do.
    cased = ["--vocab", vectors, "--cased", "--input", "-", "--output", "-"]
    kept = prepare._given(prepare.parse_arguments(list(map(str, cased))))
    assert kept is not None and kept.pieces(kept.encode("café Café")) == ["café", "[UNK]"]
