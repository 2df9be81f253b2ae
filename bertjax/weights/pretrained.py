"""What a fine-tuning starts from: a run of ours or the folder of another code, as one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.models import encoders
from bertjax.models.config import BertConfig, EncoderConfig
from bertjax.models.heads import TASK_HEADS
from bertjax.models.word2vec import Word2VecConfig
from bertjax.runs import checkpoint, parameters, run_folder
from bertjax.text import tokenizer
from bertjax.text.chunk_tokenizer import SPECIALS
from bertjax.text.words import OpenWords, WordTokenizer
from bertjax.weights import google, huggingface, word_vectors
from bertjax.weights.model_folder import FolderInfo

FOLDERS = (
    "a run of bertjax, a Hugging Face folder (config.json, model.safetensors) or a folder of "
    f"Google's 2018 layout ({google.CONFIG}, {google.CHECKPOINT}.index); or a file of word vectors "
    "in word2vec's text or binary format"
)
# Files in such folders; word vectors, too, may end in .bin.
_PARTS = ("*.json", "*.safetensors", "pytorch_model*.bin", f"{google.CHECKPOINT}.*")
# Of a folder: its config; that, its parameters, and what it says beside them.
_ReadConfig = Callable[[Path], EncoderConfig]
_Read = Callable[[Path], tuple[EncoderConfig, Any, FolderInfo]]


class Pretrained(NamedTuple):
    """An encoder with what stands on it.

    Attributes:
      name: the folder or file it came from; "scratch" of random ones.
      config, tokenizer: the encoder's.
      params: {"encoder": ..., and the heads} as NumPy arrays; None for random ones.
      head: the kind of task head in params, a key of TASK_HEADS; "" without one that reads what
        the paper's read (see paper_head).
      labels: names of that head's outputs in their order; empty if unknown or without names.
      skipped: how many tensors of an optimizer the folder holds beside them.
    """

    name: str
    config: EncoderConfig
    params: Any
    tokenizer: tokenizer.Tokenizer
    head: str
    labels: Sequence[str]
    skipped: int


# --- Loading --------------------------------------------------------------------------------


def find(init: str | None) -> Pretrained:
    """The start that --init names.

    Args:
      init: a folder; "scratch" or "scratch:FOLDER" for random weights (params None) with the size
        and the vocabulary of a folder, whose own weights need not be there; where no folder is
        named, the newest pretraining in ./runs.

    Raises:
      UserError: no folder is named and ./runs holds none, or as load does.
    """
    kind, _, like = (init or "").partition(":")
    scratch = kind == "scratch"
    named = like if scratch else init
    folder = storage.path(named) if named else run_folder.newest_run(Path("runs"), "pretrain")
    if folder is None:
        asked = f"--init={init} names no folder" if init else "--init is missing"
        raise UserError(
            f"{asked}, and runs/ holds no pretraining run to take instead; give a run, a Hugging "
            "Face or TF1 folder, or, for random weights, scratch:FOLDER with the size and "
            "vocabulary of one (config.json and vocab.txt will do)"
        )
    start = load(folder, weights=not scratch)
    if scratch:
        print(f"weights: random ones, of the size and with the vocabulary of {start.name}")
        return start._replace(name="scratch", params=None)
    if not init:
        print(f"weights: the newest run, {start.name} (others: --init)")
    return start


def load(folder: Path, *, weights: bool = True) -> Pretrained:
    """Loads the newest (or, of a fine-tuned run or a sweep, the best) parameters of a folder.

    Args:
      weights: False: only config and vocabulary are read of a folder, and params is None.

    Raises:
      UserError: none of FOLDERS, a file of one, or one whose vocabulary or config does not fit its
        parameters.
    """
    if folder.is_file() and any(map(folder.match, _PARTS)):
        raise UserError(f"{folder}: a part of a model; give its folder, {folder.parent}")
    if folder.is_file():
        return _read_vectors(folder)
    folder = run_folder.best_of_sweep(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give {FOLDERS}")
    read_config, read = _readers(folder)
    if weights:
        config, params, info = read(folder)
    else:
        config, params, info = read_config(folder), None, FolderInfo("", [])
    words = load_words(folder, config)
    return Pretrained(str(folder), config, params, words, info.head, info.labels, info.skipped)


def _readers(folder: Path) -> tuple[_ReadConfig, _Read]:
    """What reads a folder of its layout: its config alone, and all.

    Raises:
      UserError: it is of none of FOLDERS.
    """
    if (folder / run_folder.CHECKPOINTS).is_dir() or run_folder.is_run(folder):
        return _read_run_config, _read_run
    if (folder / run_folder.CONFIG).is_file():
        return huggingface.read_config, huggingface.read_huggingface
    if (folder / google.CONFIG).is_file():
        return google.read_config, google.read_google
    raise UserError(
        f"{folder}: neither {run_folder.CONFIG} nor {google.CONFIG} in it; give {FOLDERS}"
    )


def load_words(folder: Path, config: EncoderConfig) -> tokenizer.Tokenizer:
    """The tokenizer of a model; where that reads letters, one that takes every new word in.

    Raises:
      UserError: it has more entries than the model.
    """
    words = tokenizer.load(folder)
    if words.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: the vocabulary has {words.vocab_size} entries, the model only "
            f"{config.vocab_size}; use the vocabulary the model was trained with"
        )
    if config.reads_letters and isinstance(words, WordTokenizer):
        return OpenWords(words)
    return words


def _read_vectors(path: Path) -> Pretrained:
    """A file of word vectors as a word2vec; special entries have the vector 0."""
    found = word_vectors.read(path)
    tokens = [*SPECIALS, *(word for word in found.words if word not in SPECIALS)]
    tokens += [f"[unused{i}]" for i in range(-len(tokens) % 8)]
    lowercase = all(word == word.lower() for word in found.words)
    words = WordTokenizer(tokens, lowercase)
    table = np.zeros((len(tokens), found.vectors.shape[1]), np.float32)
    table[[words.ids[word] for word in found.words]] = found.vectors
    params = {"encoder": {"embeddings": {"token": {"embedding": table}}}}
    config = Word2VecConfig(len(tokens), table.shape[1])
    return Pretrained(str(path), config, params, words, "", [], 0)


def _read_run_config(folder: Path) -> EncoderConfig:
    return encoders.from_run(run_folder.load_config(folder))


def _read_run(folder: Path) -> tuple[EncoderConfig, Any, FolderInfo]:
    run = run_folder.load_config(folder)
    config = encoders.from_run(run)
    params = checkpoint.load_params(folder, best=True)
    # Compared with what its config would make, before anything is built on it.
    row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    encoder = encoders.build(config, tokenizer.load(folder))
    wanted = jax.eval_shape(encoder.init, jax.random.key(0), row, row, row)["params"]
    parameters.check_shapes(folder, {"encoder": params["encoder"]}, {"encoder": wanted})
    head = paper_head(run)
    if run.get("head"):
        check_head(folder, run, params)
    return config, params, FolderInfo(head, run["labels"] if head else [])


def check_head(folder: Path, run: dict[str, Any], params: Any) -> None:
    """Raises UserError: the labels or outputs of a fine-tuned run's config are not its head's."""
    head = params["head"]
    # The last layer of a BiLSTM, or the only one.
    outputs = len(head.get("output", head)["bias"])
    labels = run["labels"]
    named = TASK_HEADS[run["head"]].num_outputs is None
    fault = ""
    if run.get("num_outputs", outputs) != outputs:
        fault = f"num_outputs {run['num_outputs']}"
    elif len(labels) != outputs * named:
        fault = f"{len(labels)} labels"
    elif len(set(labels)) != len(labels):
        fault = "a label twice"
    if fault:
        raise UserError(
            f"{folder / run_folder.CONFIG}: {fault}, but the checkpoint's head has {outputs} "
            "outputs; bring back the file that the training wrote"
        )


def paper_head(run: dict[str, Any]) -> str:
    """The kind of a run's head if it is one linear layer on what the paper's heads read.

    Args:
      run: its config, as run_folder.load_config gives it.

    Returns:
      A key of TASK_HEADS; "" for a pretraining run, and for a head that reads other layers or is
      a BiLSTM.
    """
    head, features = run.get("head", ""), run.get("features", {})
    usual = ("", "last") if head and TASK_HEADS[head].per_token else ("",)
    other = features.get("bilstm") or features.get("layers", "") not in usual
    return "" if other else head


def pools(start: Pretrained) -> bool:
    """Whether its pooled vector says anything: masked or next words alone train no pooler.

    One that nothing has trained is known by its bias, which is still at 0, where it started; the
    folders of others may have none. Encoders without layers of attention need none.
    """
    if start.params is None or not isinstance(start.config, BertConfig):
        return True
    pooler = start.params["encoder"].get("pooler")
    return pooler is not None and bool(np.any(pooler["bias"]))
