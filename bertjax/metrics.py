"""Scores of predictions against gold labels; scikit-learn underneath."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sklearn.metrics import accuracy_score, f1_score


def accuracy_and_f1(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Accuracy, and the unweighted mean over the labels of their F1; both from 0 to 1."""
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "macro_f1": float(f1_score(gold, predicted, average="macro", zero_division=0)),
    }


def majority_share(gold: Sequence[str]) -> float:
    """The accuracy of always answering with the most frequent label."""
    return Counter(gold).most_common(1)[0][1] / len(gold)
