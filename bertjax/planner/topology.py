"""TPU topologies by name, and their devices without the hardware: libtpu compiles for them."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

from jax.experimental import topologies

from bertjax.errors import UserError
from bertjax.training.chips import CHIPS, Chip

_EXAMPLES = "v5e-16, v5e:4x4, v4-8, v5p-128, v6e-16, '2x v5e-16'"
_TIMES = re.compile(r"^(\d+)\s*x\s*(?=[a-z])")

# What libtpu would ask the metadata server of a TPU host for; and as no chip is touched, several
# processes may load it.
_NO_HOST = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Slice(NamedTuple):
    """How the slices of a kind of chip are wired and named.

    Attributes:
      axes: along which its chips are connected.
      largest: its chips at most; None where libtpu is asked alone.
      megacore: the cores of a chip can be one device, as they are on Cloud TPU.
      aliases: other names of the chip in the names of slices.
    """

    axes: int
    largest: int | None = None
    megacore: bool = False
    aliases: tuple[str, ...] = ()


# By the keys of chips.CHIPS.
SLICES: dict[str, Slice] = {
    "v2": Slice(axes=2),
    "v3": Slice(axes=2),
    "v4": Slice(axes=3, megacore=True),
    "v5e": Slice(axes=2, largest=256, aliases=("v5litepod", "v5lite")),
    "v5p": Slice(axes=3, megacore=True, aliases=("v5",)),
    "v6e": Slice(axes=2, largest=256),
    "tpu7x": Slice(axes=3, aliases=("v7x",)),
}
_FAMILIES = {alias: name for name, row in SLICES.items() for alias in (name, *row.aliases)}


class Topology(NamedTuple):
    """A TPU slice, or several equal ones.

    Attributes:
      name: as it was given.
      family: a key of chips.CHIPS.
      shape: chips along the axes of one slice.
      slices: how many slices.
    """

    name: str
    family: str
    shape: tuple[int, ...]
    slices: int

    @property
    def chip(self) -> Chip:
        return CHIPS[self.family]

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices


def parse(name: str) -> Topology:
    """Reads "v5e:4x4", the names of Cloud TPU ("v5litepod-16", "v4-8"), and "2x v5e-16" of two.

    Raises:
      UserError: a name that is neither, or a number of chips that no slice has.
    """
    wanted = name.strip().lower()
    found = _TIMES.match(wanted)
    slices = int(found[1]) if found else 1
    wanted = _TIMES.sub("", wanted)
    kind, _, size = wanted.replace(":", "-").partition("-")
    family = _FAMILIES.get(kind)
    if family is None or not re.fullmatch(r"\d+(x\d+)*", size) or slices < 1:
        raise UserError(
            f"--topology={name}: unknown; give a name like {_EXAMPLES} (of {', '.join(SLICES)})"
        )
    if ":" in wanted:
        return Topology(name, family, tuple(int(part) for part in size.split("x")), slices)
    return Topology(name, family, _shape(_chips(name, family, size), SLICES[family].axes), slices)


def _chips(name: str, family: str, size: str) -> int:
    """Of a slice that is named by one number, which counts TensorCores.

    Raises:
      UserError: it is no power of two, or no slice has so many.
    """
    cores, (axes, largest, *_) = CHIPS[family].cores, SLICES[family]
    chips, odd = divmod(int(size), cores) if size.isdecimal() else (0, 1)
    if odd or chips < 1 or chips & (chips - 1):
        raise UserError(
            f"--topology={name}: the number is a power of two, and counts "
            f"{'chips' if cores == 1 else f'cores, {cores} a chip'}; or give the axes: "
            f"{family}:{'2x2x1' if axes == 3 else '2x2'}"
        )
    if largest and chips > largest:
        raise UserError(
            f"--topology={name}: a slice has at most {largest} chips; take several: "
            f"'{chips // largest}x {family}-{largest}'"
        )
    return chips


def _shape(chips: int, axes: int) -> tuple[int, ...]:
    """Of a power of two: axes as equal as can be, small ones first, but for 2x2x1."""
    doublings = chips.bit_length() - 1
    sizes = sorted(2 ** ((doublings + axis) // axes) for axis in range(axes))
    return tuple(sizes if sizes[0] > 1 else reversed(sizes))


def devices(topology: Topology) -> list[Any]:
    """The devices of a topology, for compiling alone.

    Raises:
      UserError: libtpu is not installed or held by another process, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, which compiles for TPUs anywhere, is missing: pip install .[tpu]")
    for variable, value in _NO_HOST.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {}
    if math.prod(topology.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if SLICES[topology.family].megacore:
        options["chip_config_name"] = "megacore"
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    axes = "x".join(str(size) for size in topology.shape)
    try:
        return topologies.get_topology_desc(f"{topology.family}:{axes}", "tpu", **options).devices
    except Exception as error:  # whatever libtpu says, of any type
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if "libtpu_lockfile" in str(error) or "already in use" in str(error):
            line = "another process uses libtpu; run one plan at a time"
        raise UserError(f"--topology={topology.name}: {line}") from error
