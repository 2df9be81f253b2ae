"""The chapters of a comparison's report: what they say, draw and list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from bertjax.comparison import budget
from bertjax.comparison.contexts import FILE as CONTEXTS
from bertjax.comparison.findings import (
    CHANCE,
    FAILS,
    HOLDS,
    NOISE,
    NOTHING,
    Mix,
    Ordering,
    Scores,
)
from bertjax.comparison.systems import (
    ABLATIONS,
    READINGS,
    SYSTEMS,
    TUNED,
    VECTORS,
    Comparison,
    System,
)
from bertjax.files.json_file import read_json
from bertjax.reporting.charts import Line
from bertjax.runs import parameters
from bertjax.runs.run_folder import load_config
from bertjax.training import run_log
from bertjax.weights import pretrained


class Chart(NamedTuple):
    """A drawing with a line of text; `file` is its name beside the Markdown page."""

    file: str
    lines: Sequence[Line]
    caption: str
    options: dict[str, Any]


class Table(NamedTuple):
    """Cells as they are shown."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Section(NamedTuple):
    """A chapter of the report."""

    title: str
    texts: Sequence[str]
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()


def systems(wanted: Comparison, workdir: Path, about: str) -> Section:
    """Args: about: how the comparison was run."""
    rows = []
    for system in wanted.systems:
        run = system.run(workdir)
        start, entropy = pretrained.load(run), load_config(run)["unigram_entropy"]
        params = sum(leaf.size for leaf in parameters.flat(start.params).values())
        last = run_log.read_metrics(run)[-1]
        losses = [
            f"{name.removeprefix('eval_').removesuffix('_loss')} {value:.3f}"
            for name, value in last.items()
            if _is_held_out_loss(name)
        ]
        row = [system.name, " ".join([Path(system.config).name, *system.settings])]
        row += [f"{start.config.hidden_size}", f"{params:,}", f"{last['step']:,}"]
        rows.append([*row, f"{budget.minutes(run):.1f}", ", ".join(losses), f"{entropy:.3f}"])
    header = ["system", "config", "width", "parameters", "steps", "minutes"]
    header += ["losses on held-out text, nats", "entropy of its words or pieces"]
    text = (
        "Each learnt once from the text, with one seed, by the optimizer and at the rate of its "
        "own; where its settings say nothing else, rates rise over a twentieth of the steps. Width "
        "is that of a word's vector in its context. Minutes are those of training steps. Who "
        "foretells no better than by the frequency of words or pieces has their entropy as its "
        "loss, but for next sentences and word2vec's loss against noise; masked pieces are masked "
        "in one way for all, but not all have the same rows: those without next sentences read "
        "text as it stands."
    )
    texts = [about, text]
    if wanted.left_out:
        named = ", ".join(f"{name} ({path})" for name, path in wanted.left_out.items())
        texts.append(f"Left out for want of files: {named}.")
    return Section("What was compared", texts, tables=[Table(header, rows)])


def pretraining(wanted: Comparison, workdir: Path) -> Section:
    curves: dict[tuple[str, str], list[Line]] = {}
    for system in wanted.systems:
        run = system.run(workdir)
        rows = run_log.read_metrics(run)
        one = budget.minutes(run) / rows[-1]["step"]
        for name in sorted({key for row in rows for key in row if _is_held_out_loss(key)}):
            known = [row for row in rows if name in row]
            line = Line(
                system.name,
                [row["step"] * one for row in known],
                [row[name] for row in known],
                points=True,
            )
            # The first system is what the others are ablations of.
            for group in (SYSTEMS, ABLATIONS) if system is wanted.systems[0] else (system.group,):
                curves.setdefault((group, name), []).append(line)
    made = [
        Chart(
            f"{group}-{name}.svg",
            lines,
            f"{_words(name)}, nats, on text held out ({group})",
            {"title": f"{_words(name)}, {group}", "x_label": "minutes"},
        )
        for (group, name), lines in curves.items()
        if group == SYSTEMS or len(lines) > 1
    ]
    text = (
        "Losses over the time of training; those of different kinds cannot be compared, nor quite "
        "those of masked pieces with and without next sentences, whose rows are others."
    )
    return Section("Pretraining", [text], charts=made)


def _is_held_out_loss(name: str) -> bool:
    return name.startswith("eval_") and name.endswith("_loss")


def _words(name: str) -> str:
    return name.removeprefix("eval_").replace("_", " ").capitalize()


def scores(wanted: Comparison, found: Scores) -> Section:
    tasks = list(dict.fromkeys(trial.task for trial in wanted.trials))
    metrics = {task: score.metric for (_, task, _), score in found.items()}
    rows = []
    for system in wanted.systems:
        if system.group == SYSTEMS:
            for reading in (*READINGS, VECTORS):
                cells = [_cell(found, system, task, reading) for task in tasks]
                if any(cell != "-" for cell in cells):
                    rows.append([system.name, reading, *cells])
            paper = [wanted.paper.get(task, {}).get(system.name, "-") for task in tasks]
            if any(cell != "-" for cell in paper):
                rows.append([system.name, "in the paper", *paper])
    blind = {task: score.blind for (_, task, _), score in found.items()}
    cells = [_percent(blind.get(task)) for task in tasks]
    if any(cell != "-" for cell in cells):
        rows.append(["any", "always the same answer", *cells])
    header = ["system", "read as", *(f"{task}, {metrics.get(task, 'known')}" for task in tasks)]
    text = (
        "On dev, in percent: mean and standard deviation over the seeds, each of its best epoch "
        "there. A seed that gave all examples the same answer has collapsed. The papers' figures "
        "are those of models that learnt from billions of words for days. A list of words is "
        "scored over those that a system knows, which are not those of another; who knows none "
        "has no score."
    )
    return Section("Scores", [text], tables=[Table(header, rows)])


def tasks(wanted: Comparison) -> Section:
    """What each task was run with, which is the same for most systems."""
    systems_of: dict[tuple[str, str, str], list[str]] = {}
    for trial in wanted.trials:
        # Of an option given twice the last one counts.
        last = {option.partition("=")[0]: option for option in trial.options}
        key = trial.task, trial.reading, " ".join(last.values())
        systems_of.setdefault(key, []).append(trial.system.name)
    rows = [[*key, ", ".join(names)] for key, names in systems_of.items()]
    text = (
        "Tuned, a head for whole texts reads the pooled vector, as in the paper; frozen, the mean "
        "of the layer's tokens."
    )
    header = ["task", "read as", "options of bertjax.finetune", "systems"]
    return Section("How the tasks were run", [text], tables=[Table(header, rows)])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _cell(found: Scores, system: System, task: str, reading: str) -> str:
    score = found.get((system.name, task, reading))
    return "-" if score is None else score.shown()


def ablations(wanted: Comparison, found: Scores) -> Section:
    """The first system is what the others are ablations of, and of the systems those that are."""
    first, *others = wanted.systems
    ablated = [system for system in others if system.group == ABLATIONS or system.paper]
    tasks = list(dict.fromkeys(t.task for t in wanted.trials if t.system.group == ABLATIONS))
    rows = []
    for system in (first, *ablated):
        own = [_cell(found, system, task, TUNED) for task in tasks]
        rows.append([system.name, *own, *(system.paper.get(task, "-") for task in tasks)])
    text = (
        "What is left when a part goes, or another takes its place; the encoder is tuned. All had "
        "the same time, so that deeper ones made fewer steps; the papers gave all the same steps."
    )
    header = ["system", *tasks, *(f"{task}, in the paper" for task in tasks)]
    return Section("Ablations", [text], tables=[Table(header, rows)] if tasks else [])


def orderings(found: Sequence[Ordering]) -> Section:
    counts = Counter(ordering.verdict for ordering in found)
    verdicts = (HOLDS, NOISE, NOTHING, FAILS)
    text = (
        f"Of {len(found)} comparisons {counts[HOLDS]} hold, {counts[FAILS]} do not at this scale, "
        f"{counts[NOISE]} are within noise; in {counts[NOTHING]} neither side has learnt anything: "
        "all seeds of both gave every example the same answer. Noise is what the seeds of the task "
        f"(Student's t, {1 - CHANCE:.0%}) and the size of its dev set leave open, the latter as "
        "though each had been scored on examples of its own, which is more than it is; by chance "
        f"alone up to {CHANCE:.0%} of all would be told apart. What another seed of the "
        "pretraining would do is not in it."
    )
    claims = list(dict.fromkeys(ordering.claim for ordering in found))
    short = [[claim, *(_tasks(found, claim, verdict) for verdict in verdicts)] for claim in claims]
    full = [
        [o.claim, o.task, f"{100 * o.difference:+.1f}", f"{100 * o.noise:.1f}", o.verdict]
        for o in found
    ]
    tables = [
        Table(["claim", *verdicts], short),
        Table(["claim", "task", "difference of means", "noise of it", "verdict"], full),
    ]
    return Section("Which orderings hold", [text], tables=tables if found else [])


def _tasks(found: Sequence[Ordering], claim: str, verdict: str) -> str:
    tasks = [o.task for o in found if (o.claim, o.verdict) == (claim, verdict)]
    return ", ".join(tasks) or "-"


def mixes(found: Mapping[str, Mapping[str, Mix]]) -> Section:
    charts, rows = [], []
    for task, by_system in found.items():
        lines = []
        for name, mix in by_system.items():
            layers = list(zip(*mix.weights, strict=True))
            lines.append(Line(name, range(len(layers)), list(map(mean, layers)), points=True))
            shown = " ".join(f"{mean(of):.2f} ± {_deviation(of):.2f}" for of in layers)
            rows.append([task, name, shown, f"{mean(mix.gammas):.2f}"])
        caption = f"{task}: the softmax weights that the frozen encoders' mix has learnt"
        options = {"title": f"Layer mix, {task}", "x_label": "layer (0: words)", "from_zero": True}
        charts.append(Chart(f"mix-{task}.svg", lines, caption, options))
    text = "Means over the seeds, and standard deviations; gamma scales the mix as a whole."
    table = Table(["task", "system", "weights, the words first", "gamma"], rows)
    title = "What the tasks read of each layer"
    return Section(title, [text], charts=charts, tables=[table] if rows else [])


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def contexts(workdir: Path) -> Section:
    tables = []
    for word, by_system in read_json(workdir / CONTEXTS).items():
        if not by_system:
            continue
        one, again, other = next(iter(by_system.values()))["texts"]
        rows = [
            [
                name,
                f"{found['same']:.2f}",
                f"{found['other']:.2f}",
                *(", ".join(row["word"] for row in rows) for rows in found["neighbours"]),
            ]
            for name, found in by_system.items()
        ]
        header = [word, f"cosine with: {again}", f"with: {other}"]
        header += [f"nearest in: {text}" for text in (one, other)]
        tables.append(Table(header, rows))
    text = (
        "A word that means two things: how alike its vector in a first sentence is to that in "
        "another of the same meaning, and to that in one of the other meaning; and the words, of "
        "no common piece, whose vectors in their own sentences are nearest. word2vec has one "
        "vector for all three; an encoder that reads the sentence has three, of which a "
        "left-to-right one knows only what stands before. It tells the meanings apart where the "
        "first cosine is the larger."
    )
    return Section("One word, two meanings", [text], tables=tables)
