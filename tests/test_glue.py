"""GLUE's official files with all their quirks, and its tasks as tensorflow-datasets has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

from bertjax.errors import UserError
from bertjax.tasks import glue
from bertjax.tasks.glue import GLUE
from bertjax.tasks.sentences import Example, Prediction
from bertjax.tasks.submission import TEST_SIZES


def put(folder: Path, **files: list[str]) -> Path:
    """Files by name, "__" for the dot; columns are set apart by "|"."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        content = "".join(line.replace("|", "\t") + "\n" for line in lines)
        (folder / name.replace("__", ".")).write_bytes(content.encode())
    return folder


def read(name: str, folder: Path) -> dict[str, list[Any]]:
    """{split: [(text_a, text_b, gold)]}; a text_b that there is not is left out."""
    reader = GLUE[name].reader
    return {
        split: [
            (e.text_a, e.gold) if e.text_b is None else (e.text_a, e.text_b, e.gold)
            for e in reader.read(path, split)
        ]
        for split, path in reader.find(folder).items()
    }


# --- Files ----------------------------------------------------------------------------------


def test_cola_has_a_header_only_in_test(tmp_path: Path) -> None:
    put(tmp_path, train__tsv=["gj04|1||One sentence.", "gj04|0|*|Two is."])
    put(tmp_path, dev__tsv=["l-93|0|*|Three."], test__tsv=["index|sentence", "0|Four."])
    assert read("cola", tmp_path) == {
        "train": [("One sentence.", "1"), ("Two is.", "0")],
        "dev": [("Three.", "0")],
        "test": [("Four.", None)],
    }


def test_sst2(tmp_path: Path) -> None:
    put(tmp_path, train__tsv=["sentence|label", 'the "old" river |1'])
    put(tmp_path, test__tsv=["index|sentence", "0|a garden"])
    assert read("sst2", tmp_path) == {
        "train": [('the "old" river ', "1")],
        "test": [("a garden", None)],
    }


MRPC = "Quality|#1 ID|#2 ID|#1 String|#2 String"


def test_mrpc_as_glue_has_it(tmp_path: Path) -> None:
    put(tmp_path, train__tsv=["\ufeff" + MRPC, '1|70|26|He said "a|b "'])
    put(tmp_path, dev__tsv=[MRPC, "0|71|27|c|d"])
    put(tmp_path, test__tsv=["index|#1 ID|#2 ID|#1 String|#2 String", "0|72|28|e|f"])
    assert read("mrpc", tmp_path) == {
        "train": [('He said "a', 'b "', "1")],
        "dev": [("c", "d", "0")],
        "test": [("e", "f", None)],
    }


def microsoft(folder: Path, pairs: int) -> Path:
    rows = [f"{i % 2}|{i}|{i + 100}|a{i}|b{i}\r" for i in range(pairs)]
    put(folder, msr_paraphrase_train__txt=[f"\ufeff{MRPC}\r", *rows])
    return put(folder, msr_paraphrase_test__txt=[f"\ufeff{MRPC}\r", "1|7|8|c|d\r"])


def test_mrpc_as_microsoft_has_it_with_glues_list_of_the_dev_pairs(tmp_path: Path) -> None:
    put(microsoft(tmp_path, 4), dev_ids__tsv=["1|101", "2|999", "3|103"])
    assert read("mrpc", tmp_path) == {
        "train": [("a0", "b0", "0"), ("a2", "b2", "0")],
        "dev": [("a1", "b1", "1"), ("a3", "b3", "1")],
        # Here the test has labels, and so it is scored.
        "test": [("c", "d", "1")],
    }


def test_mrpc_without_that_list_holds_out_every_tenth_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read("mrpc", microsoft(tmp_path, 25))
    assert found["dev"] == [("a9", "b9", "1"), ("a19", "b19", "1")]
    assert len(found["train"]) == 23
    train, dev = capsys.readouterr().out.splitlines()
    assert "msr_paraphrase_train.txt: 23 of 25 pairs are train; no dev_ids.tsv beside" in train
    assert dev.endswith(
        ": 2 of 25 pairs are dev; no dev_ids.tsv beside it, so every tenth pair is held out as dev"
    )


def test_of_microsofts_pairs_all_are_predicted(tmp_path: Path) -> None:
    """Those of train and of dev, in their order."""
    path = microsoft(tmp_path, 25) / "msr_paraphrase_train.txt"
    found = GLUE["mrpc"].reader.read(path, "test")
    assert [example.text_a for example in found] == [f"a{i}" for i in range(25)]


STSB = "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2"


def test_stsb_is_a_number(tmp_path: Path) -> None:
    put(tmp_path, dev__tsv=[STSB + "|score", "0|news|x|2012|1|none|none|a|b|3.800"])
    put(tmp_path, test__tsv=[STSB, "0|news|x|2012|1|none|none|c|d"])
    assert read("stsb", tmp_path) == {"dev": [("a", "b", 3.8)], "test": [("c", "d", None)]}


@pytest.mark.parametrize("score", ["high", "nan", "inf", "3,8"])
def test_a_score_that_is_no_number_is_named(tmp_path: Path, score: str) -> None:
    put(tmp_path, dev__tsv=[STSB + "|score", f"0|news|x|2012|1|none|none|a|b|{score}"])
    with pytest.raises(UserError, match=rf"dev\.tsv:2: column 'score' holds '{score}'"):
        read("stsb", tmp_path)


QQP = "id|qid1|qid2|question1|question2|is_duplicate"


def test_broken_rows_of_qqp_are_left_out_and_counted_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, train__tsv=[QQP, "1|2|3|a?|b?|1", "4|5|6|broken", "?|7|0", "8|9|9|c?|d?|0"])
    put(tmp_path, test__tsv=["id|question1|question2", "0|e?|f?"])
    assert read("qqp", tmp_path) == {
        "train": [("a?", "b?", "1"), ("c?", "d?", "0")],
        "test": [("e?", "f?", None)],
    }
    said = capsys.readouterr().out
    assert said == f"{tmp_path}/train.tsv: 2 broken rows left out, the first is {tmp_path}/" + (
        "train.tsv:3\n"
    )


def test_a_broken_row_of_a_test_is_an_error_for_every_answer_counts(tmp_path: Path) -> None:
    put(tmp_path, test__tsv=["id|question1|question2", "0|e?"])
    with pytest.raises(UserError, match=r"test\.tsv:2: 2 columns, the header has 3"):
        read("qqp", tmp_path)


MNLI = "index|promptID|pairID|genre|sentence1_parse|sentence2_parse|sentence1|sentence2"
FULL = "Lexical Semantics|Logic|Knowledge|Domain|Premise|Hypothesis|Label"


def mnli(folder: Path) -> Path:
    put(folder, train__tsv=[f"{MNLI}|label1|gold_label", "0|1|2|fiction|(|)|a|b|neutral|neutral"])
    for number, kind in enumerate(("matched", "mismatched")):
        row = f"0|1|2|fiction|(|)|p{number}|h{number}"
        name = f"dev_{kind}__tsv"
        votes = "entailment|neutral|contradiction"
        header = f"{MNLI}|label1|label2|gold_label"
        put(folder, **{name: [header, f"{row}|{votes}"], f"test_{kind}__tsv": [MNLI, row]})
    return folder


def test_mnli_has_two_devs_and_two_tests(tmp_path: Path) -> None:
    assert read("mnli", mnli(tmp_path)) == {
        "train": [("a", "b", "neutral")],
        "dev": [("p0", "h0", "contradiction")],
        "dev_mismatched": [("p1", "h1", "contradiction")],
        "test": [("p0", "h0", None)],
        "test_mismatched": [("p1", "h1", None)],
    }


@pytest.mark.parametrize("place", ["MNLI", "AX", "diagnostic"])
@pytest.mark.parametrize("data_dir", ["MNLI", "."])
@pytest.mark.parametrize("name", ["diagnostic__tsv", "AX__tsv"])
def test_the_diagnostic_examples_are_found_beside_mnli(
    tmp_path: Path, place: str, data_dir: str, name: str
) -> None:
    mnli(tmp_path / "MNLI")
    put(tmp_path / place, **{name: ["index|sentence1|sentence2", "0|The cat.|A cat."]})
    found = read("mnli", tmp_path / data_dir)
    assert found["ax"] == [("The cat.", "A cat.", None)]
    assert len(found) == 6


def test_the_labelled_diagnostic_examples_come_first(tmp_path: Path) -> None:
    mnli(tmp_path / "MNLI")
    put(tmp_path / "MNLI", diagnostic__tsv=["index|sentence1|sentence2", "0|The cat.|A cat."])
    full = {"diagnostic-full__tsv": [FULL, "Quantifiers||||The cat.|A cat.|entailment"]}
    put(tmp_path / "AX", **full)
    assert read("mnli", tmp_path / "MNLI")["ax"] == [("The cat.", "A cat.", "entailment")]


@pytest.mark.parametrize(
    ("name", "first", "second", "label"),
    [
        ("qnli", "question", "sentence", "not_entailment"),
        ("rte", "sentence1", "sentence2", "entailment"),
        ("wnli", "sentence1", "sentence2", "1"),
    ],
)
def test_qnli_rte_and_wnli(tmp_path: Path, name: str, first: str, second: str, label: str) -> None:
    put(tmp_path, train__tsv=[f"index|{first}|{second}|label", f"0|a|b|{label}"])
    put(tmp_path, test__tsv=[f"index|{first}|{second}", "0|c|d"])
    assert read(name, tmp_path) == {"train": [("a", "b", label)], "test": [("c", "d", None)]}
    assert label in (GLUE[name].labels or ())


# --- Folders --------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "SST-2", "sst2"])
def test_the_folder_is_the_tasks_or_holds_the_tasks(tmp_path: Path, below: str) -> None:
    put(tmp_path / below, dev__tsv=["sentence|label", "a|1"])
    put(tmp_path / "RTE", dev__tsv=["x"], train__tsv=["y"])
    assert GLUE["sst2"].reader.find(tmp_path) == {"dev": tmp_path / below / "dev.tsv"}


def test_where_the_diagnostic_file_is_looked_for_is_told(tmp_path: Path) -> None:
    put(tmp_path / "AX", diagnostic__tsv=["index|sentence1|sentence2", "0|a|b"])
    put(tmp_path / "MNLI", train__tsv=["x"])
    assert GLUE["mnli"].reader.find(tmp_path)["ax"].samefile(tmp_path / "AX" / "diagnostic.tsv")
    names = "diagnostic-full.tsv or diagnostic.tsv or AX.tsv"
    wanted = f"; for AX, {names} there or in AX beside it"
    assert [name for name, task in GLUE.items() if task.reader.source.endswith(wanted)] == ["mnli"]


def test_only_a_test_may_lack_labels(tmp_path: Path) -> None:
    put(tmp_path, dev__tsv=["index|sentence", "0|a"], test__tsv=["sentence|label", "a|1", "b|"])
    reader = GLUE["sst2"].reader
    with pytest.raises(UserError, match=r"dev\.tsv:1: no column 'label'; .*: index, sentence"):
        reader.read(tmp_path / "dev.tsv", "dev")
    with pytest.raises(UserError, match=r"test\.tsv:3: column 'label' is empty"):
        reader.read(tmp_path / "test.tsv", "dev")
    assert [e.gold for e in reader.read(tmp_path / "test.tsv", "test")] == ["1", None]


# --- The tasks ------------------------------------------------------------------------------


IN_TFDS = {name: task for name, task in GLUE.items() if task.reader.tfds}


@pytest.mark.parametrize("task", IN_TFDS.values(), ids=IN_TFDS)
def test_every_task_is_told_as_tensorflow_datasets_tells_it(task: Any) -> None:
    features = tfds.builder(task.reader.tfds).info.features
    assert any(set(names) <= set(features) for names in task.reader.columns.texts)
    if task.name == "stsb":
        return
    # Its classes and our labels are the same in the same order, or its names are but words.
    names, labels = features["label"].names, task.labels
    assert len(names) == len(labels)
    assert names == list(labels) or labels == ("0", "1")


def test_a_record_of_tensorflow_datasets_is_an_example() -> None:
    record = {"premise": "a", "hypothesis": "b", "label": 2, "idx": 5}
    reader = GLUE["mnli"].reader
    found = reader.from_tfds(record, {}, "here")
    assert found[:4] == ("a", "b", "contradiction", "here")
    assert reader.from_tfds({**record, "label": -1}, {}, "here").gold is None
    record = {"sentence1": "a", "sentence2": "b", "label": 2.5, "idx": 5}
    assert GLUE["stsb"].reader.from_tfds(record, {}, "here").gold == 2.5
    assert GLUE["stsb"].reader.from_tfds({**record, "label": -1.0}, {}, "here").gold is None


def test_together_the_tasks_give_all_files_that_the_site_wants() -> None:
    files = [file for task in GLUE.values() for file in task.submission.values()]
    assert sorted(files) == sorted(TEST_SIZES)


def test_the_paper_is_quoted_as_it_is() -> None:
    """Table 1, BERT-base, without WNLI, which the paper leaves out."""
    wanted = {
        "mnli": "84.6/83.4",
        "qqp": "71.2",
        "qnli": "90.5",
        "sst2": "93.5",
        "cola": "52.1",
        "stsb": "85.8",
        "mrpc": "88.9",
        "rte": "66.4",
    }
    nine = {name: GLUE[name] for name in (*wanted, "wnli")}
    paper = {name: task.paper.get("BERT-base") for name, task in nine.items()}
    assert paper == {name: f"{score} (test)" for name, score in wanted.items()} | {"wnli": None}
    metrics = {name: task.primary for name, task in nine.items()}
    accuracy = dict.fromkeys(("sst2", "mnli", "qnli", "rte", "wnli"), "accuracy")
    others = {"cola": "matthews", "mrpc": "f1", "qqp": "f1", "stsb": "spearman"}
    assert metrics == accuracy | others


def test_all_are_trained_as_in_the_paper() -> None:
    """Section 4.1; the rate is one of the four that it chose from."""
    recipes = [task.recipe for task in GLUE.values()]
    assert {(r.batch_size, r.epochs, r.learning_rate) for r in recipes} == {(32, 3, 3e-5)}


@pytest.mark.parametrize("task", GLUE.values(), ids=GLUE)
def test_the_score_that_chooses_is_among_those_that_are_given(task: Any) -> None:
    golds = task.labels or (0.5, 1.5)
    examples = [Example("a", "b", gold, "x:1") for gold in golds]
    found = [Prediction(label, None) for label in golds] if task.labels else list(golds)
    assert task.family.score(examples, found)[task.primary] == pytest.approx(1)


def test_the_entry_that_the_guide_shows_is_a_task(tmp_path: Path) -> None:
    guide = Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"```\n(_task\(.*?\),)\n```", guide, re.DOTALL)
    (task,) = eval(entry, vars(glue))
    assert (task.reader.tfds, task.submission) == (None, {})
    put(tmp_path / "BoolQ", train__tsv=["question|passage|label", "a|b|yes"])
    (path,) = task.reader.find(tmp_path).values()
    (example,) = task.reader.read(path, "train")
    assert example[:3] == ("a", "b", "yes")
    assert example.gold in task.labels
    assert task.reader.source == "a folder BoolQ with train.tsv, dev.tsv, test.tsv"
