"""Your own files: three formats, columns by other names, labels by name, and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.tasks import choice, sentences, tagging
from bertjax.tasks.base import Context, Options, Task
from bertjax.tasks.conll import CONLL
from bertjax.tasks.glue import GLUE
from bertjax.tasks.own import OWN, with_columns
from bertjax.tasks.sources import load
from bertjax.tasks.squad import SQUAD
from bertjax.tasks.swag import SWAG
from bertjax.text.tokenizer import WordPieceTokenizer

HALF = np.array([0.5, 0.5])


def put(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format that the name asks for; no value holds a separator."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".jsonl":
        lines = [json.dumps(row) for row in rows]
    else:
        separator = {".tsv": "\t", ".csv": ","}[path.suffix]
        lines = [separator.join(map(str, values)) for values in (rows[0], *map(dict.values, rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(name: str, path: Path, split: str = "dev", columns: list[str] | None = None) -> list[Any]:
    task = with_columns(OWN[name], columns or [])
    return [
        (e.text_a, e.gold) if e.text_b is None else (e.text_a, e.text_b, e.gold)
        for e in task.reader.read(path, split)
    ]


# --- Columns --------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".tsv", ".csv", ".jsonl"])
def test_each_task_reads_its_columns_from_every_format(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"dev{extension}"
    put(path, [{"sentence": "a", "label": "x"}, {"sentence": "", "label": "y z"}])
    assert read("classify", path) == [("a", "x"), ("", "y z")]
    put(path, [{"id": "7", "label": "x", "text": "a"}])
    assert read("classify", path) == [("a", "x")]
    put(path, [{"sentence1": "a", "sentence2": "", "label": "x"}])
    assert read("pair", path) == [("a", "", "x")]
    put(path, [{"text": "a", "score": "-1.5e1"}])
    assert read("regress", path) == [("a", -15.0)]
    put(path, [{"sentence1": "a", "sentence2": "b", "label": "3"}])
    assert read("regress", path) == [("a", "b", 3.0)]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [{"review": "a", "stars": "5", "text": "not this", "label": "nor this"}]
    path = put(tmp_path / "dev.csv", rows)
    assert read("classify", path, columns=["sentence=review", "label=stars"]) == [("a", "5")]
    assert read("classify", path, columns=["text=review"]) == [("a", "nor this")]
    assert read("regress", path, columns=["sentence=review", "score=stars"]) == [("a", 5.0)]
    assert read("regress", path, columns=["text=review", "label=stars"]) == [("a", 5.0)]
    pair = ["sentence2=text", "sentence1=review", "label=stars"]
    assert read("pair", path, columns=pair) == [("a", "not this", "5")]


@pytest.mark.parametrize(
    "given",
    ["sentence", "sentence=", "=review", "body=review", "sentence=a sentence=b"],
)
def test_a_wrong_mapping_tells_the_names(given: str) -> None:
    with pytest.raises(
        UserError, match=r"^--columns .*: write NAME=YOURS.*sentence, text, label, id$"
    ):
        with_columns(OWN["classify"], given.split(" "))


def test_the_official_tasks_have_their_own_names() -> None:
    with pytest.raises(UserError, match=r"^--columns: for your own files .*classify.*, not sst2$"):
        with_columns(GLUE["sst2"], ["sentence=review"])


def test_a_missing_column_is_told_with_the_mend(tmp_path: Path) -> None:
    path = put(tmp_path / "dev.csv", [{"review": "a", "stars": "5"}])
    with pytest.raises(UserError) as error:
        read("classify", path)
    assert str(error.value) == (
        f"{path}:1: no column 'sentence' or 'text'; the header has: review, stars; tell which is "
        "which: --columns sentence=YOURS label=YOURS"
    )
    with pytest.raises(UserError, match=r"dev\.csv:1: no column 'label'; the header"):
        read("classify", path, columns=["sentence=review"])


def test_every_column_that_is_told_of_must_be_there(tmp_path: Path) -> None:
    rows = [{"review": "a", "stars": "5", "text": "b"}, {"review": "a", "grade": "5", "text": "b"}]
    path = put(tmp_path / "dev.csv", rows[:1])
    with pytest.raises(UserError) as error:
        read("classify", path, columns=["sentence=body", "label=stars"])
    assert str(error.value) == (
        f"{path}: no column 'body', which --columns sentence=body tells of; there are: "
        "review, stars, text"
    )
    # Of files to be predicted, all but labels; of JSON, a line may lack what another has.
    given = ["sentence=review", "label=grade", "id=key"]
    for split, missing in (("train", "grade"), ("dev", "grade"), ("test", "key")):
        with pytest.raises(UserError, match=rf"dev\.csv: no column '{missing}', which --columns"):
            read("classify", path, split, columns=given)
    path = put(tmp_path / "test.jsonl", [row | {"key": "k"} for row in rows])
    assert read("classify", path, "test", columns=given) == [("a", None), ("a", "5")]


@pytest.mark.parametrize("given", ["tags=tgas", "label=lable", "question=qq", "answer_start=at"])
def test_no_task_reads_past_a_name_that_is_misspelt(given: str, tmp_path: Path) -> None:
    name = {"tags": "tag", "answer_start": "span"}.get(given.partition("=")[0], "choice")
    task, row = OF_TASK[name]
    path = put(tmp_path / "dev.csv", [row])
    with pytest.raises(UserError, match=rf"dev\.csv: no column '.*', which --columns {given} tel"):
        with_columns(task, [given]).reader.read(path, "dev")


# --- Ids ---------------------------------------------------------------------------------------


OF_TASK: dict[str, tuple[Task, dict[str, Any]]] = {
    "classify": (OWN["classify"], {"text": "a", "label": "x"}),
    "pair": (OWN["pair"], {"sentence1": "a", "sentence2": "b", "label": "x"}),
    "regress": (OWN["regress"], {"text": "a", "score": "1.5"}),
    "choice": (SWAG["choice"], {"context": "a", "choice0": "b", "choice1": "c", "label": "1"}),
    "tag": (CONLL["tag"], {"tokens": "a b", "tags": "O O"}),
    "span": (SQUAD["span"], {"question": "a", "context": "b", "answer": "b"}),
}


@pytest.mark.parametrize("name", OF_TASK)
def test_rows_may_have_names_and_none_twice(name: str, tmp_path: Path) -> None:
    task, row = OF_TASK[name]
    path = put(tmp_path / "dev.csv", [row | {"key": "one"}, row | {"key": "two"}])
    named = with_columns(task, ["id=key"])
    examples = named.reader.read(path, "dev")
    assert [example.id for example in examples] == ["one", "two"]
    path = put(tmp_path / "dev.csv", [row | {"id": "one"}, row | {"id": "one"}])
    with pytest.raises(UserError, match=r"dev\.csv:3: the id one is there before, in .*dev\.csv:2"):
        load(task, {"dev": path}, need=["dev"])
    with pytest.raises(UserError, match=r"dev\.csv: no column 'key', which --columns id=key"):
        named.reader.read(path, "dev")


def test_predictions_are_told_by_the_names_of_rows(tiny_tokenizer: WordPieceTokenizer) -> None:
    labels = ("x", "y")
    context = Context(tiny_tokenizer, labels, Options())
    found: dict[str, tuple[Sequence[Any], Any]] = {
        "classify": (
            [sentences.Example("a", None, "x", "", "one")],
            sentences.Prediction("x", HALF),
        ),
        "regress": ([sentences.Example("a", None, 1.0, "", "one")], 1.0),
        "choice": ([choice.Example("a", ("b", "c"), 0, "", "one")], choice.Prediction(0, HALF)),
    }
    for name, (examples, prediction) in found.items():
        family = OF_TASK[name][0].family
        content = family.files("dev", examples, [prediction], context)["predictions-dev.tsv"]
        header, row = (line.split("\t") for line in content.splitlines())
        assert row[header.index("id")] == "one"
    tagged = [tagging.Example(["a"], None, 1, "", "one")]
    predictions = [tagging.Prediction(["O"], [0.5])]
    content = CONLL["tag"].family.files("dev", tagged, predictions, context)
    assert json.loads(content["predictions-dev.jsonl"])["id"] == "one"


# --- Labels ---------------------------------------------------------------------------------


def test_labels_of_json_are_the_texts_of_a_table(tmp_path: Path) -> None:
    values = [1, "1", 1.0, True, "true", False, 0, 1.5, "1.0"]
    path = put(tmp_path / "dev.jsonl", [{"text": "a", "label": value} for value in values])
    wanted = ["1", "1", "1", "true", "true", "false", "0", "1.5", "1.0"]
    assert [gold for _, gold in read("classify", path)] == wanted


@pytest.mark.parametrize("label", [None, ""])
def test_only_a_test_may_lack_labels(tmp_path: Path, label: str | None) -> None:
    path = put(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": label}])
    assert [gold for _, gold in read("classify", path, "test")] == ["x", None]
    for split in ("train", "dev"):
        with pytest.raises(UserError, match=r"a\.jsonl:2: column 'label' is empty"):
            read("classify", path, split)
    put(path, [{"text": "a"}])
    assert read("classify", path, "test") == [("a", None)]
    with pytest.raises(UserError, match=r"a\.jsonl:1: no column 'label'; the line has: text"):
        read("classify", path, "train")


@pytest.mark.parametrize("label", [["x"], {"x": 1}])
def test_a_label_is_a_text_or_a_number(tmp_path: Path, label: object) -> None:
    path = put(tmp_path / "dev.jsonl", [{"text": "a", "label": label}])
    with pytest.raises(UserError, match=r"dev\.jsonl:1: column 'label' holds .*; a label is"):
        read("classify", path)


@pytest.mark.parametrize("label", ["high", "nan", "Infinity", True, [1], 10**400])
def test_a_number_must_be_one(tmp_path: Path, label: object) -> None:
    path = put(tmp_path / "dev.jsonl", [{"text": "a", "label": 1}, {"text": "a", "label": label}])
    with pytest.raises(UserError, match=r"dev\.jsonl:2: column 'label' holds .*must be a number"):
        read("regress", path)


@pytest.mark.parametrize("text", [None, 5, ["a"]])
def test_a_text_must_be_one(tmp_path: Path, text: object) -> None:
    path = put(tmp_path / "dev.jsonl", [{"text": text, "label": 1}])
    with pytest.raises(UserError, match=r"dev\.jsonl:1: column 'text' holds .*must be a text"):
        read("classify", path)


# --- Folders --------------------------------------------------------------------------------


def test_a_folder_may_mix_formats(tmp_path: Path) -> None:
    for name in ("dev.jsonl", "train.csv", "test.tsv", "more.tsv"):
        (tmp_path / name).touch()
    assert OWN["pair"].reader.find(tmp_path) == {
        "train": tmp_path / "train.csv",
        "dev": tmp_path / "dev.jsonl",
        "test": tmp_path / "test.tsv",
    }


def test_two_files_for_a_split_are_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "train.tsv"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"train\.tsv and train\.csv are there; tell which"):
        OWN["pair"].reader.find(tmp_path)
    assert OWN["pair"].reader.find(tmp_path, ["train"]) == {}
