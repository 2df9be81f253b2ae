"""Cycles of one run of a TPU program, by what they are for: the compiler's own estimates.

In the optimised text of a TPU program (`compiled.as_text()`) most instructions carry the compiler's
own "estimated_cycles". They are added up here, those of a loop's body as often as it runs. What it
has no estimate of (gathers, random bits) is taken for as long as its results need to be written to
memory and read again, if that is known; kernels for the cycles that they count themselves, or as
long as their arrays need where that is more.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bertjax.planner.hlo_text import (
    COLLECTIVES,
    Instruction,
    Program,
    array_bytes,
    inside,
    operands,
    trips,
)

# They only name, split or join what is already there, or stand for what they call.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "while", "call", "conditional"),
}
# The kind of a fusion is that of the first of these that it holds.
_KINDS = (
    ("product", ("convolution", "dot")),
    ("gather and scatter", ("gather", "scatter", "sort", "dynamic-gather")),
    ("random bits", ("rng-bit-generator", "rng-get-and-update-state")),
    ("reduction", ("reduce", "reduce-window")),
    ("layout", ("copy", "transpose", "reshape", "concatenate", "pad", "slice")),
)


class Cost(NamedTuple):
    """What an instruction takes that runs on the chip.

    Attributes:
      kind: "product", "elementwise", "layout", ..., a collective's name, or "custom call TARGET".
      source: the operation of the JAX program it comes from, as in "jit(step)/jvp(Model)/...".
      cycles: of one run, as the compiler estimates them; None: it does not, and nothing else does.
      runs: how often it runs in one step.
      bytes: size of its results.
    """

    name: str
    opcode: str
    kind: str
    source: str
    cycles: int | None
    runs: int
    bytes: float

    @property
    def total(self) -> int:
        return (self.cycles or 0) * self.runs


def scheduled(program: Program) -> Iterator[tuple[Instruction, int, str]]:
    """Every instruction that is started by itself (not inside a fusion): how often it runs, and in
    which computation.

    Of a conditional's branches the cheapest counts: the train step's only measures now and then.
    """
    waiting = [(program.entry, 1)]
    while waiting:
        name, runs = waiting.pop()
        for instruction in program.computations[name]:
            yield instruction, runs, name
            if instruction.opcode == "while":
                waiting += [(n, runs * trips(program, instruction)) for n in instruction.called()]
            elif instruction.opcode == "call":
                waiting += [(n, runs) for n in instruction.called()]
            elif instruction.opcode == "conditional":
                branches = [Program(program.computations, n) for n in instruction.called()]
                cheapest = min(branches, key=lambda branch: total_cycles(costs(branch)))
                waiting.append((cheapest.entry, runs))


def _in_memory(program: Program, computation: str, instruction: Instruction) -> float:
    """Bytes of its operands and results that lie in the chip's memory, not in the fast one."""
    named = {other.name: other for other in program.computations[computation]}

    def source(name: str) -> Instruction | None:
        found = named.get(name)
        while found is not None and found.opcode == "bitcast":
            found = named.get(operands(found)[0])
        return found

    given = {found for name in operands(instruction) if (found := source(name)) is not None}
    shapes = [each.shape for each in (*given, instruction)]
    return sum(array_bytes(re.sub(r"\w+\[[\d,]*\]\{[^}]*S\(1\)\}", "", shape)) for shape in shapes)


def _kind(program: Program, instruction: Instruction) -> str:
    opcodes = {member.opcode for member in inside(program, instruction)}
    if instruction.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
        return f"custom call {target[1]}" if target else "custom call"
    exchanges = [(name, (name, f"{name}-start")) for name in COLLECTIVES]
    # A product that passes on pieces of an exchange meanwhile is still a product.
    kinds = (_KINDS[0], *exchanges, *_KINDS[1:])
    return next((kind for kind, holds in kinds if opcodes & {*holds}), "elementwise")


def costs(program: Program, cycles_per_byte: float = 0.0, cores: int = 1) -> list[Cost]:
    """What the chip spends its time on, in no particular order.

    Copies between the chip's memories that run beside the computation have no cycles and are left
    out, as is everything that only names other arrays.

    Args:
      cycles_per_byte: of the chip's memory; 0: not known.
      cores: that share out the steps of a kernel, which counts the cycles of one.
    """
    found = []
    for instruction, runs, computation in scheduled(program):
        cycles = instruction.number("cycles")
        asynchronous = instruction.opcode.endswith(("-start", "-done"))
        if cycles is None and (asynchronous or instruction.opcode in _FREE):
            continue
        size, kind = array_bytes(instruction.shape), _kind(program, instruction)
        own = instruction.number("own_cycles")
        if cycles is None and own is not None:
            wait = _in_memory(program, computation, instruction) * cycles_per_byte
            cycles = max(own // cores, int(wait))
        # Exchanges take time by their links; the compiler's own calls only name what was copied.
        elif cycles is None and instruction.opcode != "custom-call" and kind not in COLLECTIVES:
            cycles = int(2 * size * cycles_per_byte) or None
        source = re.search(r'op_name="([^"]*)"', instruction.rest)
        named = source[1] if source else ""
        found.append(Cost(instruction.name, instruction.opcode, kind, named, cycles, runs, size))
    return found


def total_cycles(found: Iterable[Cost]) -> int:
    """Of one run of the program, as far as the compiler gave estimates."""
    return sum(cost.total for cost in found)


def cycles_by_kind(found: Iterable[Cost]) -> dict[str, int]:
    """{kind: cycles}, the largest first."""
    totals: collections.Counter[str] = collections.Counter()
    for cost in found:
        totals[cost.kind] += cost.total
    return {kind: cycles for kind, cycles in totals.most_common() if cycles}
