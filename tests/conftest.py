"""Eight CPU devices, no network, and the tiny vocabulary, corpus and sizes that tests share."""

from __future__ import annotations

import os
import signal

# All of this must stand before jax, tensorflow or transformers are imported anywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
# A shell starts what it puts in the background deaf to ^C; processes of the tests must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import random  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import linen as nn  # noqa: E402

from bertjax import errors, prepare, pretrain  # noqa: E402
from bertjax.models.config import BertConfig  # noqa: E402
from bertjax.models.masked_lm import PretrainingModel  # noqa: E402
from bertjax.runs import checkpoint, run_folder  # noqa: E402
from bertjax.runs.state import TrainState  # noqa: E402
from bertjax.text.tokenizer import SPECIALS, Tokenizer, WordPieceTokenizer  # noqa: E402

_DETERMINERS = ["the", "a", "this", "that", "every"]
_ADJECTIVES = ["small", "old", "quiet", "bright", "green", "heavy", "distant", "curious"]
_NOUNS = ["river", "farmer", "lantern", "garden", "letter", "kitchen", "teacher", "bridge"]
_NOUNS += ["winter", "harbour", "engine", "village"]
_VERBS = ["watched", "carried", "found", "painted", "remembered", "followed", "repaired", "crossed"]
_ENDINGS = ["yesterday", "before dawn", "in the rain", "without a word", "again and again"]


@pytest.fixture(scope="session")
def tiny_tokens() -> list[str]:
    """A WordPiece vocabulary of some 150 entries: specials, letters, and the corpus' words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = {word for part in _ENDINGS for word in part.split()}
    words |= {*_DETERMINERS, *_ADJECTIVES, *_NOUNS, *_VERBS}
    unused = [f"[unused{i}]" for i in range(3)]
    pieces = [*letters, *"0123456789.,!?'-", *(f"##{letter}" for letter in letters)]
    pieces += ["##ed", "##ing", "##er", "##ly", *sorted(words - set(letters))]
    return [SPECIALS[0], *unused, *SPECIALS[1:], *pieces]


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokens: list[str]) -> WordPieceTokenizer:
    return WordPieceTokenizer(tiny_tokens, lowercase=True)


def _sentence(rng: random.Random) -> str:
    def phrase() -> str:
        return f"{rng.choice(_DETERMINERS)} {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"

    sentence = f"{phrase()} {rng.choice(_VERBS)} {phrase()} {rng.choice(_ENDINGS)}."
    return sentence[0].upper() + sentence[1:]


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file: 12 documents of 8 to 15 lines, one sentence a line, a blank line between."""
    rng = random.Random(0)
    documents = ["\n".join(_sentence(rng) for _ in range(rng.randint(8, 15))) for _ in range(12)]
    path = tmp_path_factory.mktemp("corpus") / "tiny.txt"
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_config(tiny_tokens: list[str]) -> BertConfig:
    """Two layers of width 32 with two heads; the vocabulary is the tiny one, rounded up to 8."""
    return BertConfig(
        vocab_size=-(-len(tiny_tokens) // 8) * 8,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        max_positions=64,
    )


@pytest.fixture(scope="session")
def tiny_batch(tiny_config: BertConfig) -> dict[str, np.ndarray]:
    """A pretraining batch of 32 rows of length 16: padding, and 0 to 4 masked positions a row."""
    rng = np.random.default_rng(0)
    rows, length, predictions = 32, 16, 4
    lengths = rng.integers(6, length + 1, size=(rows, 1))
    return {
        "input_ids": rng.integers(4, tiny_config.vocab_size, (rows, length)).astype(np.int32),
        "input_mask": (np.arange(length) < lengths).astype(np.int32),
        "segment_ids": (np.arange(length) >= lengths // 2).astype(np.int32),
        "masked_lm_positions": np.sort(rng.integers(0, 6, (rows, predictions))).astype(np.int32),
        "masked_lm_ids": rng.integers(4, tiny_config.vocab_size, (rows, predictions)).astype(
            np.int32
        ),
        "masked_lm_weights": (np.arange(predictions) < np.arange(rows)[:, None] % 5).astype(
            np.float32
        ),
        "next_sentence_labels": rng.integers(0, 2, (rows, 1)).astype(np.int32),
    }


@pytest.fixture(scope="session")
def random_params() -> Callable[..., Any]:
    """(model, seed) -> parameters in which every bias and norm, too, has a value of its own."""

    def make(model: nn.Module, seed: int = 0) -> Any:
        row = jnp.zeros((1, 1), jnp.int32)
        inputs = [row] * (4 if isinstance(model, PretrainingModel) else 3)
        shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
        rng = np.random.default_rng(seed)

        def value(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
            centre = 1.0 if path[-1].key == "scale" else 0.0
            return rng.normal(centre, 0.15, leaf.shape).astype(np.float32)

        return jax.tree_util.tree_map_with_path(value, shapes)

    return make


@pytest.fixture(scope="session")
def save_run() -> Callable[..., None]:
    """(folder, config of the encoder, tokenizer, parameters, what else its config says)"""

    def save(folder: Path, config: Any, words: Tokenizer, params: Any, **more: Any) -> None:
        known = {"kind": "pretrain", "encoder": config.encoder, "model": config.to_dict()}
        run_folder.save_config(folder, known | {"max_seq_length": 24} | more)
        words.save(folder)
        zero = jnp.zeros((), jnp.int32)
        held = jax.tree.map(jnp.asarray, params)
        with checkpoint.Checkpoints(folder) as checkpoints:
            checkpoints.save(TrainState(zero, zero, zero, held, {"count": zero}))

    return save


# An entry point and its arguments -> the exit status its process would have.
Command = Callable[..., int]


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Those of one file are of no use to the next, and all together take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps what is compiled, so that runs of the same model and their children compile once.

    The workers of pytest-xdist share it: a limit of its size makes jax lock the folder.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "compiled"
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": 8 << 30,
        "jax_persistent_cache_min_compile_time_secs": 0.3,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield folder
        jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def command(compiled: Path) -> Command:
    """Calls an entry point's main in this process, as `python -m` would."""

    def call(module: ModuleType, *arguments: object) -> int:
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
            try:
                return errors.run(module.main)
            finally:
                signal.signal(signal.SIGTERM, handler)

    return call


@pytest.fixture()
def no_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tensorflow-datasets without a network; returns its cache, which is empty."""
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    # Nobody listens there, so nothing leaves this machine.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    # It remembers proxies.
    monkeypatch.setattr("urllib.request._opener", None)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_vocabulary(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: WordPieceTokenizer
) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    tiny_tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_records(
    tmp_path_factory: pytest.TempPathFactory,
    command: Command,
    tiny_corpus: Path,
    tiny_vocabulary: Path,
) -> Path:
    """Some 130 records of length 32 with 5 predictions, in four shards."""
    folder = tmp_path_factory.mktemp("data") / "records"
    arguments = ["--keep_lines", "--max_seq_length=32", "--max_predictions_per_seq=5"]
    arguments += ["--dupe_factor=2", "--num_shards=4", "--workers=1"]
    files = [f"--input={tiny_corpus}", f"--vocab={tiny_vocabulary}", f"--output={folder}"]
    assert command(prepare, *files, *arguments) == 0
    return folder


# One layer of width 32 is too small to be among the published sizes.
_TINY_SETTINGS = """
from ml_collections import ConfigDict
from bertjax.models.config import SIZES

SIZES["nano"] = dict(num_layers=1, hidden_size=32, num_heads=2, intermediate_size=64)


def get_config(size="nano"):
    return ConfigDict({
        "init": "",
        "model": {"size": size, "max_positions": 32, "hidden_dropout": 0.1,
                  "attention_dropout": 0.1, "dtype": "float32"},
        "data": {"records": "", "eval_records": "", "eval_examples": 0,
                 "long_records": "", "shapes": (),
                 "skip_damaged": False, "mask_unit": "", "masked_lm_prob": 0.0,
                 "mask_shares": ()},
        "train": {"batch_size": 16, "steps": 12, "learning_rate": 1e-3, "warmup_steps": 2,
                  "weight_decay": 0.01, "clip_norm": 1.0, "microbatches": 1, "long_share": 0.1,
                  "long_batch_size": 0, "long_learning_rate": 0.0, "long_warmup_steps": 0,
                  "optimizer": "adam2018", "schedule": "linear", "decay_share": 0.1,
                  "moment_dtype": "float32", "batch_growth": (), "seed": 0},
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        "log_every": 1, "save_every": 5, "eval_every": 100, "keep_last": 2,
        "max_skipped": 10, "stuck_after": 600.0,
    })
"""


@pytest.fixture(scope="session")
def tiny_settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file for twelve steps of a model of one layer of width 32."""
    path = tmp_path_factory.mktemp("configs") / "nano.py"
    path.write_text(_TINY_SETTINGS, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_run(
    tmp_path_factory: pytest.TempPathFactory,
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
) -> Path:
    """A pretraining run that was never interrupted."""
    run = tmp_path_factory.mktemp("runs") / "pretrained"
    arguments = [f"--config={tiny_settings}", f"--workdir={run}", f"data.records={tiny_records}"]
    assert command(pretrain, *arguments) == 0
    return run
