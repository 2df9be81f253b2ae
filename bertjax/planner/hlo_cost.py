"""Reads a TPU program as XLA prints it: the compiler's cycle estimates, and what chips exchange.

In the optimised text of a TPU program (`compiled.as_text()`) most instructions carry the compiler's
own "estimated_cycles". They are added up here, those of a loop's body as often as it runs. What it
has no estimate of (gathers, random bits) is taken for as long as its results need to be written to
memory and read again, if that is known; kernels for the cycles that they count themselves, or as
long as their arrays need where that is more.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Iterator
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


class Program(NamedTuple):
    """A parsed module: computations by name, and the one that it starts with."""

    computations: dict[str, list[Instruction]]
    entry: str


def array_bytes(shape: str) -> float:
    """Bytes of all arrays in a printed shape, "(bf16[8,128]{1,0:T(8,128)}, s32[])" for example."""
    return sum(_sizes(shape))


def _sizes(shape: str) -> list[float]:
    """Bytes of every array in a printed shape."""
    found = []
    for kind, sizes in _ARRAY.findall(shape):
        width = _BYTES.get(kind) or int(re.sub(r"\D", "", kind)) / 8
        found.append(width * math.prod(int(size) for size in sizes.split(",") if size))
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


def _trips(program: Program, loop: Instruction) -> int:
    """How often a loop runs: what its condition compares with; 1 if that is no constant."""
    known = loop.number("trips")
    if known is not None:
        return known
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    found = program.computations[condition[1]] if condition else []
    bounds = [i.number("constant") for i in found if i.opcode == "constant"]
    return max((bound for bound in bounds if bound is not None), default=1)


def _scheduled(program: Program) -> Iterator[tuple[Instruction, int, str]]:
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
                waiting += [(n, runs * _trips(program, instruction)) for n in instruction.called()]
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
            found = named.get(_operands(found)[0])
        return found

    given = {found for name in _operands(instruction) if (found := source(name)) is not None}
    shapes = [each.shape for each in (*given, instruction)]
    return sum(array_bytes(re.sub(r"\w+\[[\d,]*\]\{[^}]*S\(1\)\}", "", shape)) for shape in shapes)


def _operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction.rest.split("), ", 1)[0])


def _inside(program: Program, instruction: Instruction) -> list[Instruction]:
    """The instruction, or what a fusion was made of."""
    if instruction.opcode not in ("fusion", "async-start"):
        return [instruction]
    return [
        inner
        for name in instruction.called()
        for member in program.computations.get(name, [])
        for inner in _inside(program, member)
    ]


def _kind(program: Program, instruction: Instruction) -> str:
    opcodes = {member.opcode for member in _inside(program, instruction)}
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
    for instruction, runs, computation in _scheduled(program):
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


def bytes_between_slices(program: Program) -> float:
    """What a chip sends to other slices, through its host and the network of the data centre."""
    return sum(
        runs * array_bytes(instruction.shape.split("u32[]")[0])
        for instruction, runs, _ in _scheduled(program)
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
    sizes = _sizes(exchange.shape)
    if exchange.opcode in ("all-gather-start", "collective-permute-start"):
        number = len(_operands(exchange))
        sizes = sizes[number : 2 * number]
    return sum(sizes)


def _exchanges(
    program: Program, outer: Instruction, runs: int, shared: set[int]
) -> Iterator[tuple[str, Collective]]:
    """(what tells it from others, exchange) of those that an instruction takes part in.

    Pieces of one exchange have one channel. So have exchanges that a program wrote out itself:
    those channels are `shared`.
    """
    members = _inside(program, outer)
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
        for instruction, *_ in _scheduled(program)
        if instruction.opcode in COLLECTIVES
    )
    shared = {channel for channel, number in alone.items() if channel is not None and number > 1}
    for instruction, runs, _ in _scheduled(program):
        for key, exchange in _exchanges(program, instruction, runs, shared):
            found.setdefault(key, exchange)
    return list(found.values())
