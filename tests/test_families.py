"""Every kind of task by the command a user types: learnt, scored, written, and predicted again."""

from __future__ import annotations

import csv
import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bertjax import finetune
from bertjax.finetuning import from_flags
from bertjax.finetuning.tuning import Tuner
from bertjax.models import encoders, heads
from bertjax.models.elmo import ElmoConfig
from bertjax.runs import checkpoint, run_folder
from bertjax.tasks.table import TASKS
from bertjax.text import tokenizer
from bertjax.text.tokenizer import SPECIALS, WordTokenizer
from bertjax.weights import pretrained, word_vectors
from bertjax.weights.word_vectors import WordVectors

Command = Callable[..., int]
FLAGS = ["--batch_size=16", "--max_seq_length=16", "--dropout=0", "--learning_rate=2e-3"]
WORDS = ["the", "small", "old", "quiet", "green", "distant", "farmer", "letter"]


def _words(rng: random.Random, noun: str) -> list[str]:
    before, after = (rng.sample(WORDS, rng.randint(1, 3)) for _ in range(2))
    return [*before, noun, *after]


def _put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = content if isinstance(content, str) else "".join(f"{json.dumps(x)}\n" for x in content)
    path.write_text(lines, encoding="utf-8")
    return path


def _tags(rng: random.Random, count: int) -> str:
    """Rivers are water, gardens are land, all else is nothing."""
    kinds = {"river": "B-WATER", "garden": "B-LAND"}
    sentences = [_words(rng, rng.choice(list(kinds))) for _ in range(count)]
    return "".join(
        "".join(f"{word} {kinds.get(word, 'O')}\n" for word in words) + "\n" for words in sentences
    )


def _questions(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """The answer is the water in the context; where there is none, there is no answer."""
    found = []
    for number in range(count):
        noun = rng.choice(["river", "garden"])
        context = " ".join(_words(rng, noun))
        water = noun == "river"
        answers = [{"text": "river", "answer_start": context.index("river")}] if water else []
        item = {"id": f"q{number}", "question": "the water", "context": context}
        found.append(item | {"answers": answers})
    return found


def _choices(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Of two or three ways to go on the one with the river is right."""
    found = []
    for number in range(count):
        texts = [" ".join(_words(rng, "garden")) for _ in range(1 + number % 2)]
        right = rng.randint(0, len(texts))
        texts.insert(right, " ".join(_words(rng, "river")))
        found.append({"context": "the farmer", "choices": texts, "label": right})
    return found


def _numbers(rng: random.Random, count: int) -> list[dict[str, Any]]:
    nouns = {"river": 4.0, "bridge": 2.0, "garden": 0.0}
    chosen = [rng.choice(list(nouns)) for _ in range(count)]
    return [{"text": " ".join(_words(rng, noun)), "score": nouns[noun]} for noun in chosen]


MAKERS: dict[str, tuple[str, Callable[[random.Random, int], Any], float]] = {
    "tag": ("conll", _tags, 1.0),
    "span": ("jsonl", _questions, 1.0),
    "choice": ("jsonl", _choices, 1.0),
    "regress": ("jsonl", _numbers, 0.9),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def trained(
    request: pytest.FixtureRequest,
    command: Command,
    tiny_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, Path]:
    """(task, run, dev file)."""
    name: str = request.param
    extension, make, _ = MAKERS[name]
    folder, rng = tmp_path_factory.mktemp(name), random.Random(0)
    train = _put(folder / f"train.{extension}", make(rng, 64))
    dev = _put(folder / f"dev.{extension}", make(rng, 20))
    run = folder / "run"
    arguments = [f"--task={name}", f"--train={train}", f"--dev={dev}", f"--init={tiny_run}"]
    assert command(finetune, *arguments, *FLAGS, "--epochs=20", f"--workdir={run}") == 0
    return name, run, dev


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _result(run: Path) -> dict[str, Any]:
    return _read(run / "metrics.json")


def test_it_is_learnt(trained: tuple[str, Path, Path]) -> None:
    name, run, _ = trained
    result = _result(run)
    assert result["score"] >= MAKERS[name][2]
    assert result["score"] * result["perfect"] == result["dev"][result["primary"]]
    assert not result["collapsed"]


def test_predicting_needs_only_the_run_and_a_file(
    trained: tuple[str, Path, Path],
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same examples get the same predictions as at the end of the training."""
    name, run, dev = trained
    given = [f"--workdir={run}", f"--input={dev}", f"--output={tmp_path}"]
    assert command(finetune, "--mode=predict", *given) == 0
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (run / path.name).read_bytes(), path.name
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in run.glob("*-dev.*")}
    result = _result(run)
    primary = result["primary"]
    assert f"{primary} {result['dev'][primary]:.4f}" in capsys.readouterr().out


def test_an_ensemble_of_equals_answers_like_one(
    trained: tuple[str, Path, Path], command: Command, tmp_path: Path
) -> None:
    _, run, dev = trained
    given = [f"--input={dev}", f"--output={tmp_path}", "--ensemble", str(run), str(run)]
    assert command(finetune, "--mode=predict", *given) == 0
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (run / path.name).read_bytes(), path.name


@pytest.mark.parametrize("trained", ["regress"], indirect=True)
def test_an_ensemble_of_others_answers_with_their_mean(
    trained: tuple[str, Path, Path],
    save_run: Callable[..., None],
    command: Command,
    tmp_path: Path,
) -> None:
    """The other one says half of what the first says, and one more."""
    _, run, dev = trained
    config, params = run_folder.load_config(run), checkpoint.load_params(run, best=True)
    head = params["head"]
    params["head"] = {"kernel": head["kernel"] / 2, "bias": head["bias"] / 2 + 1}
    other = tmp_path / "other"
    save_run(other, encoders.from_run(config), tokenizer.load(run), params, **config)

    def predicted(*members: Path) -> np.ndarray:
        output = tmp_path / str(len(members))
        given = [f"--input={dev}", f"--output={output}", "--ensemble", *map(str, members)]
        assert command(finetune, "--mode=predict", *given) == 0
        with open(output / "predictions-dev.tsv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return np.array([float(row["prediction"]) for row in rows])

    first = predicted(run)
    assert np.ptp(first) > 1
    np.testing.assert_allclose(predicted(run, other), (first + first / 2 + 1) / 2, atol=1e-5)


@pytest.mark.parametrize("trained", ["span"], indirect=True)
def test_answers_to_questions_may_be_chosen_otherwise_than_in_training(
    trained: tuple[str, Path, Path], command: Command, tmp_path: Path
) -> None:
    """As with the best null threshold, which is known only after the training."""
    _, run, dev = trained
    given = [f"--workdir={run}", f"--input={dev}", f"--output={tmp_path}"]
    assert any(_read(run / "predictions-dev.json").values())
    assert command(finetune, "--mode=predict", *given, "--null_threshold=-1e6") == 0
    assert set(_read(tmp_path / "predictions-dev.json").values()) == {""}
    assert _read(tmp_path / "nbest-dev.json") == _read(run / "nbest-dev.json")
    assert command(finetune, "--mode=predict", *given, "--n_best=1", "--max_answer_length=1") == 0
    # The best one, and that there is none.
    listed = _read(tmp_path / "nbest-dev.json").values()
    assert {len(answers) for answers in listed} == {2}
    assert max(len(answer["text"].split()) for answers in listed for answer in answers) == 1


@pytest.mark.parametrize("trained", ["tag"], indirect=True)
def test_what_the_columns_were_called_does_not_hinder_files_without_names(
    trained: tuple[str, Path, Path],
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, dev = shutil.copytree(trained[1], tmp_path / "run"), trained[2]
    config = _read(run / "config.json") | {"columns": ["tokens=words"]}
    (run / "config.json").write_text(json.dumps(config))
    given = ["--mode=predict", f"--workdir={run}", f"--input={dev}", f"--output={tmp_path / 'new'}"]
    assert command(finetune, *given) == 0
    assert (tmp_path / "new" / "predictions-dev.conll").is_file()
    assert command(finetune, *given, "--columns", "tokens=words") == 2
    assert "--columns: for tables" in capsys.readouterr().err


# --- Other encoders -------------------------------------------------------------------------

_ELMO: dict[str, Any] = {"filters": ((1, 4), (3, 4)), "character_size": 4, "max_characters": 8}


def _elmo(folder: Path, words: WordTokenizer, save_run: Callable[..., None]) -> Path:
    config = ElmoConfig(words.vocab_size, 8, 4, num_layers=1, highway_layers=1, **_ELMO)
    row = np.zeros((1, 4), np.int32)
    params = encoders.build(config, words).init(jax.random.key(0), row, row, row)["params"]
    save_run(folder, config, words, {"encoder": params})
    return folder


def _word2vec(folder: Path, words: WordTokenizer, save_run: Callable[..., None]) -> Path:
    rows = np.random.default_rng(0).normal(size=(words.vocab_size, 8)).astype(np.float32)
    word_vectors.write_text(folder, WordVectors(list(words.tokens), rows))
    return folder


@pytest.mark.parametrize("task", MAKERS)
@pytest.mark.parametrize("encoder", [_elmo, _word2vec])
def test_other_encoders_serve_every_kind_of_task(
    encoder: Callable[..., Path],
    task: str,
    save_run: Callable[..., None],
    command: Command,
    tmp_path: Path,
) -> None:
    """From random weights, which are enough to be trained, scored, and to predict the same again.

    Of the texts' words some are not in the vocabulary.
    """
    words = WordTokenizer([*SPECIALS, *WORDS[:6], "river", "garden", "water"], lowercase=True)
    init = encoder(tmp_path / "start", words, save_run)
    extension, make, _ = MAKERS[task]
    data, run = _put(tmp_path / f"dev.{extension}", make(random.Random(0), 8)), tmp_path / "run"
    flags = [f"--task={task}", f"--init={init}", f"--train={data}", f"--dev={data}", "--epochs=1"]
    flags += ["--batch_size=8", "--max_seq_length=16", f"--workdir={run}"]
    flags += ["--head=linear"] if task == "tag" else []
    assert command(finetune, *flags) == 0
    assert np.isfinite(_result(run)["score"])
    given = [f"--workdir={run}", f"--input={data}", f"--output={tmp_path / 'again'}"]
    assert command(finetune, "--mode=predict", *given) == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {name: (run / name).read_bytes() for name in again} != {}


# --- Options --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("tags"), random.Random(1)
    files = {split: _put(folder / f"{split}.conll", _tags(rng, 24)) for split in ("train", "dev")}
    return ["--task=tag", *FLAGS, *(f"--{split}={path}" for split, path in files.items())]


def test_a_frozen_encoder_stays_as_it_was_under_a_mix_and_a_bilstm(
    tags: list[str],
    command: Command,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heads, "BiLstm", functools.partial(heads.BiLstm, width=16))
    more = ["--encoder=frozen", "--layers=mix", "--epochs=2", f"--init={tiny_run}"]
    assert command(finetune, *tags, *more, f"--workdir={tmp_path}") == 0
    params = checkpoint.load_params(tmp_path)
    before = checkpoint.load_params(tiny_run)["encoder"]
    assert all(map(np.array_equal, jax.tree.leaves(params["encoder"]), jax.tree.leaves(before)))
    assert "forward_0" in params["head"]
    mix = json.loads((tmp_path / "layer_mix.json").read_text())
    assert sum(mix["weights"]) == pytest.approx(1)
    assert mix["weights"] != pytest.approx([0.5, 0.5], abs=1e-4)
    chart = (tmp_path / "layer_mix.svg").read_text()
    assert chart.startswith("<?xml")
    assert "gamma" in chart


@pytest.mark.parametrize(("bias", "layers"), [(None, "mix"), (0.0, "mix"), (0.1, "")])
def test_a_pooler_that_nothing_has_trained_is_not_read_frozen(
    bias: float | None, layers: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a model of masked or next words alone, which is known by the pooler's bias, or of a
    folder without a pooler."""
    start = pretrained.load(tiny_run)
    if bias is None:
        del start.params["encoder"]["pooler"]
    else:
        start.params["encoder"]["pooler"]["bias"] = np.full(32, bias, np.float32)
    for task in ("classify", "tag"):
        for encoder in ("frozen", "tuned"):
            flags = finetune.parse_arguments(
                [f"--task={task}", f"--encoder={encoder}", "--train=x"]
            )
            found = from_flags.layer_kinds(flags, TASKS[task], start)
            assert found == (layers if (task, encoder) == ("classify", "frozen") else "",)
    flags = finetune.parse_arguments(["--task=classify", "--encoder=frozen", "--layers=last"])
    assert from_flags.layer_kinds(flags, TASKS["classify"], start) == ("last",)
    assert ("layers: mix, for nothing has trained" in capsys.readouterr().out) == bool(layers)


def test_all_layers_are_those_that_the_encoder_has(
    tags: list[str],
    command: Command,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is trained is left out here: it takes as long as four runs."""

    def trained(flags: Any, tuner: Tuner, folder: Path, data: Any, first: Any) -> Path:
        folder.mkdir(parents=True)
        found = {"primary": "f1", "perfect": 1.0, "score": len(tuner.model.layers) / 100}
        (folder / "metrics.json").write_text(json.dumps(found))
        return folder

    monkeypatch.setattr(from_flags, "run_all", trained)
    more = ["--encoder=frozen", "--layers=all", f"--init={tiny_run}", f"--workdir={tmp_path}"]
    assert command(finetune, *tags, *more) == 0
    said = capsys.readouterr().out
    assert "--layers=all: the encoder has 1 layer(s), so not sum_last4, concat_last4\n" in said
    rows = (tmp_path / "layers.md").read_text().splitlines()[2:]
    wanted = ["embeddings", "second_to_last", "last", "mix"]
    scores = [f"{len(name) / 100:.4f}" for name in wanted]
    assert rows == [f"| {n} | {s} | - | {s} | 1 |" for n, s in zip(wanted, scores, strict=True)]


def test_training_first_on_another_file_is_where_the_run_begins(
    tags: list[str],
    command: Command,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = _put(tmp_path / "other.conll", _tags(random.Random(2), 16))
    more = [f"--extra_train={other}", "--learning_rate=0", "--epochs=1", f"--init={tiny_run}"]
    assert command(finetune, *tags, *more, f"--workdir={tmp_path / 'run'}") == 0
    said = capsys.readouterr().out
    assert "= head: kept (tagging of O, B-LAND, B-WATER, I-LAND, I-WATER)" in said
    first, second = (checkpoint.load_params(tmp_path / name) for name in ("run/extra", "run"))
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(second)))


def test_training_first_is_refused_where_nothing_of_it_is_kept(
    tags: list[str],
    command: Command,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = _put(tmp_path / "other.conll", _tags(random.Random(2), 1))
    given = [*tags, "--encoder=frozen", f"--extra_train={other}", f"--init={tiny_run}"]
    assert command(finetune, *given, f"--workdir={tmp_path / 'run'}") == 2
    assert "error: --extra_train: of a frozen encoder nothing is kept" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_bilstm_is_for_tagging_only(
    command: Command, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _put(tmp_path / "x.jsonl", _numbers(random.Random(0), 4))
    files = [f"--train={data}", f"--dev={data}", f"--init={tiny_run}"]
    arguments = ["--task=regress", "--head=bilstm", "--max_seq_length=16", *files]
    assert command(finetune, *arguments, f"--workdir={tmp_path / 'run'}") == 2
    assert "--head=bilstm: is for tagging, not for --task=regress" in capsys.readouterr().err
