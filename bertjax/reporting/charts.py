"""Draws line charts as SVG to stand in a page: they follow its colours and need nothing else."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot  # noqa: E402

# Drawn in a colour that no line has, then replaced by the text colour of the page.
_INK = "#010203"
_COLORS = ("#2f7fd1", "#d98324", "#3a9d6e", "#a05fb5", "#c2455e", "#7a8793", "#8f7a2e", "#1fa0a8")
# What belongs to a file of its own and not into a page: prologue, metadata, namespaces, and the
# names of groups, which are the same in every chart and which nothing refers to.
_FILE_ONLY = re.compile(
    r'<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>| xmlns\S*="[^"]*"|(?<=<g) id="[^"]*"',
    re.S,
)


class Line(NamedTuple):
    """One curve: its name in the legend, x and y values; `points` shows each as a dot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    points: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str = "step",
    level: tuple[str, float] | None = None,
    percent: bool = False,
    from_zero: bool = False,
    own_file: bool = False,
) -> str:
    """An <svg> element with the curves and, if given, a dashed level with its name.

    Args:
      percent: y values are shares from 0 to 1, shown as percentages.
      from_zero: the y axis begins at 0.
      own_file: with the prologue and the names that a file needs and a page must not have.
    """
    with matplotlib.rc_context():
        # Text stays text; the same chart has the same ids, another chart others.
        matplotlib.rc("svg", fonttype="none", hashsalt=title)
        matplotlib.rc("font", family="sans-serif", size=10)
        matplotlib.rc("text", color=_INK)
        matplotlib.rc("xtick", color=_INK)
        matplotlib.rc("ytick", color=_INK)
        matplotlib.rc("axes", edgecolor=_INK, labelcolor=_INK)
        figure, axes = pyplot.subplots(figsize=(5.2, 3.0), layout="constrained")
        for number, line in enumerate(lines):
            # Beyond the colours they come again, dashed.
            color = _COLORS[number % len(_COLORS)]
            style = ("o" if line.points else "") + ("-" if number < len(_COLORS) else "--")
            axes.plot(line.x, line.y, style, color=color, label=line.name, markersize=4)
        if level:
            name, height = level
            axes.axhline(height, color=_INK, linestyle="--", linewidth=1, label=name)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_xlabel(x_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=_INK, alpha=0.12)
        axes.yaxis.set_major_formatter("{x:.0%}" if percent else "{x:,g}")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.legend(frameon=False, fontsize=9)
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True)
        pyplot.close(figure)
    drawn = target.getvalue().replace(_INK, "currentColor")
    return drawn if own_file else _FILE_ONLY.sub("", drawn).strip()
