"""Tells in one self-contained HTML page what a pretraining and its fine-tunings did.

example:
  python -m bertjax.report --pretrain runs/tiny --finetune runs/sst2 runs/sst2-scratch \\
      --output runs/report.html
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bertjax import charts, errors, page, results
from bertjax.charts import Line
from bertjax.command_line import new_parser
from bertjax.data import manifest as manifests
from bertjax.results import Finetuning, Pretraining, Row
from bertjax.whole_file import write_whole

_SAMPLES, _LONGEST = 4, 400


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("report", __doc__)
    add = parser.add_argument
    add("--pretrain", type=Path, required=True, help="folder of a pretraining run")
    add(
        "--finetune",
        type=Path,
        nargs="*",
        default=[],
        metavar="RUN",
        help="folders of finished fine-tunings on one task; the first gives the predictions",
    )
    add("--fill", type=Path, help="JSON file that bertjax.fill --output wrote")
    add("--times", type=Path, help="lines of name, tab, seconds: where the time went")
    add("--title", default="What this BERT learnt")
    add("--output", type=Path, required=True, help="HTML file to write")
    return parser.parse_args(argv)


def _share(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{rest} s"


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _curve(metrics: list[Row], name: str, label: str, *, points: bool = False) -> Line:
    known = [line for line in metrics if name in line]
    return Line(label, [line["step"] for line in known], [line[name] for line in known], points)


def _last(metrics: list[Row], name: str) -> float | None:
    return next((line[name] for line in reversed(metrics) if name in line), None)


def _speed(metrics: list[Row]) -> float:
    """Tokens a second in the median log line, which leaves out the one with the compilation."""
    return statistics.median(
        line["tokens_per_second"] for line in metrics if "tokens_per_second" in line
    )


def _final(run: Pretraining, name: str) -> tuple[float, str]:
    """The last held-out value of a metric, or else of the training itself, and which it is."""
    held_out = _last(run.metrics, f"eval_{name}")
    if held_out is not None:
        return held_out, "held-out text"
    return _last(run.metrics, name) or 0.0, "the training text"


def pretraining_story(run: Pretraining) -> list[Row]:
    model, train = run.config["model"], run.config["settings"]["train"]
    corpus, step = run.manifest.corpus, run.metrics[-1]["step"]
    loss, where = _final(run, "masked_lm_loss")
    accuracy, _ = _final(run, "masked_lm_accuracy")
    pairs, _ = _final(run, "next_sentence_accuracy")
    entropy = run.config["unigram_entropy"]
    learnt = (
        f"On {where} its masked-LM loss is {loss:.3f} nats. Guessing each piece by its frequency "
        f"alone would give {entropy:.3f}, the unigram entropy"
    )
    learnt += (
        f"; what is below that was learnt from context. It names {_share(accuracy)} of the hidden "
        f"pieces exactly, and tells in {_share(pairs)} of the pairs whether the second sentence "
        "follows the first; guessing gives 50 %."
        if loss < entropy
        else ". It has not got below that yet: train longer or try another learning rate."
    )
    return [
        {
            "text": f"A BERT of {model['num_layers']} layers and width {model['hidden_size']} "
            f"started from random numbers and read {corpus['documents']:,} documents with "
            f"{corpus['tokens']:,} tokens. In {step:,} steps of {train['batch_size']} sequences "
            "it learnt to fill in hidden pieces of words and to tell whether two passages "
            "belong together.",
            "warning": False,
        },
        {"text": learnt, "warning": loss >= entropy},
    ]


def finetuning_story(runs: list[Finetuning]) -> list[Row]:
    """What pretraining bought, if there is a run of either kind."""
    by_name = {run.name: run.result for run in reversed(runs)}
    if len(by_name) < 2:
        return []
    ours, scratch = by_name["pretrained weights"], by_name["random weights"]
    gain = 100 * (ours["score"] - scratch["score"])
    text = (
        "Then it was fine-tuned on a labelled task, with "
        f"{ours['dev']['examples']:,} examples kept aside. From the pretrained weights it "
        f"reaches {_share(ours['score'])} {ours['primary']}, from random weights "
        f"{_share(scratch['score'])}, and always saying the most frequent "
        f"label {_share(ours['majority_baseline'])}. "
    )
    text += (
        f"So pretraining bought {gain:.1f} points."
        if gain > 0
        else "So pretraining bought nothing here: it was too short, or the task needs other text."
    )
    return [{"text": text, "warning": gain <= 0}]


def tiles(run: Pretraining, runs: list[Finetuning]) -> list[Row]:
    loss, where = _final(run, "masked_lm_loss")
    accuracy, _ = _final(run, "masked_lm_accuracy")
    shown = [
        (f"masked-LM loss, {where}", f"{loss:.3f}"),
        ("unigram entropy", f"{run.config['unigram_entropy']:.3f}"),
        ("hidden pieces named", _share(accuracy)),
        ("real tokens a second", f"{_speed(run.metrics):,.0f}"),
    ]
    shown += [(f"dev {r.result['primary']}, {r.name}", _share(r.result["score"])) for r in runs]
    return [{"name": name, "value": value} for name, value in shown]


def _chart(lines: list[Line], caption: str, **options: Any) -> Row:
    # The only markup that is not the template's: our own, with titles and names from this file.
    drawn = charts.line_chart([line for line in lines if len(line.x)], **options)
    return {"svg": Markup(drawn), "caption": caption}


def pretraining_charts(run: Pretraining) -> list[Row]:
    def both(name: str) -> list[Line]:
        held_out = _curve(run.metrics, f"eval_{name}", "held out", points=True)
        return [_curve(run.metrics, name, "training"), held_out]

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
        _chart(
            both("next_sentence_accuracy"),
            "Does the second passage follow the first, or is it from another document?",
            title="Next-sentence accuracy",
            level=("guessing", 0.5),
            percent=True,
        ),
        _chart(
            [_curve(run.metrics, "tokens_per_second", "tokens a second")],
            f"Padding not counted: it is {_share(run.manifest.padding_share)} of the positions. "
            f"{_share(_last(run.metrics, 'input_wait_share') or 0)} of the time at the end was "
            "spent waiting for input.",
            title="Speed",
            from_zero=True,
        ),
    ]


def task_charts(runs: list[Finetuning]) -> list[Row]:
    primary = runs[0].result["primary"]
    scores = [_curve(r.metrics, f"dev_{primary}", r.name, points=True) for r in runs]
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
            [_curve(r.metrics, "task_loss", r.name) for r in runs],
            "In nats, on the training examples.",
            title="Training loss",
        ),
    ]


def task_table(runs: list[Finetuning]) -> list[Row]:
    return [
        {
            "name": run.name,
            "primary": run.result["primary"],
            "score": _share(run.result["score"]),
            "majority": _share(run.result.get("majority_baseline", 0)),
            "examples": f"{run.result['dev']['examples']:,}",
            "seconds": _duration(run.result["train_seconds"]),
        }
        for run in runs
    ]


def samples(run: Finetuning) -> list[Row]:
    """The surest of the right predictions, no label twice, and the surest of the wrong ones."""
    surest = sorted(run.predictions, key=lambda row: -float(row["confidence"]))
    right = {row["label"]: row for row in reversed(surest) if row["label"] == row["prediction"]}
    best = sorted(right.values(), key=lambda row: -float(row["confidence"]))
    wrong = [row for row in surest if row["label"] != row["prediction"]]
    return [
        {
            "text": " / ".join(_shorten(row[n]) for n in ("text_a", "text_b") if n in row),
            "label": row["label"],
            "prediction": row["prediction"],
            "confidence": _share(float(row["confidence"])),
            "right": row["label"] == row["prediction"],
        }
        for row in best[:_SAMPLES] + wrong[:_SAMPLES]
    ]


def samples_note(run: Finetuning) -> str:
    right = sum(row["label"] == row["prediction"] for row in run.predictions)
    return (
        f"From the {run.name}: {right:,} of {len(run.predictions):,} are right. Here are those it "
        "was surest of, right ones first."
    )


def fillings(path: Path | None) -> list[Row]:
    """The candidates for each sentence's first blank."""
    if path is None:
        return []
    found = results.read_json(path, "write it with: python -m bertjax.fill --output FILE")
    return [
        {
            "parts": result["text"].split("[MASK]"),
            "candidates": [
                {"piece": c["piece"], "percent": f"{100 * c['probability']:.1f}"}
                for c in result["candidates"]
                if c["mask"] == 0
            ],
        }
        for result in found
    ]


def corpus_facts(manifest: manifests.Manifest) -> list[tuple[str, str]]:
    """What is known of the text; less of records that another builder made."""
    corpus, settings = manifest.corpus, manifest.settings
    known = [name for name in ("documents", "sentences") if name in corpus]
    facts: list[tuple[str, str]] = [(name, f"{corpus[name]:,}") for name in known]
    facts += [
        ("tokens (pieces of words)", f"{corpus['tokens']:,}"),
        ("vocabulary", f"{manifest.vocab_size:,} pieces, {corpus['pieces_used']:,} of them in use"),
        ("unknown pieces", f"{corpus['unknown_share']:.3%}".replace("%", " %")),
        ("unigram entropy", f"{corpus['unigram_entropy']:.3f} nats"),
        ("training records", f"{manifest.num_examples:,} of length {manifest.max_seq_length}"),
    ]
    if "dupe_factor" in settings:
        facts.append(("passes over the text", str(settings["dupe_factor"])))
    return [*facts, ("hidden pieces", _share(settings["masked_lm_prob"]))]


def time_bars(times: list[tuple[str, float]]) -> list[Row]:
    longest = max((seconds for _, seconds in times), default=0.0) or 1.0
    return [
        {"name": name, "percent": f"{100 * seconds / longest:.1f}", "spent": _duration(seconds)}
        for name, seconds in times
    ]


def next_steps(folder: Path) -> list[Row]:
    return [
        {
            "text": "Let it fill in your own sentence:",
            "command": f'python -m bertjax.fill --run={folder} "The function returns a [MASK]."',
        },
        {
            "text": "Fine-tune it on your own examples, files train.tsv and dev.tsv with the "
            "columns sentence and label:",
            "command": f"python -m bertjax.finetune --task=classify --data_dir=YOUR_FOLDER \\\n"
            f"    --init={folder} --workdir=runs/mine",
        },
        {
            "text": "Train a larger model on your own text (.txt, .txt.gz, .txt.xz):",
            "command": "python -m bertjax.prepare --input YOUR_TEXT --output records/mine\n"
            "python -m bertjax.pretrain --config=configs/bert.py:mini --workdir=runs/mini \\\n"
            "    data.records=records/mine train.steps=20000 train.batch_size=32 \\\n"
            "    train.learning_rate=3e-4 train.warmup_steps=1000",
        },
        {
            "text": "Give it to others as a Hugging Face folder:",
            "command": f"python -m bertjax.export --format=hf --run={folder} --output=exports/mine",
        },
        {
            "text": "See the curves live:",
            "command": f"tensorboard --logdir={folder.parent}",
        },
    ]


def render(flags: argparse.Namespace) -> str:
    """The page as a string.

    Raises:
      UserError: an input is missing or unfinished; it is named.
    """
    run = results.read_pretraining(flags.pretrain)
    runs = [results.read_finetuning(folder) for folder in flags.finetune]
    return page.render(
        "report.html.j2",
        title=flags.title,
        subtitle=f"{run.run} · bertjax {run.manifest.bertjax_version}",
        story=pretraining_story(run) + finetuning_story(runs),
        tiles=tiles(run, runs),
        pretraining_charts=pretraining_charts(run),
        tasks=task_table(runs),
        task_charts=task_charts(runs) if runs else [],
        samples=samples(runs[0]) if runs else [],
        samples_note=samples_note(runs[0]) if runs else "",
        fillings=fillings(flags.fill),
        corpus=corpus_facts(run.manifest),
        times=time_bars(results.read_times(flags.times)) if flags.times else [],
        next_steps=next_steps(run.run),
    )


def main() -> None:
    flags = parse_arguments()
    drawn = render(flags)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(flags.output, drawn.encode())
    print(f"wrote {flags.output} ({len(drawn) / 1000:.0f} kB): open it in a browser")


if __name__ == "__main__":
    sys.exit(errors.run(main))
