"""What chips can do: names as JAX tells them, cores that are devices of their own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bertjax.training import chips


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
    ],
)
def test_jax_names_of_devices_are_known(kind: str, name: str) -> None:
    assert chips.find(kind) == chips.CHIPS[name]


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        # Other boards of the same chip, and other chips whose names only begin alike.
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
    ],
)
def test_a_gpu_has_the_peak_of_its_board(kind: str, peak: float) -> None:
    assert chips.peak(SimpleNamespace(device_kind=kind)) == peak


@pytest.mark.parametrize(
    "kind",
    [
        *("cpu", "TPU v9", "TPU v4 lite", "NVIDIA GeForce RTX 4090"),
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",  # a seventh of one
    ],
)
def test_an_unknown_device_has_no_peak(kind: str) -> None:
    assert chips.peak(SimpleNamespace(device_kind=kind)) is None


def test_a_core_that_is_a_device_has_its_part_of_the_chip() -> None:
    """v3 shows both cores, v5p one device of two."""
    core = SimpleNamespace(device_kind="TPU v3", num_cores=1)
    whole = SimpleNamespace(device_kind="TPU v5", num_cores=2)
    assert chips.peak(core) == 123e12 / 2
    assert chips.peak(whole) == 459e12


def test_clocks_are_peaks_over_the_products_of_a_cycle() -> None:
    """Four units of 128 x 128 a core up to v5, as much as four of 256 x 256 from v6e on."""
    for name, products in {"v4": 4 * 128**2, "v5e": 4 * 128**2, "v5p": 4 * 128**2}.items():
        chip = chips.CHIPS[name]
        assert chip.cores * 2 * products * chip.clock == pytest.approx(chip.peak, rel=0.01)
    for name in ("v6e", "tpu7x"):
        chip = chips.CHIPS[name]
        assert chip.cores * 2 * 4 * 256**2 * chip.clock == pytest.approx(chip.peak, rel=0.01)
