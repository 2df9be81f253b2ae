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
_SLICES = re.compile(r"^(\d+)\s*x\s*(?=[a-z])")
# v2 to v5p and 7x count TensorCores in their names, v5e and v6e chips.
_COUNTS_CHIPS = ("v5e", "v6e")
_LARGEST = 256  # their chips in a slice
_THREE_AXES = ("v4", "v5p", "tpu7x")
_OTHER_NAMES = {"v5litepod": "v5e", "v5lite": "v5e", "v5": "v5p", "v7x": "tpu7x"}


# What libtpu would ask the metadata server of a TPU host for; and as no chip is touched, several
# processes may load it.
_NO_HOST = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


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
    found = _SLICES.match(wanted)
    slices = int(found[1]) if found else 1
    wanted = _SLICES.sub("", wanted)
    kind, _, size = wanted.replace(":", "-").partition("-")
    family = _OTHER_NAMES.get(kind, kind)
    if family not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", size) or slices < 1:
        raise UserError(
            f"--topology={name}: unknown; give a name like {_EXAMPLES} (of {', '.join(CHIPS)})"
        )
    if ":" in wanted:
        return Topology(name, family, tuple(int(part) for part in size.split("x")), slices)
    per_chip = 1 if family in _COUNTS_CHIPS else CHIPS[family].cores
    chips, odd = divmod(int(size), per_chip) if size.isdecimal() else (0, 1)
    if odd or chips < 1 or chips & (chips - 1):
        raise UserError(
            f"--topology={name}: the number is a power of two, and counts "
            f"{'chips' if per_chip == 1 else f'cores, {per_chip} a chip'}; or give the axes: "
            f"{family}:{'2x2x1' if family in _THREE_AXES else '2x2'}"
        )
    if family in _COUNTS_CHIPS and chips > _LARGEST:
        raise UserError(
            f"--topology={name}: a slice has at most {_LARGEST} chips; take several: "
            f"'{chips // _LARGEST}x {family}-{_LARGEST}'"
        )
    return Topology(name, family, _shape(chips, 3 if family in _THREE_AXES else 2), slices)


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
    if topology.family in ("v4", "v5p"):
        options["chip_config_name"] = "megacore"  # one device a chip, as on Cloud TPU
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
