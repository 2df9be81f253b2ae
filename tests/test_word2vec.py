"""word2vec by its real commands: it learns, goes on after a kill bit for bit, and serves tasks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import finetune, partition, prepare, pretrain
from bertjax.errors import UserError
from bertjax.finetuning import finished
from bertjax.models import encoders
from bertjax.models.encoder_output import Packing
from bertjax.models.word2vec import Word2Vec, Word2VecConfig
from bertjax.runs import checkpoint
from bertjax.text.tokenizer import SPECIALS, WordTokenizer
from bertjax.training import run_log

Command = Callable[..., int]
CONFIG = Path(__file__).parents[1] / "configs" / "word2vec.py"


@pytest.fixture(scope="module")
def word_records(
    tmp_path_factory: pytest.TempPathFactory, command: Command, tiny_corpus: Path
) -> Path:
    folder = tmp_path_factory.mktemp("words") / "records"
    flags = ["--vocab_kind=words", "--min_count=1", "--masking=dynamic", "--packed"]
    flags += ["--segments=doc_sentences", "--max_seq_length=64", "--keep_lines", "--workers=1"]
    assert command(prepare, f"--input={tiny_corpus}", f"--output={folder}", *flags) == 0
    return folder


@pytest.fixture(scope="module")
def arguments(word_records: Path) -> list[str]:
    settings = {"data.records": word_records, "data.eval_records": word_records}
    settings |= {"train.batch_size": 8, "train.steps": 12, "model.subsample": 0.02}
    settings |= {"log_every": 1, "save_every": 5, "eval_every": 6}
    return [f"--config={CONFIG}:100", *(f"{name}={value}" for name, value in settings.items())]


@pytest.fixture(scope="module")
def word_run(
    tmp_path_factory: pytest.TempPathFactory, command: Command, arguments: list[str]
) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "word2vec"
    assert command(pretrain, *arguments, f"--workdir={folder}") == 0
    return folder


def losses(run: Path) -> list[tuple[float, ...]]:
    lines = run_log.read_metrics(run)
    return [
        (line["step"], line.get("loss", line.get("eval_negative_sampling_loss"))) for line in lines
    ]


# --- The run --------------------------------------------------------------------------------


def test_it_learns_from_the_loss_of_a_coin(word_run: Path) -> None:
    """With all scores 0 the loss of a pair and its five words of noise is 6 log 2."""
    found = losses(word_run)
    assert found[0][1] == pytest.approx(6 * np.log(2), rel=0.05)
    assert found[-2][1] < 0.9 * found[0][1]
    held_out = [
        line["eval_negative_sampling_loss"]
        for line in run_log.read_metrics(word_run)
        if "eval_negative_sampling_loss" in line
    ]
    assert len(held_out) == 2 and held_out[1] < held_out[0]


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


def test_a_killed_run_goes_on_bit_for_bit(
    command: Command, arguments: list[str], word_run: Path, tmp_path: Path
) -> None:
    flags = [*arguments, f"--workdir={tmp_path}"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *flags], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert command(pretrain, *flags) == 0
    assert losses(tmp_path) == losses(word_run)
    first, again = (checkpoint.load_params(run) for run in (word_run, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, first, again)


@pytest.fixture(scope="module")
def parts_run(
    tmp_path_factory: pytest.TempPathFactory, command: Command, arguments: list[str]
) -> Path:
    """A run whose words have n-grams."""
    folder = tmp_path_factory.mktemp("runs") / "parts"
    flags = [*arguments, "model.buckets=300", "data.eval_records="]
    assert command(pretrain, *flags, f"--workdir={folder}") == 0
    return folder


def test_with_n_grams_words_never_seen_have_vectors(
    word_run: Path, parts_run: Path, command: Command, tmp_path: Path
) -> None:
    """Two words that share most letters are more alike than two that share none."""
    assert losses(parts_run)[-1][1] < losses(parts_run)[0][1]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("xylophonist\txylophonists\t9\nxylophonist\tqueueing\t1\n")
    flags = ["--task=similarity", f"--test={pairs}"]
    assert command(finetune, *flags, f"--init={parts_run}", f"--workdir={tmp_path}") == 0
    found = json.loads((tmp_path / "metrics.json").read_text())["tests"]["pairs"]
    assert found["spearman"] == pytest.approx(1.0) and found["left_out"] == 0
    assert command(finetune, *flags, f"--init={word_run}", f"--workdir={tmp_path / 'o'}") == 2


def test_new_words_of_each_text_are_read_by_their_letters(
    parts_run: Path, command: Command, tmp_path: Path
) -> None:
    """Also when a program was compiled for the words of another text before."""
    rows = ["the farmer xylophones\tyes", "a garden queueing\tno"] * 8
    table = tmp_path / "train.tsv"
    table.write_text("\n".join(["sentence\tlabel", *rows, ""]))
    flags = ["--task=classify", f"--init={parts_run}", f"--train={table}", f"--dev={table}"]
    flags += ["--epochs=1", "--batch_size=8", "--max_seq_length=16", f"--workdir={tmp_path / 'r'}"]
    assert command(finetune, *flags) == 0
    member = finished.load(tmp_path / "r", partition.make_mesh())
    examples = member.task.reader.read(table, "test")
    other = [e._replace(text_a=f"the zebra{i} jumping") for i, e in enumerate(examples)]
    fresh = finished.load(tmp_path / "r", partition.make_mesh())

    def predicted(one: finished.Finished, some: list[Any]) -> list[Any]:
        return finished.predict([one], some, finished.encode([one], "new", some))

    wanted = predicted(fresh, other)
    predicted(member, examples)
    for one, two in zip(predicted(member, other), wanted, strict=True):
        np.testing.assert_array_equal(one.probabilities, two.probabilities)
    # And by different letters they are different.
    assert len({tuple(one.probabilities) for one in wanted}) == len(wanted)


def test_epochs_are_counted_in_steps(
    command: Command, arguments: list[str], word_records: Path, tmp_path: Path
) -> None:
    flags = [*arguments, "train.steps=0", "train.epochs=0.5", "data.eval_records="]
    assert command(pretrain, *flags, f"--workdir={tmp_path}") == 0
    records = json.loads((word_records / "manifest.json").read_text())["shards"][0]["examples"]
    assert losses(tmp_path)[-1][0] == -(-records // 16)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.method=glove", "model.method=glove: choose one of skip_gram, cbow"),
        ("model.window=0", "model.window=0: give at least 1"),
        ("model.noise_power=-1", "model.noise_power=-1: give 0 or more"),
        ("train.microbatches=2", "'train.microbatches=2': no such setting"),
        ("model.update_tokens=100", "model.update_tokens=100: give a multiple of 32"),
        ("train.epochs=-1", "train.epochs=-1: give 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_told(
    command: Command,
    arguments: list[str],
    setting: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [*arguments, "train.steps=0", f"--workdir={tmp_path / 'run'}", setting]
    assert command(pretrain, *flags) == 2
    assert message in capsys.readouterr().err


# --- The encoder ----------------------------------------------------------------------------


def test_the_encoder_gives_the_words_vectors_and_their_mean() -> None:
    words = WordTokenizer([*SPECIALS, "a", "b", "c"], lowercase=True)
    config = Word2VecConfig(words.vocab_size, 4)
    encoder = encoders.build(config, words)
    ids = jnp.array([[2, 5, 6, 1, 3, 0, 0], [2, 7, 3, 2, 5, 5, 3]])
    mask = jnp.array([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 2, 2, 2, 2]])
    params = encoder.init(jax.random.key(0), ids, mask, mask)
    table = params["params"]["embeddings"]["token"]["embedding"]
    assert abs(table).max() <= 1 / 8
    found = encoder.apply(params, ids, mask > 0, mask)
    np.testing.assert_array_equal(found.sequence, table[ids])
    np.testing.assert_array_equal(found.layers, table[ids][None])
    means = [(table[5] + table[6]) / 2, (table[7] + 2 * table[5]) / 3]
    np.testing.assert_allclose(found.pooled, means, atol=1e-7)
    packing = Packing(mask, jnp.array([[0, 0], [0, 3]]))
    packed = encoder.apply(params, ids, mask, mask, packing=packing).pooled
    np.testing.assert_allclose(packed[1], [table[7], table[5]], atol=1e-7)
    np.testing.assert_allclose(packed[0, 1], np.zeros(4))
    assert isinstance(encoder, Word2Vec)


def test_only_skip_gram_and_cbow_are_known() -> None:
    with pytest.raises(UserError, match="choose one of skip_gram, cbow"):
        Word2VecConfig(10, method="glove")
