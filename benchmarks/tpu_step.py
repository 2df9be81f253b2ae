"""The pretraining step as the TPU compiler estimates it, beside transformers' Flax BERT.

    python benchmarks/tpu_step.py --flax_python=PYTHON

For v5e, one chip and 256: forward, backward, clipping and Adam, dropout 0.1, products in bfloat16.
Nothing is run: the compiler's cycles are added up, see bertjax/planner/hlo_cost.py. The batch of a
chip, of 256 rows of 128 or as many tokens, goes through it in parts of 8,192 tokens (of large here
4,096), whose activations stay in fast memory. --flax_python needs transformers 4 with its Flax
models, jax, flax, libtpu and what bertjax needs. --before names an older checkout of bertjax; its
kernels of attention, which tell no cycles, count as those of today do. Programs are kept in
--folder, and read again from there.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import contest

from bertjax.models import flash
from bertjax.models.config import SIZES
from bertjax.planner import estimate, hlo_cost, hlo_text
from bertjax.planner.estimate import Estimate
from bertjax.training.chips import CHIPS

CHIP = CHIPS["v5e"]
TOPOLOGIES = {1: "v5e:1x1", 256: "v5e:16x16"}
# Tokens that a chip works on at once; the others 8,192.
TOKENS = {"base": 8192, "large": 4096}
PEER_TOKENS = 8192
# (size, length, chips) where an older step does not fit with so many: parts that do.
BEFORE_PARTS = {("base", 512, 256): 8, ("large", 512, 1): 8, ("large", 512, 256): 16}
# Of 256 chips so many share out the parameters.
FSDP = 8
# Rows of 128 of a chip's batch: on one the paper's, on 256 that of You et al. 2020.
ROWS = 256
_ATTENTION = re.compile(r"attention_(for|back)ward|(for|back)ward_kernel|hqk|bhts|softmax")
FLAX, OURS, BEFORE, PACKED = "transformers, Flax", "bertjax", "bertjax before", "bertjax, packed"


class Case(NamedTuple):
    """One program: who, which model, how many tokens of it where."""

    side: str
    size: str
    length: int
    chips: int

    @property
    def rows(self) -> int:
        """Of the whole batch."""
        return self.chips * ROWS * 128 // self.length

    @property
    def parts(self) -> int:
        """That a chip takes its rows in."""
        if self.side == BEFORE and self[1:] in BEFORE_PARTS:
            return BEFORE_PARTS[self[1:]]
        ours = self.side in (OURS, PACKED)
        return ROWS * 128 // (TOKENS[self.size] if ours else PEER_TOKENS)

    @property
    def name(self) -> str:
        return f"{re.sub(r'[, ]+', '-', self.side)}-{self.size}-{self.length}-{self.chips}"


def kind(cost: hlo_cost.Cost) -> str:
    """What an instruction is for."""
    if cost.kind in hlo_text.COLLECTIVES:
        return "exchanges"
    if _ATTENTION.search(cost.source):
        return "attention"
    if cost.kind == "product":
        return "products"
    if cost.kind == "random bits":
        return "random bits"
    # What belongs to no derivative comes behind it.
    return "norms, GELU, losses, copies" if "jvp" in cost.source else "optimizer, the rest"


def worker(case: Case, text: Path, options: argparse.Namespace) -> contest.Result:
    """Compiles a case, unless its program lies there."""
    facts = text.with_suffix(".json")
    if not facts.exists():
        script = "peer_tpu_flax.py" if case.side == FLAX else "step_tpu.py"
        python = options.flax_python if case.side == FLAX else sys.executable
        command = [python, contest.HERE / script, f"--size={case.size}", f"--text={text}"]
        command += [f"--length={case.length}", f"--rows={case.rows}"]
        command += [f"--topology={TOPOLOGIES[case.chips]}"]
        command += [f"--microbatches={case.parts}"]
        if case.side != FLAX:
            command += [f"--fsdp={FSDP if case.chips > 1 else 1}"]
        if case.side == PACKED:
            command += [f"--packed={options.sequences}"]
        folders = [options.before] if case.side == BEFORE else []
        found = contest.run_worker(command, path=folders)
        facts.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(facts.read_text(encoding="utf-8"))


def read(case: Case, text: Path) -> tuple[Estimate, dict[str, int]]:
    """A program's estimate, and its cycles by what they are for."""
    with gzip.open(text, "rt", encoding="utf-8") as file:
        program = file.read()
    heads, rows = SIZES[case.size]["num_heads"], case.rows // case.chips // case.parts
    for backward, name in enumerate(("forward_kernel", "backward_kernel")):
        own = flash.cycles(backward, rows, case.length, heads)
        program = program.replace(f"/{name}/", f"/{name}_of_{own}_cycles/")
    rate = CHIP.clock / CHIP.bandwidth
    shares: collections.Counter[str] = collections.Counter()
    for cost in hlo_cost.costs(hlo_text.parse(program), rate):
        shares[kind(cost)] += cost.total
    return estimate.read(program, {}, 0.0, rate), dict(shares.most_common())


def row(case: Case, text: Path, operations: float, tokens: float, peer: float) -> dict[str, str]:
    """One line of the table.

    Args:
      operations: of our model's arithmetic on these rows, whatever the side does.
      tokens: real ones of the batch.
      peer: tokens a second and chip of transformers; 0: not known.
    """
    found, shares = read(case, text)
    seconds = estimate.seconds(found, CHIP)
    total = sum(shares.values())
    rate = tokens / case.chips / seconds
    return {
        "size, length, chips": f"{case.size}, {case.length}, {case.chips}",
        "side": case.side,
        "rows (parts)": f"{case.rows:,} ({case.parts})",
        "ms": f"{1000 * seconds:.1f}",
        "of peak": f"{operations / (CHIP.peak * case.chips * seconds):.1%}",
        "real tokens/s a chip": f"{rate:,.0f}",
        "times Flax": f"{rate / peer:.2f}" if peer else "-",
        "waits for links": f"{found.waiting / CHIP.ring / seconds:.1%}",
        "cycles": ", ".join(f"{name} {n / total:.1%}" for name, n in shares.items()),
    }


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument(
        "--flax_python", type=Path, help="interpreter with transformers' Flax models"
    )
    flags.add_argument("--before", type=Path, help="an older checkout of bertjax")
    flags.add_argument("--folder", type=Path, default=Path("runs/tpu_step"))
    flags.add_argument("--sizes", nargs="+", choices=TOKENS, default=list(TOKENS))
    flags.add_argument("--lengths", nargs="+", type=int, choices=(128, 512), default=[128, 512])
    flags.add_argument("--chips", nargs="+", type=int, choices=TOPOLOGIES, default=[1, 256])
    flags.add_argument("--sequences", type=int, default=8, help="of a packed row of 512")
    flags.add_argument("--filled", type=float, default=0.999, help="of a packed row")
    options = flags.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print("command: python " + " ".join(sys.argv))
    rows = []
    for size in options.sizes:
        for length in options.lengths:
            for chips in options.chips:
                rows += compare(size, length, chips, options)
    contest.print_table(rows)
    print("The compiler's estimates; nothing was run. Rows are full, packed ones as --filled says.")


def compare(
    size: str, length: int, chips: int, options: argparse.Namespace
) -> list[dict[str, str]]:
    """All sides of one model at one length on so many chips."""
    sides = [FLAX] * bool(chips == 1 and options.flax_python)
    sides += [BEFORE] * bool(options.before) + [OURS]
    sides += [PACKED] * (chips == 1 and (size, length) == ("base", 512))
    ours = Case(OURS, size, length, chips)
    texts = {}
    operations = 0.0
    for side in sides:
        case = Case(side, size, length, chips)
        texts[case] = options.folder / f"{case.name}.hlo.gz"
        facts = worker(case, texts[case], options)
        if case == ours:
            operations = facts["operations"] / ours.rows
    peer = 0.0
    lines = []
    for case, text in texts.items():
        tokens = case.rows * length * (options.filled if case.side == PACKED else 1.0)
        if case.side == FLAX:
            peer = tokens / estimate.seconds(read(case, text)[0], CHIP)
        lines.append(row(case, text, operations * case.rows, tokens, peer))
    return lines


if __name__ == "__main__":
    main()
