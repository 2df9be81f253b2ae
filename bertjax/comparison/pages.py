"""The report of a comparison, as Markdown and as HTML, from the same chapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from bertjax.comparison import chapters, findings
from bertjax.comparison.chapters import Section
from bertjax.comparison.systems import Comparison
from bertjax.files.whole_file import write_whole
from bertjax.reporting import charts, page

_TITLE = "What each step to BERT bought"
_CHARTS = "charts"


def write(wanted: Comparison, workdir: Path, about: str) -> list[Path]:
    """Writes report.md with its charts beside it, and report.html; returns their paths.

    Args:
      about: how the comparison was run.
    """
    scores, mixes = findings.scores(wanted, workdir), findings.mixes(wanted, workdir)
    sections = [
        chapters.systems(wanted, workdir, about),
        chapters.pretraining(wanted, workdir),
        chapters.scores(wanted, scores),
        chapters.ablations(wanted, scores),
        chapters.orderings(findings.orderings(wanted, scores, mixes)),
        chapters.mixes(mixes),
        chapters.contexts(workdir),
        chapters.tasks(wanted),
    ]
    kept = [section for section in sections if section.tables or section.charts]
    paths = workdir / "report.md", workdir / "report.html"
    for path in paths:
        drawn = [_drawn(section, path, workdir / _CHARTS) for section in kept]
        subtitle = f"{workdir} · each system had about the same time to learn from the same text"
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
