"""A plan's rows as text: a few lines for each, and a table of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bertjax.training.chips import GIB

NOTE = (
    "Times are the compiler's estimates of each instruction, of kernels the cycles once counted in "
    "their schedules (v2, v3 and tpu7x: in those for v5e), and of exchanges that nothing runs "
    "beside their bytes over the chips' links; nothing was run."
)


def details(row: dict[str, Any]) -> str:
    """What one compiled step takes, in a few lines."""
    kinds = ", ".join(f"{kind} {size / GIB:.2f}" for kind, size in row["memory"].items())
    lines = [
        f"{row['topology']}: {row['chips']} chips, {row['mesh'] or 'one device'}, "
        f"{row['rows']:,} rows of {row['length']}",
        f"  memory of a chip: {row['used'] / GIB:.2f} of {row['usable'] / GIB:.2f} GiB ({kinds})",
    ]
    if row["setting"]:
        lines.append(f"  run it with {row['setting']}: without, a run takes another mesh")
    if not row["fits"]:
        return "\n".join([*lines, "  does not fit"])
    total = sum(row["cycles_by_kind"].values())
    kinds = ", ".join(f"{k} {n / total:.0%}" for k, n in list(row["cycles_by_kind"].items())[:5])
    lines.append(f"  cycles of a step: {row['cycles']:,} ({kinds})")
    sent = ", ".join(f"{n} {k} {size / 2**20:.1f}" for k, (n, size) in row["exchanges"].items())
    lines.append(
        f"  a chip sends, in MiB: {sent or 'nothing'}; waited for: "
        f"{row['sent_waiting'] / 2**20:.1f}; to other slices: "
        f"{row['sent_between_slices'] / 2**20:.1f}"
    )
    return "\n".join(lines)


def _largest_batch(row: dict[str, Any]) -> str:
    if row["largest_batch_compiled"]:
        return f"{row['largest_batch']:,}"
    return f"{'at least' if row['largest_batch_fits'] else 'about'} {row['largest_batch']:,}"


def table(found: list[dict[str, Any]]) -> str:
    """All rows as a Markdown table."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "topology": lambda r: r["topology"],
        "chips": lambda r: str(r["chips"]),
        "mesh": lambda r: r["mesh"] or "-",
        "rows x length": lambda r: f"{r['rows']:,} x {r['length']}",
        "fits": lambda r: "yes" if r["fits"] else "no",
        "GiB a chip": lambda r: f"{r['used'] / GIB:.1f} of {r['usable'] / GIB:.1f}",
        "largest batch": _largest_batch,
        "ms a step": lambda r: f"{1000 * r['seconds']:.1f}" if r["fits"] else "-",
        "tokens/s": lambda r: f"{r['tokens_per_second']:,.0f}" if r["fits"] else "-",
        "of peak": lambda r: f"{r['share_of_peak']:.1%}" if r.get("share_of_peak") else "-",
        "steps": lambda r: f"{r['steps']:,}" if r["fits"] else "-",
        "days": lambda r: f"{r['days']:.2f}" if r["fits"] else "-",
    }
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[show(row) for show in columns.values()] for row in found]
    text = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([*text, "", *_totals(found), NOTE])


def _totals(found: list[dict[str, Any]]) -> list[str]:
    """Of a run in several phases, a line for each topology on which all of them fit."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        runs.setdefault(row["topology"], []).append(row)
    return [
        f"{name}: {sum(row['steps'] for row in rows):,} steps in "
        f"{sum(row['days'] for row in rows):.2f} days in all"
        for name, rows in runs.items()
        if len(rows) > 1 and all(row["fits"] for row in rows)
    ]
