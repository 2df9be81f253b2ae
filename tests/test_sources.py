"""Given files, then a folder, then tensorflow-datasets; without any of them one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from bertjax import data_sets
from bertjax.errors import UserError
from bertjax.tasks.conll import CONLL
from bertjax.tasks.glue import GLUE
from bertjax.tasks.own import OWN
from bertjax.tasks.sources import drawn, load
from bertjax.tasks.squad import SQUAD
from bertjax.tasks.table import TASKS
from bertjax.tasks.tagging import Example


def put(path: Path, *rows: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


HEADER = ("sentence", "label")


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A GLUE folder with an SST-2 of one sentence a file, which is the file's name."""
    for split in ("test", "dev", "train"):
        put(tmp_path / "glue" / "SST-2" / f"{split}.tsv", HEADER, (split, "1"))
    return tmp_path / "glue"


def texts(examples: dict[str, list[Any]]) -> dict[str, list[str]]:
    return {split: [example.text_a for example in found] for split, found in examples.items()}


# --- Files and folders ----------------------------------------------------------------------


def test_a_folder_is_read_train_and_dev_first(folder: Path) -> None:
    found = texts(load(GLUE["sst2"], data_dir=folder))
    assert list(found.items()) == [("train", ["train"]), ("dev", ["dev"]), ("test", ["test"])]


def test_given_files_win_over_the_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = put(tmp_path / "mine.tsv", HEADER, ("mine", "0"))
    found = texts(load(GLUE["sst2"], {"dev": mine}, folder))
    assert found == {"train": ["train"], "dev": ["mine"], "test": ["test"]}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"sst2: train {folder}/SST-2/train.tsv, dev {mine}, test {folder}")
    assert all(flag in line for flag in ("--data_dir", "--train", "--dev", "--test"))


def test_given_files_are_enough(tmp_path: Path) -> None:
    files = {name: put(tmp_path / f"{name}.tsv", HEADER, (name, "x")) for name in ("dev", "train")}
    found = texts(load(OWN["classify"], files))
    assert list(found.items()) == [("train", ["train"]), ("dev", ["dev"])]


def test_predicting_needs_only_what_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = put(tmp_path / "new.tsv", ("sentence",), ("a",))
    assert texts(load(OWN["classify"], {"test": test}, need=())) == {"test": ["a"]}
    assert capsys.readouterr().out == f"classify: test {test}\n"


@pytest.mark.parametrize("name", ["tag", "span", "choice", "classify", "sst2"])
def test_what_is_given_is_not_looked_for(name: str, tmp_path: Path) -> None:
    for file in ("train.csv", "train.jsonl", "dev.jsonl", "train.tsv"):
        (tmp_path / file).touch()
    if name != "sst2":
        with pytest.raises(UserError, match=r"are there; tell which: --train="):
            TASKS[name].reader.find(tmp_path)
    assert "train" not in TASKS[name].reader.find(tmp_path, {"train": tmp_path / "train.csv"})


def test_one_of_two_files_can_be_told(tmp_path: Path) -> None:
    for file in ("train.tsv", "dev.tsv", "dev.csv"):
        put(tmp_path / file, HEADER, (file, "x"))
    found = texts(load(OWN["classify"], {"dev": tmp_path / "dev.tsv"}, tmp_path))
    assert found == {"train": ["train.tsv"], "dev": ["dev.tsv"]}


def test_a_split_that_is_not_there_is_told_with_the_mend(folder: Path) -> None:
    (folder / "SST-2" / "dev.tsv").unlink()
    with pytest.raises(UserError) as error:
        load(GLUE["sst2"], data_dir=folder)
    assert str(error.value) == (
        f"{folder}: no dev file; give --dev=FILE, or --data_dir=FOLDER "
        "(https://gluebenchmark.com/tasks: a folder SST-2 with train.tsv, dev.tsv, test.tsv)"
    )


def test_a_folder_without_anything_or_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of rte in it; what it must hold: https://glueb"):
        load(GLUE["rte"], data_dir=tmp_path)
    with pytest.raises(UserError, match=r"^--data_dir=.*gone: no such folder; what it must"):
        load(GLUE["rte"], data_dir=tmp_path / "gone")


def test_some_of_the_examples_are_the_same_ones_in_their_order() -> None:
    some = drawn(list(range(100)), 10)
    assert some == sorted(set(some)) and len(some) == 10 and some != list(range(10))
    assert drawn(list(range(100)), 10) == some
    assert drawn([1, 2], 10) == [1, 2]
    with pytest.raises(UserError, match="--train_examples=0: give at least 1"):
        drawn([1], 0)


def test_of_documents_neighbours_are_drawn_together() -> None:
    texts = [Example(["a"], ["O"], document, f"x:{n}") for n, document in enumerate("aaabbcccccdd")]
    some = drawn(texts, 4, in_documents=True)
    assert len(some) == 4 and some != texts[:4]
    for document in {example.document for example in some}:
        own = [example for example in some if example.document == document]
        assert own == [text for text in texts if text.document == document][: len(own)]


def test_own_tasks_ask_for_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--task=pair: no data; give --train=FILE and --dev=FILE"):
        load(OWN["pair"])


def test_an_id_that_occurs_twice_is_refused_with_both_places(folder: Path) -> None:
    test = folder / "SST-2" / "test.tsv"
    put(test, ("index", "sentence"), ("0", "a"), ("1", "b"), ("0", "c"))
    with pytest.raises(UserError) as error:
        load(GLUE["sst2"], data_dir=folder)
    assert str(error.value) == f"{test}:4: the id 0 is there before, in {test}:2"


def test_an_empty_split_is_refused(folder: Path) -> None:
    put(folder / "SST-2" / "dev.tsv", HEADER)
    with pytest.raises(UserError, match=r"dev\.tsv: no examples"):
        load(GLUE["sst2"], data_dir=folder)


# --- tensorflow-datasets --------------------------------------------------------------------


@pytest.mark.parametrize("task", [task for task in GLUE.values() if task.reader.tfds])
def test_every_glue_task_comes_from_tensorflow_datasets(task: Any) -> None:
    with tfds.testing.mock_data(num_examples=3):
        found = load(task)
    assert found.keys() == task.reader.tfds_splits.keys()
    for examples in found.values():
        assert len(examples) == 3
        assert all(isinstance(example.text_a, str) for example in examples)
        if task.labels:
            assert {example.gold for example in examples} <= set(task.labels)


def test_a_data_set_beside_is_left_out_aloud_where_it_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = data_sets.find

    def without_ax(name: str) -> Any:
        if name == "glue/ax":
            raise data_sets.Unavailable("no network")
        return find(name)

    monkeypatch.setattr(data_sets, "find", without_ax)
    with tfds.testing.mock_data(num_examples=1):
        found = load(GLUE["mnli"])
    assert found.keys() == GLUE["mnli"].reader.tfds_splits.keys() - {"ax"}
    assert "without ax: tensorflow-datasets has no glue/ax here (no network)" in (
        capsys.readouterr().out
    )


QUESTION = {
    "id": b"q1",
    "title": b"t",
    "context": "Gro\u00dfe T\u00fcrme".encode(),
    "question": b"who",
    "answers": {"text": [b"T\xc3\xbcrme"], "answer_start": [6]},
}
SENTENCE = {
    "tokens": ["\u00c9mile".encode(), b"left"],
    "pos": [0, 1],
    "chunks": [0, 1],
    "ner": [1, 0],
}


def mocked(
    task: Any, record: dict[str, Any], made: Callable[[Any], Any] = tf.data.Dataset.from_tensors
) -> dict[str, list[Any]]:
    """The task's examples where every split of tensorflow-datasets is this one record, or what
    else is made of it."""

    def as_dataset(self: Any, *_: object, **__: object) -> tf.data.Dataset:
        return made(record)

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        return load(task)


def test_questions_come_from_there_too() -> None:
    (example,) = mocked(SQUAD["squad"], QUESTION)["dev"]
    assert (example.context, example.question) == ("Gro\u00dfe T\u00fcrme", "who")
    assert example.gold == (("T\u00fcrme", 6),)


@pytest.mark.parametrize(("impossible", "gold"), [(False, (("T\u00fcrme", 6),)), (True, ())])
def test_questions_without_an_answer_come_from_there_too(
    impossible: bool, gold: tuple[tuple[str, int], ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Plausible answers are wrong ones."""
    given, none = QUESTION["answers"], {"text": [b""][:0], "answer_start": [0][:0]}
    record = QUESTION | {
        "is_impossible": impossible,
        "answers": none if impossible else given,
        "plausible_answers": given if impossible else none,
    }
    found = mocked(SQUAD["squad2"], record)
    assert found.keys() == {"train", "dev"}
    assert [example.gold for examples in found.values() for example in examples] == [gold] * 2
    assert "squad2: squad/v2.0 of tensorflow-datasets" in capsys.readouterr().out


def test_in_training_answers_that_contexts_lack_are_left_out_there_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = {
        name: np.array([value] * 2, object)
        for name, value in QUESTION.items()
        if isinstance(value, bytes)
    }
    answers = {"text": np.array([[b"T\xc3\xbcrme"], [b"Tore"]], object), "answer_start": [[6], [6]]}
    records |= {"id": np.array([b"q1", b"q2"], object), "answers": answers}
    found = mocked(SQUAD["squad"], records, tf.data.Dataset.from_tensor_slices)
    assert [example.id for example in found["train"]] == ["q1"]
    assert len(found["dev"]) == 2
    assert "squad/v1.1 train: left out 1 of 2 questions" in capsys.readouterr().out


def test_tags_come_from_there_by_name() -> None:
    (example,) = mocked(CONLL["conll"], SENTENCE)["train"]
    assert (example.words, example.gold) == (["\u00c9mile", "left"], ["B-PER", "O"])


COLA = tfds.features.FeaturesDict(
    {
        "sentence": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["unacceptable", "acceptable"]),
        "idx": np.int32,
    }
)


@pytest.fixture()
def cache(tmp_path: Path) -> Path:
    """A prepared CoLA; the rows of a file stand in another order than in the official file."""
    rows = {
        "train": [("é", 1, 1), ("b", 0, 0)],
        "validation": [("c", 1, 0)],
        "test": [("f", -1, 2), ("d", -1, 0), ("e", -1, 1)],
    }
    folder = tmp_path / "glue" / "cola" / "2.0.0"
    folder.mkdir(parents=True)
    for split, records in rows.items():
        name = folder / f"glue-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(name)) as writer:
            for values in records:
                encoded = COLA.encode_example(dict(zip(COLA, values, strict=True)))
                writer.write(COLA.serialize_example(encoded))
    infos = [
        tfds.core.SplitInfo(name=split, shard_lengths=[len(records)], num_bytes=0)
        for split, records in rows.items()
    ]
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder), features=COLA, split_infos=infos, filename_template=template
    )
    return tmp_path


def test_the_cache_is_read_in_the_order_of_the_official_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The site's answers go by place; and a label of -1 is none."""
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(cache))
    assert data_sets.is_cached("glue/cola")
    assert not data_sets.is_cached("glue/rte")
    found = load(GLUE["cola"])
    assert [(e.text_a, e.gold) for e in found["train"]] == [("b", "0"), ("é", "1")]
    assert [(e.text_a, e.gold) for e in found["test"]] == [("d", None), ("e", None), ("f", None)]
    assert found["dev"][0].where == "glue/cola validation:0"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"cola: glue/cola of tensorflow-datasets, {cache}/glue/cola/2.0.0 (oth")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-5]), "truncated record at "),
        (lambda file: file.write_bytes(b"x" + file.read_bytes()[1:]), "corrupted record at 0"),
        (lambda file: file.unlink(), ""),
    ],
)
def test_a_damaged_cache_is_told_with_its_folder(
    cache: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Any], told: str
) -> None:
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(cache))
    folder = cache / "glue" / "cola" / "2.0.0"
    change(folder / "glue-train.tfrecord-00000-of-00001")
    told = told or f"{folder}/glue-train.tfrecord-00000-of-00001; No such file or directory"
    with pytest.raises(UserError) as error:
        load(GLUE["cola"])
    line = str(error.value)
    assert line.startswith(f"{folder}: what tensorflow-datasets keeps there is damaged ({told}")
    assert line.endswith("); delete this folder and run the same command again")
    assert "\n" not in line


# --- Without network ------------------------------------------------------------------------


def test_without_network_one_line_tells_where_to_get_the_files(
    no_data_sets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as error:
        load(GLUE["sst2"])
    message = str(error.value)
    assert message.startswith("sst2: no data: --data_dir is not given")
    assert message.endswith(
        "get the official files (https://gluebenchmark.com/tasks: a folder SST-2 with train.tsv, "
        "dev.tsv, test.tsv) and give their folder: --data_dir=FOLDER"
    )
    assert f"no glue/sst2 in {no_data_sets}/glue/sst2" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
