"""The plan of a run on a topology: which mesh, which batches, how long; and the largest batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax import estimate, inputs, partition, phases, program, topology
from bertjax.chips import GIB
from bertjax.data import input as data_input
from bertjax.data.manifest import Manifest
from bertjax.data.records import FEATURES
from bertjax.errors import UserError
from bertjax.estimate import Estimate, Shapes
from bertjax.models import encoders, flops
from bertjax.models.config import BertConfig, EncoderConfig
from bertjax.phases import Phase
from bertjax.program import Program
from bertjax.topology import Topology

NOTE = (
    "Times are the compiler's estimates of each instruction, and of exchanges that nothing runs "
    "beside their bytes over the chips' links; nothing was run."
)


class Work(NamedTuple):
    """What is to be trained: settings, encoder, and batches in phases.

    Attributes:
      build: platform -> the functions of the run.
      shapes: (phase, rows) -> what its batches are, as they are read.
    """

    config: ConfigDict
    encoder: EncoderConfig
    phases: list[Phase]
    build: Callable[[str], Program]
    shapes: Callable[[Phase, int], Shapes]


class Site(NamedTuple):
    """Where: a topology's devices in a mesh."""

    topology: Topology
    mesh: Mesh


def prepared(config: ConfigDict) -> Work:
    """The work on the records that the config names: what bertjax.pretrain compiles.

    Raises:
      UserError: whatever would hinder the run itself.
    """
    given = inputs.open_inputs(config)

    def shapes(phase: Phase, rows: int) -> Shapes:
        one = next(data_input.train_batches(phase.records, batch_size=1, seed=0))
        return {name: ((rows, *value.shape[1:]), value.dtype) for name, value in one.items()}

    def build(platform: str) -> Program:
        return inputs.build_program(config, given, platform)

    return Work(config, given.encoder, given.phases, build, shapes)


def imagined(config: ConfigDict, lengths: list[int], vocab_size: int) -> Work:
    """The work as if records were there: padded rows of 2018, 15 % of their tokens predicted.

    Args:
      lengths: of rows; two for two phases, split as train.long_share says.

    Raises:
      UserError: lengths that are none, settings that do not go together.
    """
    if not 1 <= len(lengths) <= 2 or min(lengths) < 8:
        raise UserError("--seq_length: give one length, or two for two phases, of 8 or more")
    name = config.get("encoder", "bert")
    encoder = encoders.from_settings(name, vocab_size, config.model.to_dict())
    opened: list[Any] = [
        SimpleNamespace(folder="records", manifest=_manifest(length, vocab_size))
        for length in lengths
    ]
    for records in opened:
        phases.check_length(records, encoder.max_positions)
    plan = phases.plan(config, opened[0], opened[1] if opened[1:] else None)
    schedule = phases.schedule(config, plan)

    def build(platform: str) -> Program:
        return program.build(
            config,
            encoder,
            schedule,
            labels=True,
            words=None,
            expand=lambda batch: batch,
            platform=platform,
        )

    return Work(config, encoder, plan, build, _padded_rows)


def _manifest(length: int, vocab_size: int) -> Manifest:
    return Manifest(
        max_seq_length=length,
        max_predictions_per_seq=math.ceil(0.15 * length),
        vocab_size=vocab_size,
        tokenizer={},
        settings={},
        corpus={},
        source={},
        padding_share=0.0,
        shards=(),
        bertjax_version="",
    )


def site(wanted: Topology, work: Work, chosen_mesh: bool) -> Site:
    """The devices in the mesh of the config, or in one that suits the model.

    Raises:
      UserError: no libtpu, an unknown topology, a mesh or batch that the chips do not divide.
    """
    devices = topology.devices(wanted)
    sizes = work.config.mesh.to_dict()
    if not chosen_mesh:
        sizes["fsdp"] = suitable_fsdp(work, wanted, len(devices))
    mesh = partition.make_mesh(**sizes, devices=devices)
    for phase in work.phases:
        partition.check_batch_size(phase.batch_size, mesh, work.config.train.microbatches)
    return Site(wanted, mesh)


def suitable_fsdp(work: Work, wanted: Topology, devices: int) -> int:
    """1, unless parameters, gradients and moments would take over a third of a device's memory."""
    one = work.build("tpu")
    state = jax.eval_shape(one.init, jax.random.key(0))
    size = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(state))
    memory = wanted.chip.usable * wanted.chips / devices
    inside, fsdp = devices // wanted.slices, 1
    while 4 * size / fsdp > memory / 3 and inside % (2 * fsdp) == 0:
        fsdp *= 2
    return fsdp


def _padded_rows(phase: Phase, rows: int) -> Shapes:
    """As records.parse gives them: int32 and float32."""
    manifest = phase.records.manifest
    sizes = {"T": manifest.max_seq_length, "P": manifest.max_predictions_per_seq, "1": 1}
    return {
        name: ((rows, sizes[size]), np.dtype("float32" if kind == "float32" else "int32"))
        for name, (size, kind) in FEATURES.items()
    }


def rows(site: Site, work: Work, compiles: int, cache: Path | None) -> list[dict[str, Any]]:
    """One row of facts for each phase; see table for what they are."""
    chip, mesh = site.topology.chip, site.mesh
    share = site.topology.chips / mesh.devices.size
    made = work.build(partition.platform(mesh))
    found = []
    for phase in work.phases:

        def compiled(rows: int, phase: Phase = phase) -> Estimate:
            return estimate.estimate(made, work.shapes(phase, rows), mesh, cache)

        step = compiled(phase.batch_size)
        usable = chip.usable * share
        per_rows = mesh.shape["data"] * mesh.shape["fsdp"] * work.config.train.microbatches
        largest, sure = largest_batch(
            compiled, phase.batch_size, step, usable, per_rows, compiles - 1
        )
        facts = {
            "topology": site.topology.name,
            "chips": site.topology.chips,
            "mesh": " ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1),
            "rows": phase.batch_size,
            "length": phase.records.manifest.max_seq_length,
            "fits": step.fits,
            "used": step.used / share,
            "usable": chip.usable,
            "memory": {kind: size / share for kind, size in step.memory.items()},
            "largest_batch": largest,
            "largest_batch_compiled": sure,
        }
        found.append(facts | (_speed(site, work, phase, step) if step.fits else {}))
    return found


def _speed(site: Site, work: Work, phase: Phase, step: Estimate) -> dict[str, Any]:
    chip, chips = site.topology.chip, site.topology.chips
    manifest = phase.records.manifest
    seconds = estimate.seconds(step, chip)
    facts = {
        "seconds": seconds,
        "cycles": step.cycles,
        "cycles_by_kind": step.by_kind,
        "exchanges": step.exchanges,
        "sent_waiting": step.waiting,
        "sent_between_slices": step.between_slices,
        # Real ones: padding is no token.
        "tokens_per_second": phase.batch_size
        * manifest.max_seq_length
        * (1 - manifest.padding_share)
        / seconds,
        "steps": phase.num_steps,
        "days": phase.num_steps * seconds / 86400,
    }
    if isinstance(work.encoder, BertConfig):
        operations = flops.pretraining_step(
            work.encoder,
            phase.batch_size,
            manifest.max_seq_length,
            manifest.max_predictions_per_seq,
            manifest.max_sequences,
        )
        facts["share_of_peak"] = operations / (chip.peak * chips * seconds)
    return facts


def largest_batch(
    compiled: Callable[[int], Estimate],
    rows: int,
    step: Estimate,
    usable: float,
    multiple: int,
    compiles: int,
) -> tuple[int, bool]:
    """The most rows that fit, as far as a few compiles can tell; and whether they were compiled.

    Memory grows about evenly with the rows: the next try is where the line through what is known
    meets the chip's memory, and the search ends within a tenth, or when `compiles` are used up.
    """
    fixed = sum(step.memory.get(kind, 0.0) for kind in ("parameters", "optimizer", "program"))
    good, bad = (rows, 0) if step.fits else (0, rows)
    slope = max(step.used - fixed, 1.0) / rows
    guess = _rounded((usable - fixed) / slope, multiple)
    for _ in range(compiles):
        guess = max(guess, good + multiple) if not bad else min(guess, bad - multiple)
        if guess <= good or guess < multiple:
            break
        found = compiled(guess)
        if found.fits:
            good = guess
        else:
            bad = guess
        slope = max(found.used - fixed, 1.0) / guess
        next_guess = _rounded((usable - fixed) / slope, multiple)
        if found.fits and next_guess < 1.1 * guess:
            break
        guess = next_guess if next_guess != guess else _rounded(guess * 0.9, multiple)
    return (good, True) if compiles else (max(guess, good), False)


def _rounded(rows: float, multiple: int) -> int:
    """Down to a multiple, of eight rows a device if there are so many."""
    step = 8 * multiple if rows >= 8 * multiple else multiple
    return int(rows // step) * step


def details(row: dict[str, Any]) -> str:
    """What one compiled step takes, in a few lines."""
    kinds = ", ".join(f"{kind} {size / GIB:.2f}" for kind, size in row["memory"].items())
    lines = [
        f"{row['topology']}: {row['chips']} chips, {row['mesh'] or 'one device'}, "
        f"{row['rows']:,} rows of {row['length']}",
        f"  memory of a chip: {row['used'] / GIB:.2f} of {row['usable'] / GIB:.2f} GiB ({kinds})",
    ]
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


def table(found: list[dict[str, Any]]) -> str:
    """All rows as a Markdown table."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "topology": lambda r: r["topology"],
        "chips": lambda r: str(r["chips"]),
        "mesh": lambda r: r["mesh"] or "-",
        "rows x length": lambda r: f"{r['rows']:,} x {r['length']}",
        "fits": lambda r: "yes" if r["fits"] else "no",
        "GiB a chip": lambda r: f"{r['used'] / GIB:.1f} of {r['usable'] / GIB:.1f}",
        "largest batch": lambda r: (
            f"{'' if r['largest_batch_compiled'] else 'about '}{r['largest_batch']:,}"
        ),
        "ms a step": lambda r: f"{1000 * r['seconds']:.1f}" if r["fits"] else "-",
        "tokens/s": lambda r: f"{r['tokens_per_second']:,.0f}" if r["fits"] else "-",
        "of peak": lambda r: f"{r['share_of_peak']:.1%}" if r.get("share_of_peak") else "-",
        "steps": lambda r: f"{r['steps']:,}" if r["fits"] else "-",
        "days": lambda r: f"{r['days']:.2f}" if r["fits"] else "-",
    }
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[show(row) for show in columns.values()] for row in found]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in lines), "", NOTE])
