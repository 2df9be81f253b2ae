"""What is wrong with the user's input is told in one line, with exit status 2, before any harm."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bertjax import export, fill, finetune, plan, prepare, pretrain
from bertjax.data import example_bytes, records
from bertjax.data import manifest as manifests
from bertjax.data.manifest import MANIFEST, Manifest
from bertjax.data.shards import write_records
from bertjax.text.tokenizer import WordPieceTokenizer

Command = Callable[..., int]


class Place:
    """Good input to spoil, and an empty folder to spoil it in."""

    def __init__(self, here: Path, corpus: Path, vocabulary: Path, good: Path) -> None:
        self.here, self.output = here, here / "output"
        self.corpus, self.vocabulary, self.records = corpus, vocabulary, good
        self.config = self.run = here

    def put(self, name: str, content: str | bytes) -> Path:
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def copy(self, folder: Path, name: str) -> Path:
        return shutil.copytree(folder, self.here / name)

    def spoil(self, path: Path, **changes: object) -> None:
        """Changes entries of a JSON file; "a.b" is b in a."""
        content = json.loads(path.read_text())
        for name, value in changes.items():
            inner = content
            *groups, last = name.split("__")
            for group in groups:
                inner = inner[int(group) if group.isdecimal() else group]
            inner[last] = value
        path.write_text(json.dumps(content))

    def change_manifest(self, folder: Path, **changes: Any) -> Path:
        """Writes a manifest that says something else of its records."""
        dataclasses.replace(manifests.load(folder), **changes).save(folder)
        return folder

    # Commands that are right but for what is given.

    def prepare(self, *more: object, text: Path | None = None) -> list[object]:
        files = [f"--input={text or self.corpus}", f"--vocab={self.vocabulary}"]
        return [*files, f"--output={self.output}", "--keep_lines", "--workers=1", *more]

    def pretrain(self, *more: object, records: Path | None = None) -> list[object]:
        files = [f"--config={self.config}", f"--workdir={self.output}"]
        return [*files, f"data.records={records or self.records}", *more]

    def finetune(self, *more: object, task: Path | None = None) -> list[object]:
        if task is None:
            task = self.task(dev="sentence\tlabel\nthe river\twet\n")
        files = [f"--data_dir={task}", f"--init={self.run}", f"--workdir={self.output}"]
        return ["--task=classify", *files, "--max_seq_length=16", "--batch_size=8", *more]

    def task(self, dev: str | bytes, train: str = "") -> Path:
        self.put("task/train.tsv", train or "sentence\tlabel\nthe river\twet\na garden\tdry\n")
        self.put("task/dev.tsv", dev)
        return self.here / "task"


@pytest.fixture()
def place(
    tmp_path: Path,
    tiny_corpus: Path,
    tiny_vocabulary: Path,
    tiny_records: Path,
    tiny_settings: Path,
    tiny_run: Path,
) -> Place:
    place = Place(tmp_path, tiny_corpus, tiny_vocabulary, tiny_records)
    place.config, place.run = tiny_settings, tiny_run
    return place


# --- Text and vocabulary --------------------------------------------------------------------


def vocabulary_without_mask(place: Place) -> list[object]:
    tokens = (place.vocabulary / "vocab.txt").read_text().replace("[MASK]\n", "")
    return place.prepare(f"--vocab={place.put('vocab.txt', tokens)}")


def output_below_a_file(place: Place) -> list[object]:
    place.put("file", "")
    return place.prepare(f"--output={place.here / 'file' / 'records'}")


def output_is_a_file(place: Place) -> list[object]:
    place.put("output", "")
    return place.prepare()


def compressed_and_cut_short(place: Place) -> list[object]:
    return place.prepare(text=place.put("cut.txt.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00"))


PREPARE: dict[str, tuple[Callable[[Place], list[object]], str]] = {
    "missing input": (
        lambda p: p.prepare(text=p.here / "gone.txt"),
        "gone.txt: no such file or folder",
    ),
    "empty input": (lambda p: p.prepare(text=p.put("empty.txt", "\n \n")), "no text in"),
    "empty input, vocabulary to be learnt": (
        lambda p: [f"--input={p.put('empty.txt', '')}", f"--output={p.output}"],
        "no text",
    ),
    "folder without text": (
        lambda p: p.prepare(text=p.here),
        "no .txt, .txt.gz, .txt.xz, .txt.zst, .jsonl, .jsonl.gz, .jsonl.xz, .jsonl.zst file",
    ),
    "another kind of file": (
        lambda p: p.prepare(text=p.put("book.pdf", "%PDF")),
        "book.pdf: unknown extension",
    ),
    "not UTF-8": (
        lambda p: p.prepare(text=p.put("latin.txt", b"good\n\nGr\xf6\xdfe\n")),
        "latin.txt:3: not UTF-8",
    ),
    "cut short": (compressed_and_cut_short, "cut.txt.gz: the compressed file is cut short"),
    "one document": (
        lambda p: p.prepare(text=p.put("one.txt", "The river.\nA garden.\n")),
        "holds 1 document",
    ),
    "no [MASK]": (vocabulary_without_mask, "vocab.txt: no [MASK] in the vocabulary"),
    "missing vocabulary": (
        lambda p: p.prepare(f"--vocab={p.here}/vocab.txt"),
        "vocab.txt: no such vocabulary",
    ),
    "too small a vocabulary": (
        lambda p: [f"--input={p.corpus}", f"--output={p.output}", "--vocab_size=8"],
        "a vocabulary of 8 is too small",
    ),
    "too short": (lambda p: p.prepare("--max_seq_length=4"), "max_seq_length 4 must lie between"),
    "packed and masked already": (
        lambda p: p.prepare("--packed"),
        "add --masking=dynamic",
    ),
    "too little memory": (lambda p: p.prepare("--memory=3MB"), "--memory=3MB: give at least"),
    "memory that is no number": (lambda p: p.prepare("--memory=much"), "write it like 2GB"),
    "words for no vocabulary": (
        lambda p: [f"--input={p.corpus}", f"--output={p.output}", "--extend=3"],
        "--extend adds words to a vocabulary; give it with --vocab",
    ),
    "no workers": (lambda p: p.prepare("--workers=0"), "--workers"),
    "a negative seed": (lambda p: p.prepare("--seed=-1"), "seed -1 must be at least 0"),
    "a share of masks that is none": (
        lambda p: p.prepare("--masked_lm_prob=inf"),
        "--masked_lm_prob=inf: give a share",
    ),
    "output below a file": (output_below_a_file, "a part of the path is a file"),
    "output is a file": (output_is_a_file, "output"),
}


# --- Pretraining ----------------------------------------------------------------------------


def truncated_shard(place: Place, *, size_in_manifest: bool) -> list[object]:
    folder = place.copy(place.records, "records")
    shards = list(manifests.load(folder).shards)
    # The first, which is looked into before anything else.
    path = folder / shards[0].file
    content = path.read_bytes()[:-5]
    if size_in_manifest:
        shards[0] = dataclasses.replace(shards[0], bytes=len(content))
        manifest = dataclasses.replace(manifests.load(folder), shards=tuple(shards))
        manifest.save(folder)
    path.write_bytes(content)
    return place.pretrain(records=folder)


def damaged_record(place: Place) -> list[object]:
    """A byte of the very first record is another."""
    folder = place.copy(place.records, "records")
    path = sorted(folder.glob("*.tfrecord"))[0]
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    return place.pretrain(records=folder)


def edited_manifest(place: Place) -> list[object]:
    folder = place.copy(place.records, "records")
    place.spoil(folder / MANIFEST, max_seq_length=16)
    return place.pretrain(records=folder)


def missing_shard(place: Place) -> list[object]:
    folder = place.copy(place.records, "records")
    sorted(folder.glob("*.tfrecord"))[2].unlink()
    return place.pretrain(records=folder)


def other_vocabulary(place: Place, *, in_manifest: bool) -> Path:
    folder = place.copy(place.records, "records")
    tokens = (folder / "vocab.txt").read_text().replace("##s\n", "##es\n").splitlines()
    changed = WordPieceTokenizer(tokens, lowercase=True)
    changed.save(folder)
    if in_manifest:
        kind = {"kind": "wordpiece", "fingerprint": changed.fingerprint}
        place.change_manifest(folder, tokenizer=kind)
    return folder


def workdir_is_a_file(place: Place) -> list[object]:
    place.put("output", "")
    return place.pretrain()


def workdir_below_a_file(place: Place) -> list[object]:
    return place.pretrain(f"--workdir={place.put('file', '')}/run")


def longer_records(place: Place) -> Path:
    """Records of twice the length with the same vocabulary."""
    folder = place.copy(place.records, "longer")
    for path in folder.glob("records-*"):
        path.unlink()
    sizes = {"T": 64, "P": 5, "1": 1}
    rows = {
        name: np.ones((1, sizes[size]), kind) for name, (size, kind) in records.FEATURES.items()
    }
    shard = write_records(folder / "a.tfrecord", example_bytes.encode(rows))
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"]
    manifest |= {"max_seq_length": 64, "shards": (shard,)}
    Manifest(**manifest).save(folder)
    return folder


PRETRAIN: dict[str, tuple[Callable[[Place], list[object]], str]] = {
    "missing config": (
        lambda p: p.pretrain("--config=nowhere.py:tiny"),
        "nowhere.py not found",
    ),
    "unknown key": (lambda p: p.pretrain("train.step=5"), "'train.step=5': no such setting"),
    "wrong type": (lambda p: p.pretrain("train.steps=many"), "train.steps is of type int"),
    "unknown size": (
        lambda p: p.pretrain("model.size=huge"),
        "unknown size 'huge'; choose one of",
    ),
    "unknown dtype": (lambda p: p.pretrain("model.dtype=int8"), "dtype 'int8' is unknown"),
    "no records": (lambda p: p.pretrain("data.records="), "data.records is not set"),
    "no manifest": (
        lambda p: p.pretrain(records=p.here),
        "manifest.json: not found; make the records with: python -m bertjax.prepare",
    ),
    "truncated shard": (
        lambda p: truncated_shard(p, size_in_manifest=False),
        "records-00000-of-00004.tfrecord: ",
    ),
    "truncated shard, noticed by its frames": (
        lambda p: truncated_shard(p, size_in_manifest=True),
        "records-00000-of-00004.tfrecord: truncated inside the record at byte",
    ),
    "missing shard": (missing_shard, "records-00002-of-00004.tfrecord: missing; copy it again"),
    "damaged record": (
        damaged_record,
        "records-00000-of-00004.tfrecord: a record whose checksum does not fit at byte 0; copy",
    ),
    "edited manifest": (edited_manifest, "manifest.json: was edited"),
    "records of another length than the manifest's": (
        lambda p: p.pretrain(
            records=p.change_manifest(p.copy(p.records, "records"), max_seq_length=16)
        ),
        "max_seq_length 16",
    ),
    "records longer than the model": (
        lambda p: p.pretrain("model.max_positions=16"),
        "records of length 32, the model has 16 positions",
    ),
    "held-out records longer than the model": (
        lambda p: p.pretrain(f"data.eval_records={longer_records(p)}"),
        "records of length 64, the model has 32 positions",
    ),
    "records of another vocabulary": (
        lambda p: p.pretrain(records=other_vocabulary(p, in_manifest=False)),
        "the vocabulary is not the one of",
    ),
    "held-out records of another vocabulary": (
        lambda p: p.pretrain(f"data.eval_records={other_vocabulary(p, in_manifest=True)}"),
        "made with another vocabulary than",
    ),
    "second phase on longer records that are none": (
        lambda p: p.pretrain(f"data.long_records={p.records}"),
        "data.long_records: of length 32, not longer than 32 of data.records",
    ),
    "second phase of no steps": (
        lambda p: p.pretrain(
            f"data.long_records={longer_records(p)}",
            "train.long_share=0.0",
            "model.max_positions=64",
        ),
        "train.long_share=0.0: give a share between 0 and 1",
    ),
    "second phase of a share that rounds to no step": (
        lambda p: p.pretrain(
            f"data.long_records={longer_records(p)}",
            "train.long_share=0.01",
            "train.steps=20",
            "model.max_positions=64",
        ),
        "train.long_share=0.01: of 20 steps that is 20 on records of length 32 and 0 of",
    ),
    "shapes of padded records": (
        lambda p: p.pretrain("data.shapes=(16,)"),
        "data.shapes groups records by length, and these are padded",
    ),
    "masks of masked records": (
        lambda p: p.pretrain("data.mask_unit=span"),
        "is masked already; prepare it with --masking=dynamic",
    ),
    "uneven batch": (
        lambda p: p.pretrain("train.batch_size=12"),
        "batch_size 12 is not a multiple",
    ),
    "a seed too large": (lambda p: p.pretrain("train.seed=3000000000"), "train.seed=3000000000"),
    "no batch": (lambda p: p.pretrain("train.batch_size=0"), "train.batch_size=0"),
    "shapes of no length": (lambda p: p.pretrain("data.shapes=(0,)"), "data.shapes=(0,): give"),
    "no steps": (lambda p: p.pretrain("train.steps=0"), "train.epochs=0: give at least one"),
    "never a log line": (lambda p: p.pretrain("log_every=0"), "log_every is 0"),
    "impossible mesh": (lambda p: p.pretrain("mesh.tensor=3"), "there are 8"),
    "empty mesh": (lambda p: p.pretrain("mesh.fsdp=0"), "fsdp=0"),
    "workdir is a file": (workdir_is_a_file, "a file of this name is in the way"),
    "workdir below a file": (workdir_below_a_file, "a part of the path is a file"),
}


def planned(config: object, *more: str) -> list[object]:
    return [f"--config={config}", "--topology=v5e-4", "--seq_length=32", *more]


PLAN: dict[str, tuple[Callable[[Place], list[object]], str]] = {
    "steps backwards": (
        lambda p: planned(p.config, "train.steps=-5"),
        "train.steps=-5 train.epochs",
    ),
    "no steps": (lambda p: planned(p.config, "train.steps=0"), "train.epochs=0: give at least one"),
    "no batch": (lambda p: planned(p.config, "--global_batch=0"), "train.batch_size=0: give"),
    "epochs of records that are not there": (
        lambda p: planned("configs/word2vec.py"),
        "train.epochs=5: only records tell how many steps that makes; give train.steps",
    ),
}


# --- Fine-tuning ----------------------------------------------------------------------------


def run_of_another_shape(place: Place) -> list[object]:
    run = place.copy(place.run, "run")
    place.spoil(run / "config.json", model__hidden_size=64)
    return place.finetune(f"--init={run}")


def run_with_a_larger_vocabulary(place: Place) -> list[object]:
    run = place.copy(place.run, "run")
    extra = "".join(f"word{i}\n" for i in range(50))
    with open(run / "vocab.txt", "a") as file:
        file.write(extra)
    return place.finetune(f"--init={run}")


def run_without_checkpoint(place: Place) -> list[object]:
    run = place.copy(place.run, "run")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    return place.finetune(f"--init={run}")


def without_dev(place: Place) -> list[object]:
    task = place.task(dev="")
    (task / "dev.tsv").unlink()
    return place.finetune(task=task)


def finetune_into_a_file(place: Place) -> list[object]:
    place.put("output", "")
    return place.finetune()


def other(place: Place, task: str, extension: str, dev: str, train: str = "") -> list[object]:
    """A task on files of another kind; what is wrong is in dev, if train is not given."""
    good = {
        "conll": "the O\nriver B-WATER\n",
        "csv": "sentence1,sentence2,label\na,b,1\nb,a,0\n",
        "json": squad(QUESTION),
        "jsonl": '{"context": "the", "choices": ["river", "garden"], "label": 0}\n',
    }[extension]
    files = [place.put(f"train.{extension}", train or good), place.put(f"dev.{extension}", dev)]
    splits = [f"--{split}={path}" for split, path in zip(("train", "dev"), files, strict=True)]
    arguments = [f"--task={task}", *splits, f"--init={place.run}", f"--workdir={place.output}"]
    return [*arguments, "--max_seq_length=16", "--batch_size=8"]


def squad(*questions: dict[str, object]) -> str:
    paragraphs = [{"context": "the old river", "qas": list(questions)}]
    return json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]})


QUESTION: dict[str, object] = {
    "id": "q1",
    "question": "the water",
    "answers": [{"text": "river", "answer_start": 8}],
}
HEAD = "sentence\tlabel\n"
VECTORS = "2 2\nriver 1 0\ngarden 0 1\n"
FINETUNE: dict[str, tuple[Callable[[Place], list[object]], str]] = {
    "missing init": (lambda p: p.finetune(f"--init={p.here}/none"), "none: no such folder"),
    "init is no model": (lambda p: p.finetune(f"--init={p.vocabulary}"), "config.json"),
    "checkpoint of another shape": (
        run_of_another_shape,
        "parameter encoder/embeddings/norm/bias has shape (32,), the model wants (64,)",
    ),
    "vocabulary beyond the model": (run_with_a_larger_vocabulary, "entries, the model only"),
    "run without a checkpoint": (run_without_checkpoint, "no checkpoint"),
    "missing dev file": (without_dev, "no dev file; give --dev=FILE"),
    "empty dev file": (lambda p: p.finetune(task=p.task(dev="")), "dev.tsv: no examples"),
    "only a header": (lambda p: p.finetune(task=p.task(dev=HEAD)), "dev.tsv: no examples"),
    "unknown label": (
        lambda p: p.finetune(task=p.task(dev=HEAD + "a river\twet\na river\tmud\n")),
        "dev.tsv:3: unknown label 'mud'; the labels are: dry, wet",
    ),
    "missing column": (
        lambda p: p.finetune(task=p.task(dev="words\tlabel\na river\twet\n")),
        "dev.tsv:1: no column 'sentence' or 'text'; the header has: words, label",
    ),
    "ragged row": (
        lambda p: p.finetune(task=p.task(dev=HEAD + "a river\twet\na river\n")),
        "dev.tsv:3: 1 columns, the header has 2",
    ),
    "a tab too many": (
        lambda p: p.finetune(task=p.task(dev=HEAD + "a\triver\twet\n")),
        "dev.tsv:2: 3 columns, the header has 2",
    ),
    "not UTF-8": (
        lambda p: p.finetune(task=p.task(dev=HEAD.encode() + b"a\twet\nr\xedo\twet\n")),
        "dev.tsv:3: not UTF-8",
    ),
    "one label": (
        lambda p: p.finetune(task=p.task(HEAD + "a\twet\n", train=HEAD + "a\twet\n")),
        "train.tsv: only one label, 'wet'",
    ),
    "longer than the model": (
        lambda p: p.finetune("--max_seq_length=64"),
        "--max_seq_length=64",
    ),
    "no room for a text": (lambda p: p.finetune("--max_seq_length=2"), "max_seq_length 2"),
    "no length": (lambda p: p.finetune("--max_seq_length=0"), "max_seq_length 0 is too short"),
    "dropout of all": (lambda p: p.finetune("--dropout=1"), "--dropout=1.0: give a share"),
    "uneven batch": (lambda p: p.finetune("--batch_size=12"), "batch_size 12 is not a multiple"),
    "a seed too large": (lambda p: p.finetune("--seed=3000000000"), "--seed=3000000000: give"),
    "no epochs": (lambda p: p.finetune("--epochs=0"), "epochs"),
    "columns of no task": (
        lambda p: p.finetune("--columns", "words=sentence"),
        "--columns words=sentence: write NAME=YOURS",
    ),
    "neither data nor network": (
        lambda p: ["--task=tag", f"--init={p.run}", f"--workdir={p.output}"],
        "give --train=FILE and --dev=FILE",
    ),
    "more layers than there are": (
        lambda p: p.finetune("--layers=sum_last4"),
        "takes 4 layer(s), the encoder has 1",
    ),
    "rates of a frozen encoder's layers": (
        lambda p: p.finetune("--encoder=frozen", "--layer_decay=0.9"),
        "--layer_decay=0.9: a frozen encoder learns nothing; leave it out",
    ),
    "rates of no layers": (
        lambda p: p.finetune("--layer_decay=0.9", f"--init={p.put('vectors.txt', VECTORS)}"),
        "vectors.txt has no layers; leave it out",
    ),
    "malformed JSON": (
        lambda p: other(p, "squad", "json", squad(QUESTION)[:-3]),
        "dev.json: not valid JSON (Expecting ',' delimiter: line 1 ",
    ),
    "an id twice": (
        lambda p: other(p, "squad", "json", squad(QUESTION, QUESTION)),
        "the id q1 is there before",
    ),
    "a question without an answer": (
        lambda p: other(p, "squad", "json", squad(QUESTION | {"answers": []})),
        "dev.json",
    ),
    "malformed CSV": (
        lambda p: other(p, "pair", "csv", 'sentence1,sentence2,label\na,"b,1\n'),
        "dev.csv:2: malformed CSV",
    ),
    "not a number": (
        lambda p: other(p, "regress", "csv", "sentence1,sentence2,label\na,b,high\n"),
        "dev.csv:2: column 'label' holds 'high'",
    ),
    "an unknown tag": (
        lambda p: other(p, "tag", "conll", "the O\nriver B-LAKE\n"),
        "unknown tag 'B-LAKE' of 'river'; the tags are: O, B-WATER, I-WATER",
    ),
    "a word without its tag": (
        lambda p: other(p, "tag", "conll", "the O\nriver\n"),
        "dev.conll:2: 1 columns, the first line has 2",
    ),
    "a choice that is not there": (
        lambda p: other(
            p, "choice", "jsonl", '{"context": "a", "choices": ["b", "c"], "label": 2}\n'
        ),
        "dev.jsonl:1: ",
    ),
    "workdir is a file": (finetune_into_a_file, "a file of this name is in the way"),
    "workdir below a file": (
        lambda p: p.finetune(f"--workdir={p.put('file', '')}/run", "--init=none"),
        "file/run: a part of the path is a file",
    ),
    "output below a file": (
        lambda p: [
            *("--mode=predict", "--workdir=none", "--input=none"),
            f"--output={p.put('file', '')}/predicted",
        ],
        "file/predicted: a part of the path is a file",
    ),
}


# --- What a run is used for -----------------------------------------------------------------


def export_over_something(place: Place) -> list[object]:
    place.put("output/something", "")
    return [f"--run={place.run}", f"--output={place.output}"]


EXPORT: dict[str, tuple[Callable[[Place], list[object]], str]] = {
    "no run": (lambda p: [f"--run={p.here}", f"--output={p.output}"], "not a run"),
    "another's model": (
        lambda p: [f"--run={p.put('other/config.json', '{}').parent}", f"--output={p.output}"],
        "other: not a run",
    ),
    "folder in use": (export_over_something, "output: exists already"),
    "unknown step": (
        lambda p: [f"--run={p.run}", f"--output={p.output}", "--step=11"],
        "no checkpoint of step 11 (there are: 10, 12)",
    ),
}
FILL: dict[str, tuple[Callable[[Place], list[object]], str]] = {
    "nothing to fill": (lambda p: [f"--run={p.run}", "the river"], "holds no [MASK]"),
    "too long": (lambda p: [f"--run={p.run}", "[MASK] " * 40], "the model takes 32"),
    "none of them": (lambda p: [f"--run={p.run}", "--top=0", "[MASK]"], "--top=0: give at least 1"),
}

CASES = [
    pytest.param(module, make, fragment, id=f"{module.__name__.split('.')[1]}: {name}")
    for module, cases in (
        (prepare, PREPARE),
        (pretrain, PRETRAIN),
        (plan, PLAN),
        (finetune, FINETUNE),
        (export, EXPORT),
        (fill, FILL),
    )
    for name, (make, fragment) in cases.items()
]


def files(folder: Path) -> dict[str, bytes]:
    """All files below, but for the builder's work: a restarted build goes on from there."""
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".building" not in path.parts
    }


def errors_of(stderr: str) -> list[str]:
    """The lines on stderr but for progress bars, which end in a rate."""
    lines = [line.rsplit("\r", 1)[-1] for line in stderr.split("\n")]
    return [line for line in lines if line and not line.endswith("/s]")]


@pytest.mark.parametrize(("module", "make", "fragment"), CASES)
def test_bad_input_is_one_line_and_status_2(
    module: ModuleType,
    make: Callable[[Place], list[object]],
    fragment: str,
    place: Place,
    command: Command,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = make(place)
    before = files(place.here)
    capfd.readouterr()
    assert command(module, *arguments) == 2
    (line,) = errors_of(capfd.readouterr().err)
    assert line.startswith("error: ")
    assert fragment in line
    assert files(place.here) == before


def test_ids_beyond_the_vocabulary_end_a_run_before_its_first_step(
    place: Place, command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = place.copy(place.records, "records")
    tokens = (folder / "vocab.txt").read_text().splitlines()[:40]
    smaller = WordPieceTokenizer(tokens, lowercase=True)
    smaller.save(folder)
    kind = {"kind": "wordpiece", "fingerprint": smaller.fingerprint}
    place.change_manifest(folder, vocab_size=40, tokenizer=kind)
    capfd.readouterr()
    assert command(pretrain, *place.pretrain(records=folder)) == 2
    (line,) = errors_of(capfd.readouterr().err)
    assert "input_ids holds the id" in line
    assert "40 entries" in line
    assert (place.output / "metrics.jsonl").read_text() == ""
    assert not list((place.output / "checkpoints").iterdir())


def test_a_full_disk_ends_the_builder_and_room_lets_it_go_on(
    place: Place, command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = place.prepare("--max_seq_length=32", "--max_predictions_per_seq=5")
    arguments += ["--dupe_factor=2", "--num_shards=4"]
    # No file may be larger than 8000 bytes, here and in the workers: every shard is.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        status = command(prepare, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    (line,) = errors_of(capfd.readouterr().err)
    assert "of-00004.tfrecord: the file would exceed the allowed size" in line
    assert files(place.output) == {}
    assert command(prepare, *arguments) == 0
    written = {Path(name).name: data for name, data in files(place.output).items()}
    assert written == {Path(name).name: data for name, data in files(place.records).items()}
