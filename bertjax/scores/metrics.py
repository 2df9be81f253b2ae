"""Scores of predictions against gold labels; scikit-learn and scipy underneath.

Each score raises ValueError for no examples, and for unequal numbers of gold and predicted ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.utils import check_consistent_length


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """The share of labels that are right, from 0 to 1."""
    return {"accuracy": float(accuracy_score(gold, predicted))}


def accuracy_and_f1(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Accuracy, and the unweighted mean over the labels of their F1; both from 0 to 1."""
    macro_f1 = f1_score(gold, predicted, average="macro", zero_division=0)
    return {**accuracy(gold, predicted), "macro_f1": float(macro_f1)}


def accuracy_and_positive_f1(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Accuracy, and F1 of the label "1", from 0 to 1: GLUE's scores of MRPC and QQP.

    F1 is 0 where neither side has a "1".
    """
    f1 = f1_score(gold, predicted, labels=["1"], average="macro", zero_division=0)
    return {**accuracy(gold, predicted), "f1": float(f1)}


def matthews(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Matthews' correlation, from -1 to 1, and accuracy: GLUE's score of CoLA.

    The correlation is 0.0 where all gold or all predicted labels are the same.
    """
    scores = accuracy(gold, predicted)
    constant = _is_constant(gold) or _is_constant(predicted)
    correlation = 0.0 if constant else float(matthews_corrcoef(gold, predicted))
    return {"matthews": correlation, **scores}


def correlations(gold: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's correlations, from -1 to 1: GLUE's scores of STS-B.

    Both are 0.0, not NaN, where all gold or all predicted values are the same, as those of a model
    that has collapsed are. They are NaN where a value is.
    """
    check_consistent_length(gold, predicted)
    if _is_constant(gold) or _is_constant(predicted):
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(stats.pearsonr(gold, predicted).statistic),
        "spearman": float(stats.spearmanr(gold, predicted).statistic),
    }


def majority_share(gold: Sequence[str]) -> float:
    """The accuracy of always answering with the most frequent label."""
    return Counter(gold).most_common(1)[0][1] / len(gold)


def _is_constant(values: Sequence[Hashable]) -> bool:
    return len(set(values)) == 1
