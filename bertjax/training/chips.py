"""Known accelerator chips: what they can do at most."""

from __future__ import annotations

from typing import Any, NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """A kind of chip.

    Attributes:
      kinds: how jax.Device.device_kind names it, or begins to.
      cores: TensorCores; JAX shows one device for all of them, or one for each.
      peak: FLOP/s of dense products in bfloat16 that are added up in float32.
      memory: bytes of its memory (HBM).
      usable: bytes of it that the compiler gives a program.
      bandwidth: bytes/s of the memory.
      clock: cycles/s of the unit that the compiler counts in; 0 where no compiler tells cycles.
      ring: bytes/s that a chip sends along one axis of its slice, both ways round.
      network: bytes/s that a chip has of its host's network to other slices.
    """

    kinds: tuple[str, ...]
    cores: int
    peak: float
    memory: float
    usable: float
    bandwidth: float
    clock: float = 0.0
    ring: float = 0.0
    network: float = 0.0


# TPUs: peak, memory and bandwidth as in cloud.google.com/tpu/docs/v2 to tpu7x; `usable` as libtpu
# 0.0.42 says when a program does not fit; clocks are the peak over the products in a cycle
# (2 x 128 x 128 x 4 a core of v4 and v5, 2 x 256 x 256 x 4 of v6e and 7x), which is also what
# libtpu's estimates of one large product come near to. ring: two links, as the same pages give the
# bandwidth of all four or six; network: a host's, shared out to its chips.
# GPUs: data sheets of their makers, the SXM boards, without sparsity.
CHIPS: dict[str, Chip] = {
    name: Chip(kinds, cores, peak, memory * GIB, usable * GIB, *rates)
    for name, kinds, cores, peak, memory, usable, *rates in (
        ("v2", ("TPU v2",), 2, 46e12, 16, 14.96, 700e9, 700e6, 125e9, 3.1e9),
        ("v3", ("TPU v3",), 2, 123e12, 32, 30.96, 900e9, 940e6, 160e9, 3.1e9),
        ("v4", ("TPU v4",), 2, 275e12, 32, 30.75, 1200e9, 1050e6, 100e9, 6.2e9),
        ("v5e", ("TPU v5 lite", "TPU v5e"), 1, 197e12, 16, 15.75, 819e9, 1500e6, 100e9, 3.1e9),
        ("v5p", ("TPU v5", "TPU v5p"), 2, 459e12, 95, 95.74, 2765e9, 1750e6, 200e9, 6.2e9),
        ("v6e", ("TPU v6 lite", "TPU v6e"), 1, 918e12, 32, 31.25, 1638e9, 1750e6, 200e9, 12.5e9),
        ("tpu7x", ("TPU7x",), 2, 2307e12, 192, 189.5, 7380e9, 2200e6, 200e9, 12.5e9),
        ("a100", ("NVIDIA A100",), 1, 312e12, 80, 80, 2039e9),
        ("h100", ("NVIDIA H100",), 1, 989e12, 80, 80, 3350e9),
        ("h200", ("NVIDIA H200",), 1, 989e12, 141, 141, 4800e9),
        ("b200", ("NVIDIA B200",), 1, 2250e12, 180, 180, 7700e9),
        ("l4", ("NVIDIA L4",), 1, 121e12, 24, 24, 300e9),
    )
}


def find(device_kind: str) -> tuple[str, Chip] | None:
    """The name and facts of the chip that a device belongs to, None for an unknown one.

    The longest matching kind wins: "TPU v5 lite" is no "TPU v5".
    """
    matches = [
        (len(kind), name)
        for name, chip in CHIPS.items()
        for kind in chip.kinds
        if device_kind.startswith(kind)
    ]
    if not matches:
        return None
    name = max(matches)[1]
    return name, CHIPS[name]


def share(device: Any) -> float:
    """Which part of a known chip a jax.Device is: a half where JAX shows both cores by themselves.

    Raises:
      KeyError: the chip is not known.
    """
    found = find(device.device_kind)
    if found is None:
        raise KeyError(device.device_kind)
    cores = found[1].cores
    return getattr(device, "num_cores", cores) / cores


def peak(device: Any) -> float | None:
    """FLOP/s that a jax.Device can do at most, None where its chip is not known."""
    found = find(device.device_kind)
    return None if found is None else found[1].peak * share(device)
