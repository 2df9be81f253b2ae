"""What a step takes is read off its compiled program: here one for eight CPU devices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from bertjax import partition, settings, shares
from bertjax.models import encoders
from bertjax.models.config import BertConfig
from bertjax.planner import estimate, hlo_cost, hlo_exchanges, hlo_text
from bertjax.planner.estimate import Estimate, Shapes
from bertjax.runs.state import init_state
from bertjax.training import program, schedules
from bertjax.training.chips import CHIPS, GIB

DEVICE = jax.devices()[0]


@pytest.fixture(scope="module")
def made(tiny_settings: Path, tiny_config: BertConfig) -> program.Program:
    small = dataclasses.replace(tiny_config, num_layers=1)
    return program.build(
        settings.load(str(tiny_settings), []),
        small,
        schedules.linear(1e-3, 2, 12),
        text=encoders.Text(True, lambda: np.ones(small.vocab_size)),
        words=None,
        expand=lambda batch: batch,
        mesh=None,
    )


@pytest.fixture(scope="module")
def shapes(tiny_batch: dict[str, np.ndarray]) -> Shapes:
    return {name: (value.shape, value.dtype) for name, value in tiny_batch.items()}


@pytest.fixture(scope="module")
def mesh() -> Any:
    return partition.make_mesh(data=2, fsdp=4)


@pytest.fixture(scope="module")
def found(made: program.Program, shapes: Shapes, mesh: Any, tmp_path_factory: Any) -> Any:
    """The estimate, and the folder that keeps it."""
    cache = tmp_path_factory.mktemp("plans")
    return estimate.estimate(made, shapes, mesh, cache), cache


def test_memory_is_what_the_born_state_and_a_batch_take_on_a_device(
    found: Any, made: program.Program, mesh: Any, tiny_batch: dict[str, np.ndarray]
) -> None:
    step, _ = found
    born = init_state(made.init, made.optimizer, mesh, seed=0)
    first = mesh.devices.flat[0]

    def held(tree: Any) -> int:
        return sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(tree)
            for shard in leaf.addressable_shards
            if shard.device == first
        )

    placed = shares.global_batch(tiny_batch, mesh)
    assert step.memory["parameters"] == held(born.params)
    assert step.memory["optimizer"] == held(born.opt_state)
    assert step.memory["batch"] == held(placed)
    assert step.memory["temporaries"] > 0
    assert step.used >= sum(step.memory[kind] for kind in ("parameters", "optimizer", "batch"))
    # Most of the parameters are shared out to four.
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(born.params))
    assert whole / 4 <= held(born.params) < whole / 3


def test_exchanges_sum_gradients_and_gather_parameters(found: Any) -> None:
    step, _ = found
    assert step.fits
    assert {"all-gather", "all-reduce"} <= step.exchanges.keys()
    assert all(number > 0 and size > 0 for number, size in step.exchanges.values())
    assert step.between_slices == 0


def test_what_was_compiled_once_is_read_again(
    found: Any,
    made: program.Program,
    shapes: Shapes,
    mesh: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, cache = found

    def refuse(*_: object) -> Estimate:
        raise AssertionError("compiled")

    monkeypatch.setattr(estimate, "_compiled", refuse)
    assert estimate.estimate(made, shapes, mesh, cache) == step
    # Another batch or mesh is another program.
    fewer = {name: ((16, *shape[1:]), dtype) for name, (shape, dtype) in shapes.items()}
    with pytest.raises(AssertionError, match="compiled"):
        estimate.estimate(made, fewer, mesh, cache)
    with pytest.raises(AssertionError, match="compiled"):
        estimate.estimate(made, shapes, partition.make_mesh(8), cache)
    # So it is with other flags of the compiler, and what was read in another way.
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="compiled"):
        patch.setenv("LIBTPU_INIT_ARGS", "--xla_some_flag=true")
        estimate.estimate(made, shapes, mesh, cache)
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="compiled"):
        changed = tmp_path / "hlo_cost.py"
        changed.write_text(Path(hlo_cost.__file__).read_text() + "# Changed.\n")
        patch.setattr(hlo_cost, "__file__", str(changed))
        estimate.estimate(made, shapes, mesh, cache)


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (194.37G) exceeds available HBM (15.75G).",
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 194.37G of "
        "15.75G hbm. Exceeded hbm capacity by 178.62G.",
    ],
)
def test_what_does_not_fit_is_no_error_but_a_number(message: str) -> None:
    def compile() -> None:
        raise jax.errors.JaxRuntimeError(message)

    step = estimate._compiled(SimpleNamespace(compile=compile), {"parameters": 1.0 * GIB}, DEVICE)
    assert not step.fits
    assert step.memory["temporaries"] == pytest.approx(194.37 * GIB)


def test_other_errors_of_the_compiler_are_errors() -> None:
    def compile() -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        estimate._compiled(SimpleNamespace(compile=compile), {}, DEVICE)


def test_time_is_cycles_and_the_bytes_that_are_waited_for() -> None:
    step = Estimate(True, {}, 0.0, cycles=1_500_000, waiting=1e8, between_slices=3.1e6)
    # A millisecond of v5e's 1.5 GHz, 100 MB at 100 GB/s, 3.1 MB at 25 Gbit/s.
    assert estimate.seconds(step, CHIPS["v5e"]) == pytest.approx(1e-3 + 1e-3 + 1e-3)


def test_what_slices_exchange_is_sent_through_hosts() -> None:
    text = """HloModule two_slices
ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %t = token[] after-all()
  %send = (f32[8,128]{1,0}, u32[], token[]) send(%a, %t), channel_id=4, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  ROOT %b = f32[8,128]{1,0} copy(%a)
}
"""
    assert hlo_exchanges.bytes_between_slices(hlo_text.parse(text)) == 8 * 128 * 4
