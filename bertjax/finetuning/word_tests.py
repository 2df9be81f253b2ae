"""--task=similarity and analogy: what word vectors are worth, without any training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertjax import distributed
from bertjax.errors import UserError
from bertjax.files.json_file import write_json
from bertjax.runs.run_folder import SCORES, is_run
from bertjax.scores import metrics
from bertjax.tasks.word_lists import WORD_TASKS, Analogy, Pair
from bertjax.weights import pretrained
from bertjax.weights.word_layer import KnownWords, WordLayer

# What is said of a model without the words of a test.
TOO_FEW = "knows too few of the words"
# Scores that are held at once.
_HELD = 2**27
Scores = dict[str, Any]


class TooFewKnown(Exception):
    """A test has nothing to score; tells of what a model knows the words."""


def similarity(pairs: Sequence[Pair], layer: WordLayer) -> Scores:
    """Spearman's correlation of the ratings with the cosines; pairs with unknown words left out.

    Raises:
      TooFewKnown: fewer than two are left.
    """
    pieces = {word: layer.encode(word) for pair in pairs for word in pair[:2]}
    known = [pair for pair in pairs if pieces[pair.first] and pieces[pair.second]]
    if len(known) < 2:
        raise TooFewKnown(f"of {len(known)} of the {len(pairs):,} pairs")
    rows = {word: row for row, word in enumerate(w for w, ids in pieces.items() if ids)}
    vectors = unit(layer.vectors([ids for ids in pieces.values() if ids]))
    cosines = [float(vectors[rows[a]] @ vectors[rows[b]]) for a, b, _ in known]
    found = metrics.correlations([pair.rating for pair in known], cosines)
    unknown = [word for word, ids in pieces.items() if not ids]
    return {
        "spearman": found["spearman"],
        "pairs": len(known),
        "left_out": len(pairs) - len(known),
        "unknown_words": unknown,
    }


def analogies(questions: Sequence[Analogy], layer: WordLayer) -> Scores:
    """3CosAdd: d is the word nearest to b - a + c (Mikolov et al. 2013), all of length 1.

    Of all words known but for a, b and c. Questions with an unknown word are left out.

    Raises:
      TooFewKnown: none is left.
    """
    known = layer.known()
    rows = [[_row(word, known, layer) for word in question.words] for question in questions]
    asked = [i for i, found in enumerate(rows) if None not in found]
    if not asked:
        raise TooFewKnown(f"all four of none of the {len(questions):,} questions")
    right = dict(zip(asked, _answers(np.array([rows[i] for i in asked]), known), strict=True))
    sections: dict[str, Scores] = {}
    for number, question in enumerate(questions):
        own = sections.setdefault(question.section, {"right": 0, "questions": 0, "left_out": 0})
        own["left_out"] += number not in right
        own["questions"] += number in right
        own["right"] += bool(right.get(number))
    for own in sections.values():
        own["accuracy"] = own["right"] / own["questions"] if own["questions"] else None
    unknown = {
        word
        for question, found in zip(questions, rows, strict=True)
        for word, row in zip(question.words, found, strict=True)
        if row is None
    }
    return {
        "accuracy": sum(right.values()) / len(asked),
        "questions": len(asked),
        "left_out": len(questions) - len(asked),
        "sections": sections,
        "unknown_words": sorted(unknown),
    }


def _row(word: str, known: KnownWords, layer: WordLayer) -> int | None:
    """Of the word as it is, or as the tokenizer would have it, if that is one piece."""
    if word in known.ids:
        return known.ids[word]
    pieces = layer.encode(word)
    if not pieces or len(pieces) > 1:
        return None
    return known.ids.get(layer.tokenizer.pieces(pieces)[0].removeprefix("▁"))


def _answers(rows: np.ndarray, known: KnownWords) -> list[bool]:
    """For [N, 4] rows of known words: whether the fourth is what the first three give."""
    vectors, right = unit(known.vectors), []
    at_once = max(1, _HELD // len(vectors))
    for first in range(0, len(rows), at_once):
        some = rows[first : first + at_once]
        a, b, c = (vectors[some[:, place]] for place in range(3))
        # [Q, D] x [N, D] -> [Q, N]
        scores = (b - a + c) @ vectors.T
        np.put_along_axis(scores, some[:, :3], -np.inf, axis=1)
        right += (scores.argmax(axis=1) == some[:, 3]).tolist()
    return right


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors at length 1; 0 stays 0."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


_SCORE: dict[str, Callable[[Any, WordLayer], Scores]] = {
    "similarity": similarity,
    "analogy": analogies,
}


def run(task: str, init: str | None, files: dict[str, Path], workdir: Path) -> Scores:
    """Scores every file, prints what was found and writes metrics.json.

    Args:
      init: whose vectors, see pretrained.find.
      files: {name of the test: its file}.

    Raises:
      UserError: the folder holds a run, whose scores these would replace; too few words are known
        for any of the tests, those of the others are left out and told.
    """
    if is_run(workdir):
        raise UserError(
            f"--workdir={workdir}: holds a run, whose scores these would replace; give another"
        )
    kind = WORD_TASKS[task]
    # The lists come before the vectors, which may be gigabytes.
    items = {test: kind.read(path) for test, path in files.items()}
    start = pretrained.find(init)
    layer = WordLayer(start)
    found: dict[str, Scores] = {}
    for test, some in items.items():
        try:
            found[test] = _SCORE[task](some, layer)
            tell(test, kind.primary, found[test])
        except TooFewKnown as error:
            print(f"{test}: left out, {start.name} {TOO_FEW}: {error}")
    if not found:
        raise UserError(f"{start.name}: {TOO_FEW} of {', '.join(map(str, files.values()))}")
    score = float(np.mean([scores[kind.primary] for scores in found.values()]))
    result = {"task": task, "init": start.name, "primary": kind.primary, "score": score}
    result |= {"files": {test: str(path) for test, path in files.items()}, "tests": found}
    if distributed.is_first():
        write_json(workdir / SCORES, result)
    print(f"wrote {workdir}/{SCORES}")
    return result


def tell(test: str, primary: str, scores: Scores) -> None:
    for section, own in scores.get("sections", {}).items():
        share = "-" if own["accuracy"] is None else f"{own['accuracy']:.4f}"
        print(f"  {section}: {share} of {own['questions']:,}, {own['left_out']:,} left out")
    unknown = scores["unknown_words"]
    some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    note = f" for {len(unknown):,} unknown words ({some})" if unknown else ""
    number = scores["pairs" if "pairs" in scores else "questions"]
    print(
        f"{test}: {primary} {scores[primary]:.4f} over {number:,}; "
        f"{scores['left_out']:,} left out{note}"
    )
