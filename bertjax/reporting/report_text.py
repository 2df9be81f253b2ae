"""What the report says: sentences, figures and samples of runs, ready for the page."""

from __future__ import annotations

import statistics
from pathlib import Path

from bertjax.data import manifest as manifests
from bertjax.errors import UserError
from bertjax.reporting import results
from bertjax.reporting.results import Finetuning, Pretraining, Row

_SAMPLES, _LONGEST = 4, 400


def share(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{rest} s"


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _speed(metrics: list[Row]) -> float:
    """Tokens a second in the median log line, which leaves out the one with the compilation."""
    return statistics.median(
        line["tokens_per_second"] for line in metrics if "tokens_per_second" in line
    )


def _final(run: Pretraining, name: str) -> tuple[float, str]:
    """The last held-out value of a metric, or else of the training itself, and which it is."""
    held_out = results.last(run.metrics, f"eval_{name}")
    if held_out is not None:
        return held_out, "held-out text"
    return results.last(run.metrics, name) or 0.0, "the training text"


def _exactly(run: Pretraining) -> str:
    accuracy, _ = _final(run, "masked_lm_accuracy")
    told = f"It names {share(accuracy)} of the hidden pieces exactly"
    if not results.tells_pairs(run):
        return f"{told}."
    pairs, _ = _final(run, "next_sentence_accuracy")
    return (
        f"{told}, and tells in {share(pairs)} of the pairs whether the second sentence follows the "
        "first; guessing gives 50 %."
    )


def pretraining_story(run: Pretraining) -> list[Row]:
    model, settings = run.config["model"], run.config["settings"]
    corpus, step = run.manifest.corpus, run.metrics[-1]["step"]
    loss, where = _final(run, "masked_lm_loss")
    documents = f"{corpus['documents']:,} documents with " if "documents" in corpus else ""
    tells = " and to tell whether two passages belong together" if results.tells_pairs(run) else ""
    entropy = run.config["unigram_entropy"]
    learnt = (
        f"On {where} its masked-LM loss is {loss:.3f} nats. Guessing each piece by its frequency "
        f"alone would give {entropy:.3f}, the unigram entropy"
    )
    learnt += (
        f"; what is below that was learnt from context. {_exactly(run)}"
        if loss < entropy
        else ". It has not got below that yet: train longer or try another learning rate."
    )
    return [
        {
            "text": f"A BERT of {model['num_layers']} layers and width {model['hidden_size']} "
            f"started from {settings.get('init') or 'random numbers'} and read {documents}"
            f"{corpus['tokens']:,} tokens. In {step:,} steps of {settings['train']['batch_size']} "
            f"sequences it learnt to fill in hidden pieces of words{tells}.",
            "warning": False,
        },
        {"text": learnt, "warning": loss >= entropy},
    ]


def finetuning_story(runs: list[Finetuning]) -> list[Row]:
    """What pretraining bought, if there is a run of either kind."""
    by_start = {run.start: run.result for run in reversed(runs)}
    if len(by_start) < 2:
        return []
    ours, scratch = by_start["pretrained weights"], by_start["random weights"]
    gain = 100 * (ours["score"] - scratch["score"])
    text = (
        "Then it was fine-tuned on a labelled task, with "
        f"{ours['dev']['examples']:,} examples kept aside. From the pretrained weights it "
        f"reaches {share(ours['score'])} {ours['primary']}, from random weights "
        f"{share(scratch['score'])}"
    )
    if "majority_baseline" in ours:
        text += f", and always saying the most frequent label {share(ours['majority_baseline'])}"
    text += (
        f". So pretraining bought {gain:.1f} points."
        if gain > 0
        else ". So pretraining bought nothing here: it was too short, or the task needs other text."
    )
    return [{"text": text, "warning": gain <= 0}]


def tiles(run: Pretraining, runs: list[Finetuning]) -> list[Row]:
    loss, where = _final(run, "masked_lm_loss")
    accuracy, _ = _final(run, "masked_lm_accuracy")
    shown = [
        (f"masked-LM loss, {where}", f"{loss:.3f}"),
        ("unigram entropy", f"{run.config['unigram_entropy']:.3f}"),
        ("hidden pieces named", share(accuracy)),
        ("real tokens a second", f"{_speed(run.metrics):,.0f}"),
    ]
    shown += [(f"dev {r.result['primary']}, {r.name}", share(r.result["score"])) for r in runs]
    return [{"name": name, "value": value} for name, value in shown]


def _baseline(run: Finetuning) -> float | None:
    return run.result.get("majority_baseline")


def task_table(runs: list[Finetuning]) -> list[Row]:
    return [
        {
            "name": run.name,
            "primary": run.result["primary"],
            "score": share(run.result["score"]),
            "majority": share(baseline) if (baseline := _baseline(run)) is not None else "-",
            "examples": f"{run.result['dev']['examples']:,}",
            "seconds": _duration(run.result["train_seconds"]),
        }
        for run in runs
    ]


def samples(run: Finetuning) -> list[Row]:
    """The surest of the right predictions, no label twice, and the surest of the wrong ones.

    None of a regression, which is sure of nothing.
    """
    if not all("confidence" in row for row in run.predictions):
        return []
    surest = sorted(run.predictions, key=lambda row: -float(row["confidence"]))
    right = {row["label"]: row for row in reversed(surest) if row["label"] == row["prediction"]}
    best = sorted(right.values(), key=lambda row: -float(row["confidence"]))
    wrong = [row for row in surest if row["label"] != row["prediction"]]
    return [
        {
            "text": " / ".join(_shorten(row[n]) for n in ("text_a", "text_b") if n in row),
            "label": row["label"],
            "prediction": row["prediction"],
            "confidence": share(float(row["confidence"])),
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
    mend = "write it with: python -m bertjax.fill --output FILE"
    try:
        return _blanks(results.read_json(path, mend))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{path}: not what bertjax.fill writes; {mend}") from None


def _blanks(found: list[Row]) -> list[Row]:
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
    return [*facts, ("hidden pieces", share(settings["masked_lm_prob"]))]


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
