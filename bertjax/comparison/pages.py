"""The report of a comparison, as Markdown and as HTML, from the same sections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from bertjax.comparison import budget, contexts, findings
from bertjax.comparison.findings import Scores
from bertjax.comparison.systems import ABLATIONS, READINGS, SYSTEMS, Comparison, System
from bertjax.files.json_file import read_json
from bertjax.files.whole_file import write_whole
from bertjax.reporting import charts, page
from bertjax.reporting.charts import Line
from bertjax.runs import checkpoint, parameters
from bertjax.training import run_log

_TITLE = "What each step to BERT bought"
_CHARTS = "charts"


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


def write(wanted: Comparison, workdir: Path) -> list[Path]:
    """Writes report.md with its charts beside it, and report.html; returns their paths."""
    scores = findings.scores(wanted, workdir)
    sections = [
        _systems(wanted, workdir),
        _pretraining(wanted, workdir),
        _scores(wanted, scores),
        _ablations(wanted, scores),
        _orderings(wanted, scores),
        _mixes(wanted, workdir),
        _contexts(workdir),
    ]
    kept = [section for section in sections if section.tables or section.charts]
    paths = workdir / "report.md", workdir / "report.html"
    for path in paths:
        drawn = [_drawn(section, path, workdir / _CHARTS) for section in kept]
        subtitle = f"{workdir} · each system had the same time to learn from the same text"
        text = page.render(
            f"compare{path.suffix}.j2", title=_TITLE, subtitle=subtitle, sections=drawn
        )
        write_whole(path, text.encode())
    return list(paths)


def _drawn(section: Section, path: Path, folder: Path) -> dict[str, Any]:
    """A section with its charts as SVG within the page, or in files beside it."""
    inside = path.suffix == ".html"
    made = []
    for chart in section.charts:
        svg = charts.line_chart(chart.lines, own_file=not inside, **chart.options)
        if not inside:
            write_whole(folder / chart.file, svg.encode())
        file = f"{folder.name}/{chart.file}"
        # The only markup that is not the template's: our own, with our own names.
        made.append({"svg": Markup(svg), "file": file, "caption": chart.caption})
    return section._asdict() | {"charts": made}


# --- Chapters -------------------------------------------------------------------------------


def _run(system: System, workdir: Path) -> Path:
    return workdir / "pretrained" / system.name


def _systems(wanted: Comparison, workdir: Path) -> Section:
    measured = read_json(workdir / budget.STEPS)
    rows = []
    for system in wanted.systems:
        run = _run(system, workdir)
        params = sum(leaf.size for leaf in parameters.flat(checkpoint.load_params(run)).values())
        last = run_log.read_metrics(run)[-1]
        losses = [
            f"{name.removeprefix('eval_').removesuffix('_loss')} {value:.3f}"
            for name, value in last.items()
            if name.startswith("eval_") and name.endswith("_loss")
        ]
        steps, one = measured[system.name]["steps"], measured[system.name]["seconds_per_step"]
        row = [system.name, " ".join([system.config, *system.settings]), f"{params:,}"]
        rows.append([*row, f"{steps:,}", f"{steps * one / 60:.1f}", ", ".join(losses)])
    header = ["system", "config", "parameters", "steps", "minutes", "losses on held-out text, nats"]
    return Section("What was compared", [], tables=[Table(header, rows)])


def _pretraining(wanted: Comparison, workdir: Path) -> Section:
    measured = read_json(workdir / budget.STEPS)
    curves: dict[tuple[str, str], list[Line]] = {}
    for system in wanted.systems:
        rows = run_log.read_metrics(_run(system, workdir))
        one = measured[system.name]["seconds_per_step"] / 60
        for name in sorted({key for row in rows for key in row if _is_held_out_loss(key)}):
            known = [row for row in rows if name in row]
            line = Line(
                system.name,
                [row["step"] * one for row in known],
                [row[name] for row in known],
                points=True,
            )
            curves.setdefault((system.group, name), []).append(line)
    made = [
        Chart(
            f"{group}-{name}.svg",
            lines,
            f"{_words(name)}, nats, on text held out ({group})",
            {"title": f"{_words(name)}, {group}", "x_label": "minutes"},
        )
        for (group, name), lines in curves.items()
    ]
    text = "Losses over the time of training; those of different kinds cannot be compared."
    return Section("Pretraining", [text], charts=made)


def _is_held_out_loss(name: str) -> bool:
    return name.startswith("eval_") and name.endswith("_loss")


def _words(name: str) -> str:
    return name.removeprefix("eval_").replace("_", " ").capitalize()


def _scores(wanted: Comparison, scores: Scores) -> Section:
    tasks = list(dict.fromkeys(trial.task for trial in wanted.trials))
    metrics = {task: score.metric for (_, task, _), score in scores.items()}
    rows = []
    for system in wanted.systems:
        if system.group == SYSTEMS:
            for reading in (*READINGS, "vectors"):
                cells = [_cell(scores, system, task, reading) for task in tasks]
                if any(cell != "-" for cell in cells):
                    rows.append([system.name, reading, *cells])
            paper = [wanted.paper.get(task, {}).get(system.name, "-") for task in tasks]
            if any(cell != "-" for cell in paper):
                rows.append([system.name, "in the paper", *paper])
    header = ["system", "read as", *(f"{task}, {metrics[task]}" for task in tasks)]
    text = (
        "On dev, in percent: median and standard deviation over the seeds. The papers' figures are "
        "those of models that learnt from billions of words for days."
    )
    return Section("Scores", [text], tables=[Table(header, rows)])


def _cell(scores: Scores, system: System, task: str, reading: str) -> str:
    score = scores.get((system.name, task, reading))
    return "-" if score is None else score.shown()


def _ablations(wanted: Comparison, scores: Scores) -> Section:
    """The first system is what the others are ablations of."""
    ablations = [system for system in wanted.systems if system.group == ABLATIONS]
    tasks = list(dict.fromkeys(t.task for t in wanted.trials if t.system.group == ABLATIONS))
    rows = [
        [system.name, *(_cell(scores, system, task, "tuned") for task in tasks)]
        for system in (*wanted.systems[:1], *ablations)
    ]
    text = "What is left when a part goes, or another takes its place; the encoder is tuned."
    return Section("Ablations", [text], tables=[Table(["system", *tasks], rows)] if tasks else [])


def _orderings(wanted: Comparison, scores: Scores) -> Section:
    found = findings.orderings(wanted, scores)
    counts = Counter(ordering.verdict for ordering in found)
    rows = [
        [o.claim, o.task, f"{100 * o.difference:+.1f}", f"{100 * o.noise:.1f}", o.verdict]
        for o in found
    ]
    text = (
        f"Of {len(found)} claims {counts['holds']} hold, {counts['within noise']} are within the "
        f"noise of the seeds, {counts['does not hold']} do not hold at this scale."
    )
    header = ["claim", "task", "difference of medians", "noise of it", "verdict"]
    return Section("Which orderings hold", [text], tables=[Table(header, rows)] if rows else [])


def _mixes(wanted: Comparison, workdir: Path) -> Section:
    made = [
        Chart(
            f"mix-{task}.svg",
            [Line(name, range(len(w)), w, points=True) for name, w in by_system.items()],
            f"{task}: the softmax weights that the frozen encoders' mix has learnt",
            {"title": f"Layer mix, {task}", "x_label": "layer (0: words)", "from_zero": True},
        )
        for task, by_system in findings.mixes(wanted, workdir).items()
    ]
    return Section("What the tasks read of each layer", [], charts=made)


def _contexts(workdir: Path) -> Section:
    tables = []
    for word, by_system in read_json(workdir / contexts.FILE).items():
        first = next(iter(by_system.values()))
        rows = [
            [
                name,
                f"{found['similarity']:.2f}",
                *(", ".join(row["word"] for row in rows) for rows in found["neighbours"]),
            ]
            for name, found in by_system.items()
        ]
        header = [word, "cosine of the two", *(f"nearest in: {text}" for text in first["texts"])]
        tables.append(Table(header, rows))
    text = (
        "A word that means two things, in a sentence for each. word2vec has one vector for both; "
        "an encoder that reads the sentence has two."
    )
    return Section("One word, two meanings", [text], tables=tables)
