"""What chips exchange in one run of a TPU program: how much, how often, and whether meanwhile."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from bertjax.planner.hlo_cost import scheduled
from bertjax.planner.hlo_text import (
    COLLECTIVES,
    Instruction,
    Program,
    array_bytes,
    inside,
    operands,
    sizes,
)


class Collective(NamedTuple):
    """An exchange between chips.

    Attributes:
      opcode: one of COLLECTIVES.
      bytes: of the whole array: the result of gathering, what is summed up by reducing, what a chip
        hands to another in a permutation.
      chips: how many take part in each group.
      runs: how often in one step.
      overlapped: whether the program computes meanwhile.
    """

    opcode: str
    bytes: float
    chips: int
    runs: int
    overlapped: bool

    @property
    def bytes_sent(self) -> float:
        """By every chip in one run, in a ring; a permutation passes on all that it holds."""
        if self.opcode == "collective-permute":
            return self.bytes
        rounds = 2 if self.opcode == "all-reduce" else 1
        return rounds * self.bytes * (self.chips - 1) / max(self.chips, 1)


def bytes_between_slices(program: Program) -> float:
    """What a chip sends to other slices, through its host and the network of the data centre."""
    return sum(
        runs * array_bytes(instruction.shape.split("u32[]")[0])
        for instruction, runs, _ in scheduled(program)
        if instruction.opcode == "send" and "xla_megascale" in instruction.rest
    )


def _group_size(rest: str) -> int:
    """Chips in a group, of the three ways in which XLA prints replica_groups."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return found[1].count(",") + 1
    return 2 if "source_target_pairs" in rest else 1


def _result_bytes(exchange: Instruction) -> float:
    """Of the result alone: two kinds of start name (operands, results, ...) as their shape."""
    found = sizes(exchange.shape)
    if exchange.opcode in ("all-gather-start", "collective-permute-start"):
        number = len(operands(exchange))
        found = found[number : 2 * number]
    return sum(found)


def _exchanges(
    program: Program, outer: Instruction, runs: int, shared: set[int]
) -> Iterator[tuple[str, Collective]]:
    """(what tells it from others, exchange) of those that an instruction takes part in.

    Pieces of one exchange have one channel. So have exchanges that a program wrote out itself:
    those channels are `shared`.
    """
    members = inside(program, outer)
    pieces = any("AsyncCollective" in member.rest for member in members)
    for place, member in enumerate(members):
        opcode = member.opcode.removesuffix("-start")
        if opcode not in COLLECTIVES:
            continue
        chips, size = _group_size(member.rest), _result_bytes(member)
        if opcode == "reduce-scatter":
            size *= chips
        elif opcode == "all-reduce" and "dynamic-slice" in {m.opcode for m in members[place:]}:
            opcode = "reduce-scatter"
        channel = member.number("channel")
        yield (
            f"{member.name if channel in (None, *shared) else channel} {runs}",
            Collective(opcode, size, chips, runs, pieces or member.opcode.endswith("-start")),
        )


def collectives(program: Program) -> list[Collective]:
    """All exchanges of one run; one that several fusions carry on piece by piece counts once."""
    found: dict[str, Collective] = {}
    alone = collections.Counter(
        instruction.number("channel")
        for instruction, *_ in scheduled(program)
        if instruction.opcode in COLLECTIVES
    )
    shared = {channel for channel, number in alone.items() if channel is not None and number > 1}
    for instruction, runs, _ in scheduled(program):
        for key, exchange in _exchanges(program, instruction, runs, shared):
            found.setdefault(key, exchange)
    return list(found.values())
