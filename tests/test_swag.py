"""SWAG's official files, and your own lists of choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bertjax.errors import UserError
from bertjax.tasks.choice import Example
from bertjax.tasks.own import with_columns
from bertjax.tasks.swag import SWAG

OFFICIAL, OWN = SWAG["swag"].reader, SWAG["choice"].reader
HEADER = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"
)
ROW = (
    '0,anetv_1,3416,"A man, old. He","A man, old.",He,gold,"sits, ""quietly"".",stands.,runs.,'
    "walks.,2"
)


def write(path: Path, *lines: Any) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def own(**fields: Any) -> dict[str, Any]:
    return {"context": "It rained.", "choices": ["She ran.", "She sat.", "She sang."], **fields}


# --- SWAG -----------------------------------------------------------------------------------


def test_the_second_segment_begins_with_the_second_sentence(tmp_path: Path) -> None:
    """Paper, section 4.4; sent1 is first, sent2 with each of the endings second."""
    path = write(tmp_path / "val.csv", HEADER, ROW)
    (found,) = OFFICIAL.read(path, "dev")
    assert found == Example(
        context="A man, old.",
        choices=('He sits, "quietly".', "He stands.", "He runs.", "He walks."),
        gold=2,
        where=f"{path}:2",
    )


def test_the_test_file_has_no_labels(tmp_path: Path) -> None:
    row = ROW.removesuffix(",2")
    path = write(tmp_path / "test.csv", HEADER.removesuffix(",label"), row, row)
    assert [example.gold for example in OFFICIAL.read(path, "test")] == [None, None]
    with pytest.raises(UserError, match=r"test\.csv:2: no label; only test files may lack labels"):
        OFFICIAL.read(path, "dev")


def test_official_names(tmp_path: Path) -> None:
    for name in ("train.csv", "train_full.csv", "val.csv", "test.csv"):
        write(tmp_path / name)
    assert OFFICIAL.find(tmp_path) == {
        "train": tmp_path / "train.csv",
        "dev": tmp_path / "val.csv",
        "test": tmp_path / "test.csv",
    }


def test_a_missing_ending_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", HEADER.replace("ending3", "ending4"), ROW)
    with pytest.raises(UserError, match=r"train\.csv:1: no column 'ending3'; [^;]*$"):
        OFFICIAL.read(path, "train")


def test_the_recipe_is_the_papers() -> None:
    recipe = SWAG["swag"].recipe
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size) == (3, 2e-5, 16)
    assert all(name == task.name and task.primary == "accuracy" for name, task in SWAG.items())


# --- Your own -------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [1, "1", "She sat."])
def test_a_label_is_a_number_or_a_text(tmp_path: Path, label: Any) -> None:
    (found,) = OWN.read(write(tmp_path / "dev.jsonl", own(label=label)), "dev")
    assert found.gold == 1


def test_a_label_that_is_a_number_and_a_text_is_refused(tmp_path: Path) -> None:
    """In .csv and .tsv there are only texts; in .jsonl a number is none."""
    path = write(tmp_path / "dev.csv", "question,choice0,choice1,choice2,label", "1 + 1?,1,2,0,0")
    line = {"question": "1 + 1?", "choices": ["1", "2", "0"], "label": "0"}
    for name in (path, write(tmp_path / "dev.jsonl", line)):
        with pytest.raises(UserError, match=r"label '0' is the number of one.*\"label\": 0 or 2$"):
            OWN.read(name, "dev")
    line["label"] = 0
    assert OWN.read(write(tmp_path / "dev.jsonl", line), "dev")[0].gold == 0
    # Where both mean the same choice, and where there is no choice of that number.
    for label, gold in (("1", 1), ("3", 0)):
        line |= {"choices": ["3", "1"], "label": label}
        assert OWN.read(write(tmp_path / "dev.jsonl", line), "dev")[0].gold == gold


@pytest.mark.parametrize("name", ["context", "sentence", "question"])
def test_the_context_has_one_of_three_names(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "test.jsonl", {name: "Why?", "choices": ["a", "b"]})
    assert OWN.read(path, "test") == [Example("Why?", ("a", "b"), None, f"{path}:1")]


def test_a_question_beside_a_context_goes_into_every_choice(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", own(question="What then?", label="She sat."))
    (found,) = OWN.read(path, "test")
    assert found.context == "It rained."
    assert found.choices == ("What then? She ran.", "What then? She sat.", "What then? She sang.")
    assert found.gold == 1


@pytest.mark.parametrize("separator", [",", "\t"])
def test_tables_have_a_column_for_every_choice(tmp_path: Path, separator: str) -> None:
    rows = ["id,context,choice0,choice1,choice2,label", "1,Why?,a,b,c,2", "2,Who?,d,e,,e"]
    path = tmp_path / {",": "dev.csv", "\t": "dev.tsv"}[separator]
    write(path, *(row.replace(",", separator) for row in rows))
    found = [(e.context, e.choices, e.gold) for e in OWN.read(path, "dev")]
    assert found == [("Why?", ("a", "b", "c"), 2), ("Who?", ("d", "e"), 1)]
    assert OWN.find(tmp_path) == {"dev": path}


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    given = ["context=stem", "choice0=A", "choice1=B", "label=right"]
    reader = with_columns(SWAG["choice"], given).reader
    path = write(tmp_path / "dev.csv", "stem,A,B,right,context", "Why?,a,b,1,not this")
    assert reader.read(path, "dev") == [Example("Why?", ("a", "b"), 1, f"{path}:2")]
    write(path, "stem,A,B", "Why?,a,b")
    assert reader.read(path, "test")[0].gold is None
    write(path, "A,B", "a,b")
    with pytest.raises(UserError, match=r"dev\.csv: no column 'stem', which --columns context="):
        reader.read(path, "dev")
    with pytest.raises(UserError, match=r"^--columns: for your own files .*choice.*, not swag$"):
        with_columns(SWAG["swag"], given)


def test_a_table_without_choices_is_told_how_to_hold_them(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.csv", "context,choice0,label", "Why?,a,0")
    with pytest.raises(UserError, match=r"dev\.csv:2: .* columns choice0, choice1, \.\.\."):
        OWN.read(path, "dev")
    write(path, "context,label", "Why?,0")
    with pytest.raises(UserError, match=r"dev\.csv:1: no column 'choices' or 'choice0'"):
        OWN.read(path, "dev")


def test_lines_may_have_different_numbers_of_choices(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.jsonl", own(label=2), own(label=0, choices=["a", "b"]))
    assert [len(example.choices) for example in OWN.read(path, "dev")] == [3, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"choices": ["a", "b"]}, "no column 'context' or 'sentence' or 'question'"),
        ({"context": "a"}, "no column 'choices'"),
        (own(choices=["a"], label=0), "'context' must be a text and 'choices' a list of two or"),
        (own(choices="ab", label=0), "'choices' a list of two or more texts"),
        (own(choices=["a", 2], label=0), "'choices' a list of two or more texts"),
        (own(context=None, label=0), "'context' must be a text"),
        (own(label=3), "label '3' is neither the text of a choice nor a number from 0 to 2"),
        (own(label=-1), "label '-1' is neither"),
        (own(label=True), "label 'True' is neither"),
        (own(label="She slept."), "label 'She slept.' is neither"),
        (own(label=None), "no label; only test files may lack labels"),
        (own(), "no label"),
    ],
)
def test_a_line_of_another_shape_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "train.jsonl", own(label=0), line)
    with pytest.raises(UserError, match=r"train\.jsonl:2: .*" + message):
        OWN.read(path, "train")
