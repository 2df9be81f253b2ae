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
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA L4", "l4"),
    ],
)
def test_jax_names_of_devices_are_known(kind: str, name: str) -> None:
    found = chips.find(kind)
    assert found is not None
    assert found[0] == name


@pytest.mark.parametrize("kind", ["cpu", "TPU v9", "NVIDIA GeForce RTX 4090"])
def test_an_unknown_device_has_no_peak(kind: str) -> None:
    assert chips.peak(SimpleNamespace(device_kind=kind)) is None


def test_a_core_that_is_a_device_has_its_part_of_the_chip() -> None:
    """v3 shows both cores, v5p one device of two; a GPU tells no number of cores."""
    core = SimpleNamespace(device_kind="TPU v3", num_cores=1)
    whole = SimpleNamespace(device_kind="TPU v5", num_cores=2)
    gpu = SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    assert chips.peak(core) == 123e12 / 2
    assert chips.peak(whole) == 459e12
    assert chips.peak(gpu) == 989e12


def test_clocks_are_peaks_over_the_products_of_a_cycle() -> None:
    """Four units of 128 x 128 a core up to v5, as much as four of 256 x 256 from v6e on."""
    for name, products in {"v4": 4 * 128**2, "v5e": 4 * 128**2, "v5p": 4 * 128**2}.items():
        chip = chips.CHIPS[name]
        assert chip.cores * 2 * products * chip.clock == pytest.approx(chip.peak, rel=0.01)
    for name in ("v6e", "tpu7x"):
        chip = chips.CHIPS[name]
        assert chip.cores * 2 * 4 * 256**2 * chip.clock == pytest.approx(chip.peak, rel=0.01)
