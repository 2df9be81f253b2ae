"""Entity scores: chunks as conlleval reads them, its numbers for random tags, strict BIO2."""

from __future__ import annotations

import random

import pytest

from bertjax.scores.entity_scores import by_type, conlleval_lines, entity_scores

RATES = ("precision", "recall", "f1")
# LOC is called PER, ORG ends too early: one entity of three is right, and four tags of six.
GOLD = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "I-ORG"]]
PREDICTED = [["B-PER", "I-PER", "O", "B-PER"], ["B-ORG", "O"]]


def rates(tags: str, entities: str, reading: str = "") -> list[float]:
    """Precision, recall and F1 of the tags of one sentence, where these are the entities."""
    found = entity_scores([entities.split()], [tags.split()])
    return [found[reading + name] for name in RATES]


# --- Numbers --------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    third = pytest.approx(1 / 3)
    expected = {"f1": third, "precision": third, "recall": third, "token_accuracy": 4 / 6}
    strict = {f"strict_{name}": third for name in RATES}
    assert entity_scores(GOLD, PREDICTED) == {**expected, **strict}


def test_scores_by_type_by_hand() -> None:
    wrong = {"precision": 0, "recall": 0, "f1": 0}
    assert by_type(GOLD, PREDICTED) == {
        "LOC": {**wrong, "entities": 1},
        "ORG": {**wrong, "entities": 1},
        "PER": {"precision": 1 / 2, "recall": 1, "f1": pytest.approx(2 / 3), "entities": 1},
    }


def test_a_type_that_is_only_predicted_is_told_too() -> None:
    found = by_type([["O", "B-A"]], [["B-Z", "B-A"]])
    assert found["Z"] == {"precision": 0, "recall": 0, "f1": 0, "entities": 0}


@pytest.mark.parametrize("gold", [[], [[]], [["O", "O"]]])
def test_without_entities_everything_is_0_but_the_accuracy(gold: list[list[str]]) -> None:
    found = entity_scores(gold, gold)
    assert found.pop("token_accuracy") == float(gold == [["O", "O"]])
    assert set(found.values()) == {0}


def random_tags(rng: random.Random, length: int) -> list[str]:
    return [
        "O" if rng.random() < 0.4 else f"{rng.choice('BI')}-{rng.choice(['LOC', 'ORG', 'PER'])}"
        for _ in range(length)
    ]


def random_sentences() -> tuple[list[list[str]], list[list[str]]]:
    """Gold tags in any order, valid or not, and a copy with every fifth drawn anew."""
    rng = random.Random(0)
    gold = [random_tags(rng, rng.randint(1, 12)) for _ in range(200)]
    predicted = [
        [
            kept if rng.random() < 0.8 else drawn
            for kept, drawn in zip(tags, random_tags(rng, len(tags)), strict=True)
        ]
        for tags in gold
    ]
    return gold, predicted


def test_random_tags_score_as_conlleval_scores_them() -> None:
    """What conlleval.pl (2004-01-26) prints when it is given conlleval_lines of these tags:

    1304 tokens, 726 phrases, 716 found, 569 correct; accuracy 83.36; and the rates below.
    """
    gold, predicted = random_sentences()
    found = entity_scores(gold, predicted)
    assert found["precision"] == 569 / 716
    assert found["recall"] == 569 / 726
    assert found["f1"] == pytest.approx(0.7892, abs=5e-5)
    assert found["token_accuracy"] == pytest.approx(0.8336, abs=5e-5)
    percent = {
        type_: [round(100 * row[name], 2) for name in RATES]
        for type_, row in by_type(gold, predicted).items()
    }
    assert percent == {
        "LOC": [81.33, 76.57, 78.88],
        "ORG": [77.35, 81.17, 79.21],
        "PER": [79.77, 77.65, 78.69],
    }
    assert sum(row["entities"] for row in by_type(gold, predicted).values()) == 726


# --- Which entities tags tell ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("I-A I-A B-A I-A O", "B-A I-A B-A I-A O"),  # IOB1: B only between neighbours of one type
        ("I-A I-B B-B", "B-A B-B B-B"),
        ("O I-A I-A", "O B-A I-A"),  # begins without B
        ("B-A I-B I-B", "B-A B-B I-B"),  # goes on as another type
        ("B-A B-A I-A", "B-A B-A I-A"),
        ("B-A O I-A", "B-A O B-A"),
        ("I-A E-A I-A E-A E-A", "B-A I-A B-A I-A B-A"),  # IOE
        ("S-A B-A E-A B-A I-A E-A S-A", "B-A B-A I-A B-A I-A I-A B-A"),  # IOBES
        ("S-A I-A E-A", "B-A B-A I-A"),
        ("B-A-1 I-A-1 I-A-2", "B-A-1 I-A-1 B-A-2"),  # the type is what follows the first hyphen
        ("B I B O I", "B I B O B"),  # entities of no type
        ("X-A X-A Y-A Y-B .", "B-A I-A I-A B-B O"),  # other prefixes part types alone
        ("A X-A A B-A", "O B-A B B-A"),
        ("U-A B-A L-A B-A I-A L-A U-A", "B-A B-A I-A B-A I-A I-A B-A"),  # BILOU
    ],
)
def test_conlleval_reads(tags: str, entities: str) -> None:
    assert rates(tags, entities) == [1, 1, 1]


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("B-A I-A B-A O B-B", "B-A I-A B-A O B-B"),
        ("O I-A I-A B-A I-A", "O O O B-A I-A"),
        ("B-A I-B I-A", "B-A O O"),
        ("B-A O I-A", "B-A O O"),
        ("I-A B-A", "O B-A"),
        ("B-A E-A S-B", "B-A O O"),
    ],
)
def test_strict_reading_takes_well_formed_entities_only(tags: str, entities: str) -> None:
    assert rates(tags, entities, "strict_") == [1, 1, 1]


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("S-A B-A E-A B-B I-B E-B", "S-A B-A E-A B-B I-B E-B"),
        ("B-A I-A O S-A", "O O O S-A"),
        ("S-A I-A E-A", "S-A O O"),
        ("B-A B-A E-A I-A", "O B-A E-A O"),
        ("B-A E-B S-B", "O O S-B"),
    ],
)
def test_strict_reading_is_that_of_iobes_where_gold_is(tags: str, entities: str) -> None:
    assert rates(tags, entities, "strict_") == [1, 1, 1]


def test_strict_and_conlleval_differ_only_by_ill_formed_tags() -> None:
    assert rates("B-A O I-A", "B-A O O") == [1 / 2, 1, pytest.approx(2 / 3)]
    gold, predicted = random_sentences()
    found = entity_scores(gold, predicted)
    assert found["strict_f1"] != found["f1"]


@pytest.mark.parametrize(
    "wrong", ["O B-A I-A O", "O B-A I-A B-A", "B-A I-A I-A I-A", "O B-B I-B I-B"]
)
def test_an_entity_counts_whole_or_not_at_all(wrong: str) -> None:
    assert rates(wrong, "O B-A I-A I-A")[2] == 0


def test_an_entity_ends_with_its_sentence() -> None:
    sentences = [["O", "B-A"], ["I-A", "O"]]
    assert by_type(sentences, sentences)["A"]["entities"] == 2
    found = entity_scores(sentences, [["O", "B-A"], ["O", "O"]])
    assert [found[name] for name in RATES] == [1, 1 / 2, pytest.approx(2 / 3)]


# --- Lengths, and the script's input --------------------------------------------------------


def test_lines_for_conlleval() -> None:
    words = [["Ada", "Lovelace", ",", "London"], ["United", "Nations"]]
    assert conlleval_lines(words, GOLD, PREDICTED) == (
        "Ada B-PER B-PER\nLovelace I-PER I-PER\n, O O\nLondon B-LOC B-PER\n"
        "\nUnited B-ORG B-ORG\nNations I-ORG O\n"
    )


def test_every_token_has_one_prediction() -> None:
    short, missing = [PREDICTED[0], ["B-ORG"]], PREDICTED[:1]
    for score in (entity_scores, by_type):
        with pytest.raises(ValueError, match="^sentence 2 has 2 gold tags, 1 predicted ones$"):
            score(GOLD, short)
        with pytest.raises(ValueError, match="^2 sentences have gold tags, 1 predicted ones$"):
            score(GOLD, missing)
    with pytest.raises(ValueError, match="sentence 2"):
        conlleval_lines(GOLD, GOLD, short)
    with pytest.raises(ValueError):
        conlleval_lines(short, GOLD, PREDICTED)
