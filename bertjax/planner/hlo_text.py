"""Reads a TPU program as XLA prints it (`compiled.as_text()`): its computations, line by line."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

# Of the names that XLA prints; predicates take a byte, four-bit numbers half of one.
_BYTES = {"pred": 1.0, "s4": 0.5, "u4": 0.5, "bf16": 2.0, "f16": 2.0}
_ARRAY = re.compile(r"\b(pred|bf16|[fsuc]\d+)(?:e\dm\d\w*)?\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^  (?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_NUMBER = {
    name: re.compile(pattern)
    for name, pattern in {
        "cycles": r'"estimated_cycles":"(\d+)"',
        # What a kernel tells of itself, see models/kernels.py.
        "own_cycles": r'op_name="[^"]*_of_(\d+)_cycles[/"]',
        "trips": r'"known_trip_count":\{"n":"(\d+)"\}',
        "channel": r"channel_id=(\d+)",
        "constant": r"^(\d+)\)",
    }.items()
}
_CALLED = re.compile(
    r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}"
)
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Instruction(NamedTuple):
    """One line of the text, in its computation."""

    name: str
    shape: str
    opcode: str
    rest: str

    def number(self, which: str) -> int | None:
        found = _NUMBER[which].search(self.rest)
        return int(found[1]) if found else None

    def called(self) -> list[str]:
        names = []
        for single, several in _CALLED.findall(self.rest):
            names += [single] if single else [name.strip(" %") for name in several.split(",")]
        return names


class Program(NamedTuple):
    """A parsed module: computations by name, and the one that it starts with."""

    computations: dict[str, list[Instruction]]
    entry: str


def array_bytes(shape: str) -> float:
    """Bytes of all arrays in a printed shape, "(bf16[8,128]{1,0:T(8,128)}, s32[])" for example."""
    return sum(sizes(shape))


def sizes(shape: str) -> list[float]:
    """Bytes of every array in a printed shape."""
    found = []
    for kind, axes in _ARRAY.findall(shape):
        width = _BYTES.get(kind) or int(re.sub(r"\D", "", kind)) / 8
        found.append(width * math.prod(int(size) for size in axes.split(",") if size))
    return found


def parse(text: str) -> Program:
    """Reads `compiled.as_text()`.

    Raises:
      ValueError: there is no entry computation in it.
    """
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    entry = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            current.append(Instruction(*found.groups()))
    if not entry:
        raise ValueError("the text holds no ENTRY computation of an HLO module")
    return Program(computations, entry)


def trips(program: Program, loop: Instruction) -> int:
    """How often a loop runs: what its condition compares with; 1 if that is no constant."""
    known = loop.number("trips")
    if known is not None:
        return known
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    found = program.computations[condition[1]] if condition else []
    bounds = [i.number("constant") for i in found if i.opcode == "constant"]
    return max((bound for bound in bounds if bound is not None), default=1)


def operands(instruction: Instruction) -> list[str]:
    """The names of what it is given."""
    return re.findall(r"%([\w.\-]+)", instruction.rest.split("), ", 1)[0])


def inside(program: Program, instruction: Instruction) -> list[Instruction]:
    """The instruction, or what a fusion was made of."""
    if instruction.opcode not in ("fusion", "async-start"):
        return [instruction]
    return [
        inner
        for name in instruction.called()
        for member in program.computations.get(name, [])
        for inner in inside(program, member)
    ]
