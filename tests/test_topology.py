"""Names of TPU slices: Cloud TPU's, the compiler's, and several of them."""

from __future__ import annotations

import importlib.util

import pytest

from bertjax.errors import UserError
from bertjax.planner import topology
from bertjax.training.chips import CHIPS


@pytest.mark.parametrize(
    ("name", "family", "shape", "slices"),
    [
        ("v5e:4x4", "v5e", (4, 4), 1),
        ("v5e-16", "v5e", (4, 4), 1),
        ("v5litepod-16", "v5e", (4, 4), 1),
        ("v5e-1", "v5e", (1, 1), 1),
        ("v5e-256", "v5e", (16, 16), 1),
        ("v6e-8", "v6e", (2, 4), 1),
        # These count TensorCores, two a chip.
        ("v4-8", "v4", (2, 2, 1), 1),
        ("v4-32", "v4", (2, 2, 4), 1),
        ("v5p-128", "v5p", (4, 4, 4), 1),
        ("v5p-1024", "v5p", (8, 8, 8), 1),
        ("v3-8", "v3", (2, 2), 1),
        ("tpu7x-8", "tpu7x", (2, 2, 1), 1),
        ("v7x-8", "tpu7x", (2, 2, 1), 1),
        ("v5-8", "v5p", (2, 2, 1), 1),
        ("2x v5e-16", "v5e", (4, 4), 2),
        ("4xv6e:16x16", "v6e", (16, 16), 4),
    ],
)
def test_names_of_slices(name: str, family: str, shape: tuple[int, ...], slices: int) -> None:
    found = topology.parse(name)
    assert (found.family, found.shape, found.slices) == (family, shape, slices)


def test_every_chip_has_slices() -> None:
    assert topology.SLICES.keys() == CHIPS.keys()


@pytest.mark.parametrize("name", ["", "v9-8", "h100-8", "v5e", "v5e-", "v5e:4by4", "0x v5e-4"])
def test_unknown_names_are_answered_with_examples(name: str) -> None:
    with pytest.raises(UserError, match="unknown; give a name like v5e-16, v5e:4x4, v4-8"):
        topology.parse(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-12", "a power of two, and counts chips; or give the axes: v5e:2x2"),
        ("v4-12", "a power of two, and counts cores, 2 a chip; or give the axes: v4:2x2x1"),
        ("v4-1", "counts cores, 2 a chip"),
        ("v5e-1024", "at most 256 chips; take several: '4x v5e-256'"),
    ],
)
def test_numbers_that_no_slice_has_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        topology.parse(name)


def test_without_libtpu_one_line_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu.* is missing: pip install .\[tpu\]"):
        topology.devices(topology.parse("v5e-16"))


def test_an_error_of_libtpu_without_a_message_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topology, "_NO_HOST", {})  # left as it is for other tests
    monkeypatch.setattr(topology.topologies, "get_topology_desc", fails)
    with pytest.raises(UserError, match="--topology=v5e-16: NotImplementedError$"):
        topology.devices(topology.parse("v5e-16"))
