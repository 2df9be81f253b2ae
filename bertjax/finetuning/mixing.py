"""The layer mix a task has learned: printed, and plotted as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from bertjax.files.json_file import write_json
from bertjax.files.whole_file import write_whole
from bertjax.reporting import charts

JSON, CHART = "layer_mix.json", "layer_mix.svg"


def write(run: Path, mix: Any, title: str) -> None:
    """Writes the weights softmax(s)_j and gamma of features.LayerMix, and prints them.

    Args:
      mix: its parameters {"scores": [L + 1], "gamma": scalar}; 0 are the embeddings.
    """
    weights = np.asarray(jax.nn.softmax(mix["scores"])).tolist()
    gamma = float(mix["gamma"])
    write_json(run / JSON, {"gamma": gamma, "weights": weights})
    line = charts.Line(f"gamma {gamma:.3f}", range(len(weights)), weights, points=True)
    chart = charts.line_chart(
        [line], title=title, x_label="layer (0: embeddings)", from_zero=True, own_file=True
    )
    write_whole(run / CHART, chart.encode())
    shown = " ".join(f"{weight:.3f}" for weight in weights)
    print(f"layer mix, embeddings first: {shown}; gamma {gamma:.3f} ({run / CHART})")
