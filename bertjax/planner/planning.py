"""The plan of a run on a topology: which mesh, which batches, how long; and the largest batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from bertjax import partition, shares
from bertjax.models import flops
from bertjax.planner import estimate, topology
from bertjax.planner.estimate import Estimate
from bertjax.planner.planned_work import Work
from bertjax.planner.topology import Topology
from bertjax.training.phases import Phase


class Site(NamedTuple):
    """Where: a topology's devices in a mesh.

    Attributes:
      setting: what a run must be told to get this mesh; empty where it is the config's own.
    """

    topology: Topology
    mesh: Mesh
    setting: str


def site(wanted: Topology, work: Work, chosen_mesh: bool) -> Site:
    """The devices in the mesh of the config, or, if it leaves it open, in one that suits the model.

    Raises:
      UserError: no libtpu, an unknown topology, a mesh or batch that the chips do not divide.
    """
    devices = topology.devices(wanted)
    sizes, setting = work.config.mesh.to_dict(), ""
    if not chosen_mesh and (sizes["data"], sizes["fsdp"]) == (-1, 1):
        sizes["fsdp"] = suitable_fsdp(work, wanted, len(devices))
        setting = f"mesh.fsdp={sizes['fsdp']}" if sizes["fsdp"] > 1 else ""
    mesh = partition.make_mesh(**sizes, devices=devices)
    for phase in work.phases:
        shares.check_batch_size(phase.batch_size, mesh, work.config.train.get("microbatches", 1))
    return Site(wanted, mesh, setting)


def suitable_fsdp(work: Work, wanted: Topology, devices: int) -> int:
    """1, unless parameters, gradients and moments would take over a third of a device's memory."""
    one = work.build(None)
    state = jax.eval_shape(one.init, jax.random.key(0))
    size = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(state))
    memory = wanted.chip.usable * wanted.chips / devices
    inside, fsdp = devices // wanted.slices, 1
    while 4 * size / fsdp > memory / 3 and inside % (2 * fsdp) == 0:
        fsdp *= 2
    return fsdp


def rows(site: Site, work: Work, compiles: int, cache: Path | None) -> list[dict[str, Any]]:
    """One row of facts for each phase; see plan_report.table for what they are."""
    chip, mesh = site.topology.chip, site.mesh
    share = site.topology.chips / mesh.devices.size
    made = work.build(mesh)
    usable, found = chip.usable * share, []
    for phase in work.phases:

        def compiled(rows: int, phase: Phase = phase) -> Estimate:
            taken = estimate.estimate(made, work.shapes(phase, rows), mesh, cache)
            # The compiler looks at its temporaries alone; the state lies beside them.
            return dataclasses.replace(taken, fits=taken.fits and taken.used <= usable)

        step = compiled(phase.batch_size)
        per_rows = mesh.shape["data"] * mesh.shape["fsdp"]
        per_rows *= work.config.train.get("microbatches", 1) or 1
        largest = largest_batch(compiled, phase.batch_size, step, usable, per_rows, compiles - 1)
        facts = {
            "topology": site.topology.name,
            "chips": site.topology.chips,
            "mesh": " ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1),
            "setting": site.setting,
            "rows": phase.batch_size,
            "length": phase.records.manifest.max_seq_length,
            "fits": step.fits,
            "used": step.used / share,
            "usable": chip.usable,
            "memory": {kind: size / share for kind, size in step.memory.items()},
            "largest_batch": largest.rows,
            "largest_batch_compiled": largest.compiled and largest.sure,
            "largest_batch_fits": largest.compiled,
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
    if isinstance(work.encoder, flops.Counted):
        operations = flops.pretraining_step(
            work.encoder,
            phase.batch_size,
            manifest.max_seq_length,
            work.scored(phase),
            manifest.max_sequences,
        )
        facts["share_of_peak"] = operations / (chip.peak * chips * seconds)
    return facts


class Largest(NamedTuple):
    """The largest batch, as far as a few compiles can tell.

    Attributes:
      compiled: whether so many rows were compiled and fit; else it is where the line would lead.
      sure: whether no more than a tenth more would fit, as was seen or as the line says.
    """

    rows: int
    compiled: bool
    sure: bool


def largest_batch(
    compiled: Callable[[int], Estimate],
    rows: int,
    step: Estimate,
    usable: float,
    multiple: int,
    compiles: int,
) -> Largest:
    """Searches for the most rows that fit.

    Memory grows about evenly with the rows: the next try is where the line through what is known
    meets the chip's memory, or halfway between what fits and what does not where the line leads
    elsewhere. The search ends within a tenth, or when `compiles` are used up.
    """
    fixed = sum(step.memory.get(kind, 0.0) for kind in ("parameters", "optimizer", "program"))

    def line(rows: int, found: Estimate) -> int:
        return _rounded((usable - fixed) * rows / max(found.used - fixed, 1.0), multiple)

    good, bad = (rows, 0) if step.fits else (0, rows)
    guess, sure = line(rows, step), bad == multiple
    for _ in range(compiles):
        if sure:
            break
        tried = _next_try(guess, good, bad, multiple)
        found = compiled(tried)
        good, bad = (tried, bad) if found.fits else (good, tried)
        guess = line(tried, found)
        near = bad > 0 and (bad <= 1.1 * good or bad - good <= multiple)
        sure = near or (found.fits and guess < 1.1 * good)
    if sure:
        return Largest(good, True, True)
    if not compiles or not good:
        return Largest(max(guess, good), False, False)
    return Largest(good, True, False)


def _next_try(guess: int, good: int, bad: int, multiple: int) -> int:
    """More rows than fit, fewer than do not (0: not known); the guess, if it is such a number."""
    if not bad:
        return max(guess, good + multiple)
    if not good:
        return min(max(guess, multiple), bad - multiple)
    return guess if good < guess < bad else (good + bad) // 2 // multiple * multiple


def _rounded(rows: float, multiple: int) -> int:
    """Down to a multiple, of eight rows a device if there are so many."""
    step = 8 * multiple if rows >= 8 * multiple else multiple
    return int(rows // step) * step
