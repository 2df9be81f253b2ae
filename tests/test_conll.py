"""Tagged sentences: every spelling of the columns reads alike, every fault has its line."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.scores.entity_scores import entity_scores
from bertjax.tasks.conll import CONLL, to_bio2
from bertjax.tasks.own import with_columns
from bertjax.tasks.sources import load
from bertjax.tasks.tagging import Example

OFFICIAL, OWN = CONLL["conll"].reader, CONLL["tag"].reader
# As in eng.train: IOB1, where "B-" only parts neighbours of one type.
CONLL_2003 = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
Danish JJ I-NP B-MISC

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- -X- O

BRUSSELS NNP I-NP I-LOC
1996-08-22 CD I-NP O

"""


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(tmp_path: Path, content: str | bytes, name: str = "dev.conll") -> list[Example]:
    return OWN.read(put(tmp_path / name, content), "dev")


# --- Columns --------------------------------------------------------------------------------


def test_the_official_files(tmp_path: Path) -> None:
    path = put(tmp_path / "eng.train", CONLL_2003)
    examples = OFFICIAL.read(path, "train")
    assert examples == [
        Example(
            ["EU", "rejects", "German", "Danish"],
            ["B-ORG", "O", "B-MISC", "B-MISC"],
            1,
            f"{path}:3",
        ),
        Example(["Peter", "Blackburn"], ["B-PER", "I-PER"], 1, f"{path}:8"),
        Example(["BRUSSELS", "1996-08-22"], ["B-LOC", "O"], 2, f"{path}:13"),
    ]
    assert {tag for e in examples for tag in e.gold or ()} <= set(CONLL["conll"].labels or ())


def test_tags_of_your_own_files_stay_as_they_are(tmp_path: Path) -> None:
    first, *_ = read(tmp_path, CONLL_2003)
    assert first.gold == ["I-ORG", "O", "I-MISC", "B-MISC"]


def test_bio2_changes_no_entity() -> None:
    rng = random.Random(0)
    tags = ["O", *(f"{prefix}-{type_}" for prefix in "BI" for type_ in "XY")]
    for _ in range(300):
        gold = rng.choices(tags, k=12) + ["I-X"]
        scores = entity_scores([gold], [to_bio2(gold)])
        assert scores["precision"] == scores["recall"] == 1
        assert to_bio2(to_bio2(gold)) == to_bio2(gold)
        pairs = pairwise(["O", *to_bio2(gold)])
        assert all(one[2:] == two[2:] for one, two in pairs if two.startswith("I-"))


@pytest.mark.parametrize(
    "content",
    [
        "New\tB-LOC\nYork\tI-LOC\n\n#\tO\n",
        "New\tB-LOC\r\nYork\tI-LOC\r\n\r\n#\tO\r\n",
        "\ufeffNew B-LOC\nYork  I-LOC \n\n\n# O",
        "\n\t\nNew\tx\tB-LOC\nYork\tx\tI-LOC\n\t\n \n#\tx\tO\n\n",
    ],
)
def test_tabs_spaces_and_blank_lines_of_all_kinds(content: str, tmp_path: Path) -> None:
    """Blank lines of WNUT-17 hold a tab; its "#" is a word."""
    found = [(example.words, example.gold) for example in read(tmp_path, content)]
    assert found == [(["New", "York"], ["B-LOC", "I-LOC"]), (["#"], ["O"])]


def test_words_may_be_of_any_characters(tmp_path: Path) -> None:
    """Not only a space or tab is white space to Unicode, nor does only \\n break lines."""
    words = ["New York", "\u00a0", "\u2028", "\x85", "\ufe0f", ""]
    (example,) = read(tmp_path, "".join(f"{word}\tO\n" for word in words))
    assert example.words == words


def test_a_single_column_is_words_to_be_tagged(tmp_path: Path) -> None:
    path = put(tmp_path / "new.txt", "New\nYork\n\u00a0\n\nParis\n")
    found = [(example.words, example.gold) for example in OWN.read(path, "test")]
    assert found == [(["New", "York", "\u00a0"], None), (["Paris"], None)]


def test_without_document_lines_a_file_tells_of_no_documents(tmp_path: Path) -> None:
    silent = read(tmp_path, "a O\n\nb O\n\nc O\n")
    assert [example.document for example in silent] == [None] * 3
    # A line that begins a document also ends a sentence.
    together = read(tmp_path, "a O\n-DOCSTART- O\nb O\n\nc O\n")
    assert [example.document for example in together] == [0, 1, 1]


# --- Tables ---------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    rows = [{"tokens": ["New York", ""], "tags": ["B-LOC", "O"]}, {"tokens": ["é"], "tags": ["O"]}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    found = read(tmp_path, content, "dev.jsonl")
    assert [(e.words, e.gold) for e in found] == [(r["tokens"], r["tags"]) for r in rows]
    assert [e.where for e in found] == [f"{tmp_path}/dev.jsonl:{n}" for n in (1, 2)]
    assert [example.document for example in found] == [None] * 2
    path = put(tmp_path / "test.jsonl", '{"tokens": ["a"]}\n')
    assert OWN.read(path, "test")[0].gold is None


@pytest.mark.parametrize(("name", "separator"), [("dev.csv", ","), ("dev.tsv", "\t")])
def test_tables_hold_a_sentence_in_a_cell(tmp_path: Path, name: str, separator: str) -> None:
    content = "id,tokens,tags\n1,New\u00a0York  is,B-LOC O\n2,a,O\n".replace(",", separator)
    found = read(tmp_path, content, name)
    assert [(e.words, e.gold) for e in found] == [
        (["New\u00a0York", "is"], ["B-LOC", "O"]),
        (["a"], ["O"]),
    ]
    assert OWN.find(tmp_path) == {"dev": tmp_path / name}
    path = put(tmp_path / f"test{name[3:]}", "tokens\na b\n")
    assert [(e.words, e.gold) for e in OWN.read(path, "test")] == [(["a", "b"], None)]


def test_a_word_and_its_tag_a_line_may_stand_in_a_tsv(tmp_path: Path) -> None:
    assert read(tmp_path, "tokens\tO\nare\tO\n", "dev.tsv")[0].words == ["tokens", "are"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dev.jsonl", '{"words": ["a", "b"], "ner": ["O", "O"], "tokens": 1, "tags": 2}\n'),
        ("dev.csv", "words,ner,tokens\na b,O O,not this\n"),
        ("dev.tsv", "words\tner\na b\tO O\n"),
    ],
)
def test_columns_may_have_other_names(tmp_path: Path, name: str, content: str) -> None:
    reader = with_columns(CONLL["tag"], ["tokens=words", "tags=ner"]).reader
    path = put(tmp_path / name, content)
    assert [(e.words, e.gold) for e in reader.read(path, "dev")] == [(["a", "b"], ["O", "O"])]
    put(path, content.replace("words", "pieces"))
    with pytest.raises(UserError, match=rf"{name}: no column 'words', which --columns tokens=w"):
        reader.read(path, "dev")


def test_columns_without_names_cannot_be_renamed(tmp_path: Path) -> None:
    task = with_columns(CONLL["tag"], ["tokens=words"])
    path = put(tmp_path / "dev.conll", "a O\n")
    with pytest.raises(
        UserError, match=r"^--columns: for tables .*here is only .*dev\.conll; leave it"
    ):
        load(task, {"dev": path}, need=["dev"])
    with pytest.raises(UserError, match=r"^--columns: for your own files .*tag.*, not conll$"):
        with_columns(CONLL["conll"], ["tokens=words"])


def test_columns_of_tables_do_not_hinder_other_files(tmp_path: Path) -> None:
    """Neither beside a table nor, where a training had them, alone."""
    train = put(tmp_path / "train.csv", "words,tags\na b,O O\n")
    other = put(tmp_path / "dev.conll", "a O\n")
    found = load(with_columns(CONLL["tag"], ["tokens=words"]), {"train": train, "dev": other})
    assert [example.words for example in found["dev"]] == [["a"]]
    # --extra_train is read alone.
    alone = load(with_columns(CONLL["tag"], ["tokens=words"]), {"train": other}, need=())
    assert alone["train"] == found["dev"]
    kept = with_columns(CONLL["tag"], ["tokens=words"], kept=True)
    lines = put(tmp_path / "new.tsv", "a\tO\nb\tO\n")
    table = put(tmp_path / "more.tsv", "words\tsource\na b\tx\n")
    for path, words in ((other, ["a"]), (lines, ["a", "b"]), (table, ["a", "b"])):
        (example,) = load(kept, {"test": path}, need=())["test"]
        assert example.words == words
    usual = put(tmp_path / "usual.tsv", "tokens\na b\n")
    with pytest.raises(UserError, match="'words', which the run was trained with; give --columns"):
        load(kept, {"test": usual}, need=())


# --- Faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dev.tsv", "a\tO\nb\tx\tO\n", r"dev.tsv:2: 3 columns, the first line has 2"),
        ("dev.txt", "a O\n\nb\n", r"dev.txt:3: 1 columns, the first line has 2"),
        ("dev.conll", "a\tO\nb\t\n", r"dev.conll:2: the tag, in the last column, is missing"),
        ("dev.conll", b"a O\n\xe9 O\n", r"dev.conll:2: not UTF-8"),
        ("dev.conll", "", r"dev.conll: no sentences"),
        ("dev.conll", "-DOCSTART- O\n\n", r"dev.conll: no sentences"),
        ("dev.conll", "a\nb\n", r"dev.conll:1: no tags"),
        ("dev.json", "[]\n", r"dev.json: .json files are not read; give your .* .jsonl with"),
        ("dev.csv.gz", b"\x1f\x8b", r"dev.csv.gz: .gz files are not read; give your own train"),
        ("dev.jsonl", '{"tokens": []}\n', r"dev.jsonl: no sentences"),
        ("dev.jsonl", '{"tokens": ["a"]}\n', r"dev.jsonl:1: no tags"),
        ("dev.jsonl", '{"words": ["a"]}\n', r"dev.jsonl:1: no column 'tokens'"),
        ("dev.jsonl", '{"tokens": "a"}\n', r'dev.jsonl:1: "tokens" must be a list of strings'),
        ("dev.csv", "tokens,tags\na b,O\n", r"dev.csv:2: 2 tokens, but 1 tags"),
        ("dev.csv", "tokens,tags\na b,\n", r"dev.csv:2: no tags"),
        (
            "dev.jsonl",
            '{"tokens": ["a"], "tags": [0]}\n',
            r'dev.jsonl:1: "tags" must be a list of strings',
        ),
        (
            "dev.jsonl",
            '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a", "b"], "tags": ["O"]}\n',
            r"dev.jsonl:2: 2 tokens, but 1 tags",
        ),
    ],
)
def test_faults_are_told_with_their_line(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, content, name)


def test_test_files_have_tags_throughout_or_nowhere(tmp_path: Path) -> None:
    rows = '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["b"]}\n'
    with pytest.raises(UserError, match="test.jsonl:2: no tags"):
        OWN.read(put(tmp_path / "test.jsonl", rows), "test")


# --- Finding --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("eng.train", "eng.testa", "eng.testb"),
        ("train.txt", "valid.txt", "test.txt"),
        ("Train.conll", "dev.conll", "test.conll"),
        ("eng.train.txt", "eng.testa.txt", "eng.testb.txt"),
    ],
)
def test_the_official_names_in_all_spellings(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in (*names, "README", "train.txt.bak"):
        put(tmp_path / name, "")
    found = OFFICIAL.find(tmp_path)
    assert list(found) == ["train", "dev", "test"]
    assert [path.name for path in found.values()] == list(names)


def test_your_own_names(tmp_path: Path) -> None:
    for name in ("train.jsonl", "dev.tsv", "training.txt"):
        put(tmp_path / name, "")
    assert OWN.find(tmp_path) == {"train": tmp_path / "train.jsonl", "dev": tmp_path / "dev.tsv"}
    put(tmp_path / "dev.conll", "")
    with pytest.raises(UserError, match="dev.conll and dev.tsv are there; tell which: --dev="):
        OWN.find(tmp_path)
    assert OWN.find(tmp_path / "missing") == {}


# --- tensorflow-datasets --------------------------------------------------------------------


def test_a_record_of_tensorflow_datasets() -> None:
    """The features of conll2003 there; after the last sentence comes a record of no words."""
    names = {"ner": ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]}
    record = {
        "tokens": np.array(["U.N.", "official", "Ekeus"], object),
        "pos": np.array([22, 21, 22]),
        "chunks": np.array([11, 12, 12]),
        "ner": np.array([3, 0, 1]),
    }
    example = OFFICIAL.from_tfds(record, names, "conll2003/dev:7")
    assert example.words == ["U.N.", "official", "Ekeus"]
    assert example.gold == ["B-ORG", "O", "B-PER"]
    assert example.where == "conll2003/dev:7"
    assert set(names["ner"]) == set(CONLL["conll"].labels or ())
    other = OFFICIAL.from_tfds({"tokens": [], "ner": []}, names, "conll2003/dev:8")
    assert (other.words, other.gold) == ([], [])
    assert other.document != example.document
