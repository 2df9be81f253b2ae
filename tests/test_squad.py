"""SQuAD's files and your own: every question with its gold answers, or one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.tasks.own import with_columns
from bertjax.tasks.sources import load
from bertjax.tasks.squad import SQUAD
from bertjax.tasks.windows import Example

CONTEXT = "The old river\u2028crossed a quiet garden."
SQUAD1, SQUAD2, SPAN = (SQUAD[name].reader for name in ("squad", "squad2", "span"))

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """(name, content) -> a file; lists become one JSON value a line."""

    def to_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
        elif not isinstance(content, str):
            content = json.dumps(content)
        path.write_text(content, encoding="utf-8")
        return path

    return to_file


def answer(text: str, start: int | None = None) -> dict[str, Any]:
    return {"text": text, "answer_start": CONTEXT.index(text) if start is None else start}


def squad(*questions: dict[str, Any], context: str = CONTEXT) -> dict[str, Any]:
    """The content of a file with one paragraph; questions without an id are numbered."""
    qas = [
        {"id": f"q{i}", "question": "What?", "answers": [answer("river")], **q}
        for i, q in enumerate(questions)
    ]
    return {
        "version": "1.1",
        "data": [{"title": "", "paragraphs": [{"context": context, "qas": qas}]}],
    }


def line(**fields: Any) -> dict[str, Any]:
    """A line of an own file."""
    return {"question": "What?", "context": CONTEXT, **fields}


# --- What is read ---------------------------------------------------------------------------


def test_a_question_of_squad_1_with_all_its_answers(write: Write) -> None:
    answers = [answer("old river"), answer("river")]
    path = write("dev-v1.1.json", squad({"question": "Which river?", "answers": answers}))
    assert SQUAD1.read(path, "dev") == [
        Example(
            id="q0",
            question="Which river?",
            context=CONTEXT,
            gold=(("old river", 4), ("river", 8)),
            where=f"{path}: data[0].paragraphs[0].qas[0]",
        )
    ]


def test_impossible_questions_of_squad_2_have_no_answer(write: Write) -> None:
    """Plausible answers are wrong ones."""
    impossible = {"answers": [], "plausible_answers": [answer("garden")], "is_impossible": True}
    path = write("train-v2.0.json", squad(impossible, {"is_impossible": False}))
    assert [e.gold for e in SQUAD2.read(path, "train")] == [(), (("river", 8),)]


def test_without_answers_a_question_is_to_be_predicted(write: Write) -> None:
    path = write("test.json", squad({"answers": None}, {"is_impossible": False, "answers": []}))
    assert [e.gold for e in SQUAD2.read(path, "test")] == [None, None]
    # No question of SQUAD 1.1 is unanswerable.
    path = write("test.json", squad({"answers": []}))
    assert [e.gold for e in SQUAD1.read(path, "test")] == [None]


def test_own_lines_in_both_forms_of_answers(write: Write) -> None:
    lists = {"text": ["river", "garden"], "answer_start": [8, 30]}
    path = write(
        "test.jsonl",
        [
            line(id="a", answers=[answer("river")], other=1),
            line(answers=lists),
            line(id=7, answers=[]),
            line(),
        ],
    )
    assert [(e.id, e.gold, e.where) for e in SPAN.read(path, "test")] == [
        ("a", (("river", 8),), f"{path}:1"),
        ("2", (("river", 8), ("garden", 30)), f"{path}:2"),
        ("7", (), f"{path}:3"),
        ("4", None, f"{path}:4"),
    ]


@pytest.mark.parametrize(("name", "separator"), [("dev.csv", ","), ("dev.tsv", "\t")])
def test_tables_have_one_answer_a_row(write: Write, name: str, separator: str) -> None:
    """Without a place the first such text is meant; an empty answer says that there is none."""
    rows = ["question,context,answer,answer_start,is_impossible", "Q?,a b a,a,4,False"]
    rows += ["Q?,x b a,a,,False", "Q?,a b a,,,True"]
    path = write(name, "".join(row.replace(",", separator) + "\n" for row in rows))
    found = [(e.id, e.context, e.gold) for e in SPAN.read(path, "dev")]
    assert found == [("2", "a b a", (("a", 4),)), ("3", "x b a", (("a", 4),)), ("4", "a b a", ())]
    assert SPAN.find(path.parent) == {"dev": path}


@pytest.mark.parametrize("name", ["dev.csv", "dev.jsonl"])
def test_columns_may_have_other_names(write: Write, name: str) -> None:
    given = ["question=ask", "context=text", "answer=reply", "id=key"]
    reader = with_columns(SQUAD["span"], given).reader
    values = {"key": "k", "ask": "Q?", "text": "a b", "reply": "b", "answer": "not this"}
    table = ",".join(values) + "\n" + ",".join(values.values()) + "\n"
    path = write(name, [values] if name.endswith("jsonl") else table)
    where = f"{path}:{1 if name.endswith('jsonl') else 2}"
    assert reader.read(path, "dev") == [Example("k", "Q?", "a b", (("b", 2),), where)]
    write(name, "ask,reply\nQ?,b\n" if name == "dev.csv" else [{"ask": "Q?"}])
    with pytest.raises(UserError, match=r": no column 'text', which --columns context=text tells"):
        reader.read(path, "dev")


def test_own_files_may_have_the_shape_of_squad(write: Write) -> None:
    path = write("dev.json", squad({}, {"answers": []}))
    assert [e.gold for e in SPAN.read(path, "dev")] == [(("river", 8),), ()]


@pytest.mark.parametrize("impossible", [None, False, True])
def test_a_record_of_tensorflow_datasets(impossible: bool | None) -> None:
    """The features of squad/v1.1 and, with is_impossible, of squad/v2.0."""
    texts = np.array([] if impossible else ["river", "old river"], object)
    starts = np.array([] if impossible else [8, 4], np.int32)
    record: dict[str, Any] = {
        "id": "56be4db0",
        "title": "Rivers",
        "question": "What?",
        "context": CONTEXT,
        "answers": {"text": texts, "answer_start": starts},
    }
    if impossible is not None:
        record["is_impossible"] = np.bool_(impossible)
    reader = SQUAD1 if impossible is None else SQUAD2
    gold = () if impossible else (("river", 8), ("old river", 4))
    found = reader.from_tfds(record, {}, "squad train[0]")
    assert found == Example("56be4db0", "What?", CONTEXT, gold, "squad train[0]")
    assert all(type(start) is int for _, start in found.gold)
    assert reader.tfds == ("squad/v1.1" if impossible is None else "squad/v2.0")


def test_in_training_answers_that_contexts_lack_are_left_out_aloud(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    content = squad({}, {"answers": [answer("bridge", 4)]}, {"answers": [answer("river", 5)]})
    path = write("train.json", content)
    assert [e.id for e in SQUAD1.read(path, "train")] == ["q0", "q2"]
    assert capsys.readouterr().out == (
        f"{path}: left out 1 of 3 questions, their answers are not in the context; the first is "
        f"{path}: data[0].paragraphs[0].qas[1]\n"
    )
    # Elsewhere nothing is trained on, and every question counts in the score.
    assert len(SQUAD1.read(path, "dev")) == 3
    assert capsys.readouterr().out == ""


# --- What is found --------------------------------------------------------------------------


def test_official_names_come_first(write: Write, tmp_path: Path) -> None:
    for name in ("train-v1.1", "dev-v1.1", "train-v2.0", "dev-v2.0"):
        write(f"{name}.json", "")
    for reader, version in ((SQUAD1, "1.1"), (SQUAD2, "2.0")):
        assert reader.find(tmp_path) == {
            "train": tmp_path / f"train-v{version}.json",
            "dev": tmp_path / f"dev-v{version}.json",
        }


def test_another_version_is_not_taken_for_this_one(write: Write, tmp_path: Path) -> None:
    write("train-v1.1.json", "")
    write("dev-v1.1.json", "")
    assert SQUAD2.find(tmp_path) == {}
    write("dev-mine.json", "")
    assert SQUAD2.find(tmp_path) == {"dev": tmp_path / "dev-mine.json"}


def test_single_files_of_other_names(write: Write, tmp_path: Path) -> None:
    write("train-11877.json", "")
    write("dev.json", "")
    write("predictions.json", "")
    wanted = {"train": tmp_path / "train-11877.json", "dev": tmp_path / "dev.json"}
    assert SQUAD1.find(tmp_path) == SPAN.find(tmp_path) == wanted
    write("test.jsonl", "")
    assert "test" not in SQUAD1.find(tmp_path)
    assert SPAN.find(tmp_path)["test"] == tmp_path / "test.jsonl"


def test_of_several_files_one_must_be_chosen(write: Write, tmp_path: Path) -> None:
    write("train.json", "")
    write("train.jsonl", "")
    with pytest.raises(UserError, match=r"train\.json and train\.jsonl are there; tell which"):
        SPAN.find(tmp_path)


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert SQUAD1.find(tmp_path) == {}


# --- What is refused ------------------------------------------------------------------------


def test_malformed_json_is_named_with_its_line(write: Write) -> None:
    with pytest.raises(UserError, match=r"dev\.json: not valid JSON .*line 2 column"):
        SQUAD1.read(write("dev.json", '{"data":\n [}'), "dev")
    with pytest.raises(UserError, match=r"dev\.jsonl:2: not valid JSON"):
        SPAN.read(write("dev.jsonl", json.dumps(line(answers=[])) + '\n{"b"\n'), "dev")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r'dev\.json: no "data" \(a list\); is this a file of questions as SQuAD\'s\?'),
        ({"data": [[]]}, r'data\[0\]: no "paragraphs"'),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r'paragraphs\[0\]: no "context" \(a text\)'),
        ({"data": [{"paragraphs": [{"context": ""}]}]}, r'paragraphs\[0\]: no "qas"'),
        (squad({"id": 7}), r'qas\[0\]: no "id" \(a text\)'),
        (squad({"id": ""}), r"qas\[0\]: the id is empty"),
        (squad({}, {"question": None}), r'qas\[1\]: no "question" \(a text\)'),
        (squad({"answers": "river"}), r'qas\[0\]: "answers" must be a list of {"text": \.\.\.'),
        (squad({"answers": ["river"]}), r'"answers" must be a list'),
        (squad({"answers": {"text": ["a"], "answer_start": []}}), r'"answers" must be a list'),
        (squad({"answers": [{"text": "river"}]}), r'"answers" must be a list'),
        (squad({"answers": [answer("", 0)]}), r'an answer needs a "text" that is not empty'),
        (squad({"answers": [{"text": "a", "answer_start": "0"}]}), r"number of its first char"),
        (squad({"answers": None}), r"qas\[0\]: no answers; only test files may lack them"),
    ],
)
def test_a_file_of_another_shape_is_told_where_and_why(
    write: Write, content: Any, message: str
) -> None:
    for reader in (SQUAD1, SQUAD2, SPAN):
        with pytest.raises(UserError, match=message) as error:
            reader.read(write("dev.json", content), "dev")
        assert "\n" not in str(error.value)


def test_the_place_of_an_answer_is_a_number(write: Write) -> None:
    path = write("dev.csv", "question,context,answer,answer_start\nWhat?,The river.,river,x\n")
    with pytest.raises(UserError, match=r"dev\.csv:2: answer_start 'x' is not the number"):
        SPAN.read(path, "dev")


def test_columns_of_squads_own_json_have_no_names_to_change(write: Write) -> None:
    task, path = with_columns(SQUAD["span"], ["answer=reply"]), write("dev.json", squad({}))
    with pytest.raises(UserError, match=r"^--columns: for tables .*only .*dev\.json; leave it out"):
        load(task, {"dev": path}, need=["dev"])
    kept = with_columns(SQUAD["span"], ["answer=reply"], kept=True)
    assert len(load(kept, {"test": path}, need=())["test"]) == 1
    with pytest.raises(UserError, match=r"^--columns: for your own files .*span\), not squad2$"):
        with_columns(SQUAD["squad2"], ["answer=reply"])


def test_own_lines_of_another_shape(write: Write) -> None:
    for fields, message in (
        ({"question": "What?"}, r"train\.jsonl:2: no column 'context'"),
        (line(), r"train\.jsonl:2: no answers"),
    ):
        path = write("train.jsonl", [line(answers=[answer("river")]), fields])
        with pytest.raises(UserError, match=message):
            SPAN.read(path, "train")
    path = write("train.jsonl", [{"question": "What?"}])
    for reader, mend in ((SPAN, "context=YOURS"), (SQUAD1, "")):
        with pytest.raises(UserError, match=rf": question(; .* --columns {mend})?$") as error:
            reader.read(path, "train")
        assert ("--columns" in str(error.value)) == bool(mend)


# --- The tasks ------------------------------------------------------------------------------


def test_recipes_are_the_papers() -> None:
    """Sections 4.2 and 4.3."""
    recipe, second = SQUAD["squad"].recipe, SQUAD["squad2"].recipe
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size) == (3, 5e-5, 32)
    assert (second.epochs, second.learning_rate, second.batch_size) == (2, 5e-5, 48)
    assert recipe.max_seq_length == second.max_seq_length == 384
    assert [task.family.unanswerable for task in SQUAD.values()] == [False, True, True]
    assert all(name == task.name and task.primary == "f1" for name, task in SQUAD.items())
