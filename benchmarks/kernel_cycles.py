"""The TPU kernels' cycles, counted in the schedules that the compiler makes of them.

    python benchmarks/kernel_cycles.py

The compiler gives its programs' instructions estimated cycles, but kernels none. What a kernel does
in a step of its loops lies there as bundles, one a cycle; how often the loops run follows from the
shapes. The table has them for each chip, beside what the kernels' names tell a plan. Waiting for
memory is not in them. Needs libtpu, and no TPU.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import contest
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax import programs
from bertjax.models import drop_add_norm, flash
from bertjax.models.kernels import LANES
from bertjax.models.reach import How
from bertjax.planner import topology

CHIPS = {"v4": "v4:1x1x1", "v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1"}
ROWS, HEADS, WIDTH = 32, 12, 768
# A line of a schedule: how many loops it lies in.
_BUNDLE = re.compile(r"^\s*(?:0x)?[0-9a-f]+\s+(?:L[HBE])?\s*:\s*(>*)\s", re.MULTILINE)
_KERNEL = re.compile(
    r"(attention|drop_add_norm)_(forward|backward)_of_(\d+)_cycles.*-final_bundles"
)


def trips(kernel: str, length: int) -> list[int]:
    """How often each loop of a kernel runs, the outermost first; a single turn is no loop."""
    if kernel == "attention":
        rows, groups = max(1, flash._ROWS // length), WIDTH // LANES
        together = min(groups, flash._UNROLLED // length)
        inner = [length // flash._BLOCK, groups // together]
    else:
        rows = max(1, drop_add_norm._TOKENS // length)
        inner = [length // drop_add_norm._TOGETHER]
    return [ROWS // rows, *(count for count in (rows, *inner) if count > 1)]


def cycles(schedule: str, kernel: str, length: int) -> int:
    """Of all rows: a loop's bundles as often as it runs."""
    bundles = collections.Counter(len(depth) for depth in _BUNDLE.findall(schedule))
    total, times = bundles[0], 1
    for depth, count in enumerate(trips(kernel, length), 1):
        times *= count
        total += times * bundles[depth]
    return total


def compile_kernels(topology_name: str, length: int) -> None:
    """Attention and norms, forward and backward, with a tenth dropped."""
    jax.config.update("jax_platforms", "cpu")
    devices = topology.devices(topology.parse(topology_name))[:1]
    mesh = Mesh(np.array(devices).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
    place = NamedSharding(mesh, PartitionSpec())

    def shaped(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    def both(qkv: Any, x: Any, vector: Any, sequences: Any, key: Any) -> Any:
        mixed = flash.attend([qkv], sequences, key, How(HEADS, rate=0.1))
        return mixed, drop_add_norm.drop_add_norm(x, x, vector, vector, key, 0.1, 1e-12)

    def run(*arguments: Any) -> Any:
        outputs, back = jax.vjp(lambda *three: both(*three, *arguments[3:]), *arguments[:3])
        return outputs, back(outputs)

    key = jax.eval_shape(lambda: jax.random.key(0))
    programs.jit(mesh, run).lower(
        shaped((ROWS, length, 3 * WIDTH), jnp.bfloat16),
        shaped((ROWS, length, WIDTH), jnp.bfloat16),
        shaped((WIDTH,), jnp.float32),
        shaped((ROWS, length), jnp.int32),
        shaped((), key.dtype),
    ).compile()


def schedules(chip: str, length: int) -> dict[tuple[str, str], tuple[int, int]]:
    """{(kernel, direction): (cycles counted, cycles that its name tells)}."""
    with tempfile.TemporaryDirectory() as folder:
        options = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        command = [sys.executable, __file__, f"--compile={CHIPS[chip]}", f"--length={length}"]
        environment = os.environ | {"LIBTPU_INIT_ARGS": options}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        found = {}
        for path in sorted(Path(folder).iterdir()):
            if match := _KERNEL.search(path.name):
                kernel, direction, told = match.groups()
                counted = cycles(path.read_text(encoding="utf-8"), kernel, length)
                found[kernel, direction] = counted, int(told)
    return found


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS))
    flags.add_argument("--length", type=int, help=argparse.SUPPRESS)
    flags.add_argument("--compile", help=argparse.SUPPRESS)
    options = flags.parse_args()
    if options.compile:
        compile_kernels(options.compile, options.length)
        return
    print("command: python " + " ".join(sys.argv))
    rows = []
    for chip in options.chips:
        for length in (128, 512):
            for (kernel, direction), (counted, told) in schedules(chip, length).items():
                rows.append(
                    {
                        "chip": chip,
                        "kernel, length": f"{kernel} {direction}, {length}",
                        "cycles counted": f"{counted:,}",
                        "told": f"{told:,}",
                        "told / counted": f"{told / counted:.2f}",
                    }
                )
    contest.print_table(rows)


if __name__ == "__main__":
    main()
