"""Entity F1 from tags: as the CoNLL shared tasks' conlleval counts, and of well-formed chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

Tags = Sequence[Sequence[str]]  # of one sentence after the other


class _Entity(NamedTuple):
    """The tokens from `start` to before `end` of one sentence."""

    type: str
    start: int
    end: int


class _Reading(NamedTuple):
    """The prefixes that continue an entity of their type, and those that else begin one.

    Attributes:
      must_end: an entity is one only if its last tag is E, L, S or U.
      others: whether further prefixes continue an entity, or begin one of another type than that
        of the tag before.
    """

    continues: frozenset[str]
    begins: frozenset[str]
    must_end: bool = False
    others: bool = False


_CONLLEVAL = _Reading(frozenset("IEL"), frozenset("BIELSU"), others=True)
_BIO2 = _Reading(frozenset("I"), frozenset("B"))
_IOBES = _Reading(frozenset("IEL"), frozenset("BSU"), must_end=True)
_LAST = frozenset("ELSU")  # no entity goes on after these
PREFIXES = frozenset("BI") | _LAST


class _Counts(NamedTuple):
    """Numbers of entities by type; correct ones have type, first and last token in common."""

    gold: Counter[str]
    predicted: Counter[str]
    correct: Counter[str]


def entity_scores(gold: Tags, predicted: Tags) -> dict[str, float]:
    """Scores of all entities together, from 0 to 1.

    f1, precision and recall are those of conlleval (Tjong Kim Sang, version of 2004-01-26), which
    makes sense of every order of tags: an entity begins at B, at I or E after O or after another
    type, and after E; any other tag but O and "." begins one after another type, too. So tags are
    read as IOB1 and as BIO2 alike. Beyond the script, which takes them for a continuation, S is an
    entity of one token and B after E begins another one, as IOBES has it; BILOU's U and L are read
    as S and E.

    strict_f1, strict_precision and strict_recall count only what is well-formed, on both sides: in
    BIO2 B-X and the I-X right behind it, where gold has one of E, L, S, U (IOBES, BILOU) S-X or
    U-X, or B-X, any I-X and E-X or L-X. Other tags belong to no entity. They tell nothing where the
    gold tags are IOB1.

    token_accuracy counts every token, those outside too. What would divide by zero is 0.

    Raises:
      ValueError: another number of sentences, or of tags in a sentence, than gold has.
    """
    _check_lengths(gold, predicted)
    prefixes = {tag.partition("-")[0] for tag in chain.from_iterable(gold)}
    scheme = _IOBES if prefixes & _LAST else _BIO2
    strict = _rates(*map(Counter.total, _count(gold, predicted, scheme)))
    return {
        **_rates(*map(Counter.total, _count(gold, predicted, _CONLLEVAL))),
        "token_accuracy": _token_accuracy(gold, predicted),
        **{f"strict_{name}": rate for name, rate in strict.items()},
    }


def by_type(gold: Tags, predicted: Tags) -> dict[str, dict[str, float]]:
    """Type -> precision, recall and f1 as conlleval has them, and the number of gold entities.

    Types come in order of the alphabet, also those that only one side has; the number is named
    "entities". Raises ValueError as entity_scores does.
    """
    _check_lengths(gold, predicted)
    counts = _count(gold, predicted, _CONLLEVAL)
    return {
        type_: {
            **_rates(*(counter[type_] for counter in counts)),
            "entities": counts.gold[type_],
        }
        for type_ in sorted(counts.gold | counts.predicted)
    }


def conlleval_lines(words: Tags, gold: Tags, predicted: Tags) -> str:
    """What conlleval reads from its standard input.

    "word gold predicted" a line, and an empty line between sentences. Words hold no spaces. Raises
    ValueError as entity_scores does.
    """
    _check_lengths(gold, predicted)
    return "\n".join(
        "".join(f"{' '.join(columns)}\n" for columns in zip(*sentence, strict=True))
        for sentence in zip(words, gold, predicted, strict=True)
    )


def _check_lengths(gold: Tags, predicted: Tags) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} sentences have gold tags, {len(predicted)} predicted ones")
    for number, (a, b) in enumerate(zip(gold, predicted, strict=True), start=1):
        if len(a) != len(b):
            raise ValueError(f"sentence {number} has {len(a)} gold tags, {len(b)} predicted ones")


def _entities(tags: Sequence[str], reading: _Reading) -> set[_Entity]:
    found: list[_Entity] = []
    current: _Entity | None = None  # the last one found, while it may go on
    before = ""  # the type of the last tag
    for i, tag in enumerate(tags):
        prefix, _, type_ = tag.partition("-")
        other = reading.others and prefix not in PREFIXES | {"O", "."}
        if current and current.type == type_ and (other or prefix in reading.continues):
            found[-1] = current = current._replace(end=i + 1)
        elif prefix in reading.begins or (other and type_ != before):
            found.append(current := _Entity(type_, i, i + 1))
        else:
            current = None
        if prefix in _LAST:
            current = None
        before = type_
    if reading.must_end:
        found = [entity for entity in found if tags[entity.end - 1][0] in _LAST]
    return set(found)


def _count(gold: Tags, predicted: Tags, reading: _Reading) -> _Counts:
    counts = _Counts(Counter(), Counter(), Counter())
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        a, b = _entities(gold_tags, reading), _entities(predicted_tags, reading)
        for counter, entities in zip(counts, (a, b, a & b), strict=True):
            counter.update(entity.type for entity in entities)
    return counts


def _rates(gold: int, predicted: int, correct: int) -> dict[str, float]:
    return {
        "f1": 2 * correct / (gold + predicted) if correct else 0.0,
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / gold if gold else 0.0,
    }


def _token_accuracy(gold: Tags, predicted: Tags) -> float:
    pairs = list(zip(chain.from_iterable(gold), chain.from_iterable(predicted), strict=True))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 0.0
