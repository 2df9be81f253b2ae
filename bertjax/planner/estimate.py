"""What a compiled train step takes of its chips: memory by kind, time, exchanges, as estimated.

All of it is read off the compiled program; nothing runs. The times are the compiler's estimates of
each instruction (see hlo_cost), and for exchanges that nothing runs beside the time of their bytes.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
import os
import re
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bertjax import shares
from bertjax.files.json_file import read_json, write_json
from bertjax.planner import hlo_cost, hlo_exchanges, hlo_text
from bertjax.runs.state import abstract_state
from bertjax.training import chips
from bertjax.training.program import Program

Shapes = dict[str, tuple[tuple[int, ...], Any]]
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TOO_LARGE = (
    re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"),
    re.compile(r"temporaries \(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"),
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one step with one batch, on every chip.

    Attributes:
      fits: False: the compiler refused, and the rest but for memory is empty. It looks at its
        temporaries alone, so `used` must be compared with what a chip has, too.
      memory: bytes by kind: "parameters", "optimizer", "batch", "temporaries", "program".
      used: bytes of all kinds.
      cycles: the compiler's count; by_kind shares it out.
      exchanges: {kind: [number, bytes that a chip sends]} in a step.
      waiting: bytes that a chip sends while it computes nothing.
      between_slices: bytes that a chip sends to other slices.
    """

    fits: bool
    memory: dict[str, float]
    used: float
    cycles: int = 0
    by_kind: dict[str, int] = dataclasses.field(default_factory=dict)
    exchanges: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    waiting: float = 0.0
    between_slices: float = 0.0


def per_chip_bytes(tree: Any) -> float:
    """Bytes of a device's part of a tree of arrays, or of their shapes with shardings."""
    parts = (
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )
    return float(sum(parts))


def estimate(program: Program, batch: Shapes, mesh: Mesh, cache: Path | None = None) -> Estimate:
    """Compiles the train step for a mesh and reads what it takes.

    Args:
      batch: {feature: (shape of the global batch, dtype)}.
      cache: a folder of estimates; what was compiled once is read from it.
    """
    state = abstract_state(program.init, program.optimizer, mesh)
    rows = shares.batch_sharding(mesh)
    inputs = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
        for name, (shape, dtype) in batch.items()
    }
    step: Any = program.train_step  # a jitted function is more than a callable
    lowered = step.lower(state, inputs)
    path = None if cache is None else cache / f"{_fingerprint(lowered, mesh)}.json"
    if path is not None and path.is_file():
        return Estimate(**read_json(path))
    memory = {
        "parameters": per_chip_bytes(state.params),
        "optimizer": per_chip_bytes(state.opt_state),
        "batch": per_chip_bytes(inputs),
    }
    found = _compiled(lowered, memory, mesh.devices.flat[0])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(found))
    return found


def _fingerprint(lowered: Any, mesh: Mesh) -> str:
    """Tells programs apart: their text, the devices, who compiles and who reads the cost."""
    first = mesh.devices.flat[0]
    places = [str(device) for device in mesh.devices.flat]
    facts = [lowered.as_text(), first.device_kind, places, mesh.shape, jax.__version__]
    facts += [os.environ.get("LIBTPU_INIT_ARGS", "")]
    readers = (hlo_text, hlo_cost, hlo_exchanges, chips)
    sources = (__file__, *(str(reader.__file__) for reader in readers))
    facts += [Path(source).read_text(encoding="utf-8") for source in sources]
    facts += [first.client.platform_version if hasattr(first.client, "platform_version") else ""]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def _compiled(lowered: Any, memory: dict[str, float], device: Any) -> Estimate:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _refused(str(error))
        if needed is None:
            raise
        return Estimate(False, {**memory, "temporaries": needed}, sum(memory.values()) + needed)
    found = compiled.memory_analysis()
    used = (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
        + found.generated_code_size_in_bytes
    )
    memory = {
        **memory,
        "temporaries": float(found.temp_size_in_bytes),
        "program": float(found.generated_code_size_in_bytes),
    }
    chip = chips.find(device.device_kind)
    rate = chip.clock / chip.bandwidth if chip is not None else 0.0
    cores = getattr(device, "num_cores", 1)
    return read(compiled.as_text(), memory, float(used), rate, cores)


def _refused(message: str) -> float | None:
    """Bytes of temporaries that the compiler found too many; None for any other error."""
    for pattern in _TOO_LARGE:
        if found := pattern.search(message):
            return float(found[1]) * _UNITS[found[2]]
    return None


def read(
    text: str, memory: dict[str, float], used: float, cycles_per_byte: float, cores: int = 1
) -> Estimate:
    """Of a compiled program's text; memory and used as in Estimate.

    Args:
      cycles_per_byte, cores: see hlo_cost.costs.
    """
    program = hlo_text.parse(text)
    costs = hlo_cost.costs(program, cycles_per_byte, cores)
    number, sent = collections.Counter[str](), collections.defaultdict[str, float](float)
    waiting = 0.0
    for exchange in hlo_exchanges.collectives(program):
        number[exchange.opcode] += exchange.runs
        sent[exchange.opcode] += exchange.bytes_sent * exchange.runs
        if not exchange.overlapped:
            waiting += exchange.bytes_sent * exchange.runs
    return Estimate(
        fits=True,
        memory=memory,
        used=used,
        cycles=hlo_cost.total_cycles(costs),
        by_kind=hlo_cost.cycles_by_kind(costs),
        exchanges={kind: [number[kind], sent[kind]] for kind in sorted(number)},
        waiting=waiting,
        between_slices=hlo_exchanges.bytes_between_slices(program),
    )


def seconds(found: Estimate, chip: chips.Chip) -> float:
    """Of one step: cycles, then the exchanges that are waited for, by their bytes."""
    return (
        found.cycles / chip.clock + found.waiting / chip.ring + found.between_slices / chip.network
    )
