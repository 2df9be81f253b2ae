"""Scores of real SQuAD 1.1 predictions beside the official ones; prints one table.

    BERTJAX_DATA=<folder> python benchmarks/squad_scores.py

The folder holds squad/dev-v1.1.json, the official file, and squad/predictions/<system>.json with
`{question id: answer}`. Peer: the authors' evaluate-v1.1.py, whose scores of five systems stand
below; "-" where a system is not one of them. Ends with 1 if any differs in the third decimal.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import contest

from bertjax import errors
from bertjax.files.json_file import read_json
from bertjax.scores.answer_scores import answer_scores

# System -> (exact match, F1) by evaluate-v1.1.py, rounded to three digits.
OFFICIAL = {
    "bert-ensemble": (86.206, 92.196),
    "logistic-regression": (40.142, 50.982),
    "match-lstm": (67.635, 76.756),
    "r-net-plus-ensemble": (82.469, 88.478),
    "slqa-plus-ensemble": (81.949, 88.384),
}


def right_answers(path: Path) -> dict[str, list[str]]:
    return {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for article in read_json(path)["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }


def main() -> None:
    data = contest.data_folder()
    if data is None:
        return
    folder = Path(data, "squad")
    gold = right_answers(folder / "dev-v1.1.json")
    print(f"{len(gold):,} questions; exact match / F1 in per cent")
    largest = 0.0
    print(f"{'':22}{'ours':>16}{'official':>20}{'missing':>12}{'seconds':>10}")
    for path in sorted((folder / "predictions").glob("*.json")):
        begin = time.process_time()
        scores = answer_scores(gold, read_json(path))
        seconds = time.process_time() - begin
        for name, score in zip(("exact_match", "f1"), OFFICIAL.get(path.stem, ()), strict=False):
            largest = max(largest, abs(round(scores[name], 3) - score))
        ours = f"{scores['exact_match']:.3f} / {scores['f1']:.3f}"
        official = " / ".join(f"{score:.3f}" for score in OFFICIAL.get(path.stem, ())) or "-"
        print(f"{path.stem:22}{ours:>16}{official:>20}{scores['missing']:12}{seconds:10.1f}")
    print(f"largest difference: {largest:.3f}")
    if largest >= 0.0005:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(errors.run(main))
