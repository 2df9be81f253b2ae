"""The curves of the report: of a pretraining, and of fine-tunings side by side."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from bertjax.reporting import charts, results
from bertjax.reporting.charts import Line
from bertjax.reporting.report_text import share
from bertjax.reporting.results import Finetuning, Pretraining, Row


def curve(metrics: list[Row], name: str, label: str, *, points: bool = False) -> Line:
    known = [line for line in metrics if name in line]
    return Line(label, [line["step"] for line in known], [line[name] for line in known], points)


def _chart(lines: list[Line], caption: str, **options: Any) -> Row:
    # The only markup that is not the template's: our own, with titles and names from this file.
    drawn = charts.line_chart([line for line in lines if len(line.x)], **options)
    return {"svg": Markup(drawn), "caption": caption}


def pretraining_charts(run: Pretraining) -> list[Row]:
    def both(name: str) -> list[Line]:
        held_out = curve(run.metrics, f"eval_{name}", "held out", points=True)
        return [curve(run.metrics, name, "training"), held_out]

    pairs = _chart(
        both("next_sentence_accuracy"),
        "Does the second passage follow the first, or is it from another document?",
        title="Next-sentence accuracy",
        level=("guessing", 0.5),
        percent=True,
    )
    return [
        _chart(
            both("masked_lm_loss"),
            "In nats. Below the dashed line the model uses context, not just frequencies.",
            title="Masked-LM loss",
            level=("unigram entropy", run.config["unigram_entropy"]),
        ),
        _chart(
            both("masked_lm_accuracy"),
            "How many of the hidden pieces are named exactly.",
            title="Masked-LM accuracy",
            percent=True,
        ),
        *([pairs] if results.tells_pairs(run) else []),
        _chart(
            [curve(run.metrics, "tokens_per_second", "tokens a second")],
            f"Padding not counted: it is {share(run.manifest.padding_share)} of the positions. "
            f"{share(results.last(run.metrics, 'input_wait_share') or 0)} of the time at the end "
            "was spent waiting for input.",
            title="Speed",
            from_zero=True,
        ),
    ]


def _shares(run: Finetuning, name: str) -> Line:
    """A curve of a metric with 1 as its highest value."""
    line = curve(run.metrics, name, run.name, points=True)
    return line._replace(y=[value / run.result["perfect"] for value in line.y])


def task_charts(runs: list[Finetuning]) -> list[Row]:
    primary = runs[0].result["primary"]
    scores = [_shares(r, f"dev_{primary}") for r in runs]
    baseline = runs[0].result.get("majority_baseline")
    return [
        _chart(
            scores,
            "After each pass over the training examples.",
            title=f"{primary} on the development set".capitalize(),
            level=None if baseline is None else ("most frequent label", baseline),
            percent=True,
        ),
        _chart(
            [curve(r.metrics, "task_loss", r.name) for r in runs],
            "On the training examples: in nats, of numbers the squared error.",
            title="Training loss",
        ),
    ]
