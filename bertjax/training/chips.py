"""Known accelerator chips: what they can do at most."""

from __future__ import annotations

from typing import Any, NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """A kind of TPU chip.

    Attributes:
      kinds: how jax.Device.device_kind names it.
      cores: TensorCores; JAX shows one device for all of them, or one for each.
      peak: FLOP/s of dense products in bfloat16 that are added up in float32.
      usable: bytes of its memory (HBM) that the compiler gives a program.
      bandwidth: bytes/s of the memory.
      clock: cycles/s of the unit that the compiler counts in.
      ring: bytes/s that a chip sends along one axis of its slice, both ways round.
      network: bytes/s that a chip has of its host's network to other slices.
    """

    kinds: tuple[str, ...]
    cores: int
    peak: float
    usable: float
    bandwidth: float
    clock: float
    ring: float
    network: float


# Peak and bandwidth as in cloud.google.com/tpu/docs/v2 to tpu7x; `usable` as libtpu 0.0.42 says
# when a program does not fit; clocks are the peak over the products in a cycle (2 x 128 x 128 x 4 a
# core of v4 and v5, 2 x 256 x 256 x 4 of v6e and 7x), which is also what libtpu's estimates of one
# large product come near to. ring: two links, as the same pages give the bandwidth of all four or
# six; network: a host's, shared out to its chips.
CHIPS: dict[str, Chip] = {
    name: Chip(kinds, cores, peak, usable * GIB, *rates)
    for name, kinds, cores, peak, usable, *rates in (
        ("v2", ("TPU v2",), 2, 46e12, 14.96, 700e9, 700e6, 125e9, 3.1e9),
        ("v3", ("TPU v3",), 2, 123e12, 30.96, 900e9, 940e6, 160e9, 3.1e9),
        ("v4", ("TPU v4",), 2, 275e12, 30.75, 1200e9, 1050e6, 100e9, 6.2e9),
        ("v5e", ("TPU v5 lite", "TPU v5e"), 1, 197e12, 15.75, 819e9, 1500e6, 100e9, 3.1e9),
        ("v5p", ("TPU v5", "TPU v5p"), 2, 459e12, 95.74, 2765e9, 1750e6, 200e9, 6.2e9),
        ("v6e", ("TPU v6 lite", "TPU v6e"), 1, 918e12, 31.25, 1638e9, 1750e6, 200e9, 12.5e9),
        ("tpu7x", ("TPU7x",), 2, 2307e12, 189.5, 7380e9, 2200e6, 200e9, 12.5e9),
    )
}

# Their peaks by the whole name: boards of one chip differ, and parts of one (MIG) have longer
# names. Data sheets of their maker, bfloat16 without sparsity.
_GPU_PEAKS = {
    "NVIDIA A10": 125e12,
    "NVIDIA A30": 165e12,
    "NVIDIA A40": 149.7e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA B200": 2250e12,
}


def find(device_kind: str) -> Chip | None:
    """The TPU chip that a device belongs to, None for any other device."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)


def peak(device: Any) -> float | None:
    """FLOP/s that a jax.Device can do at most, None where its chip is not known."""
    chip = find(device.device_kind)
    if chip is None:
        return _GPU_PEAKS.get(device.device_kind)
    # A half where JAX shows both cores by themselves.
    return chip.peak * getattr(device, "num_cores", chip.cores) / chip.cores
