"""Plans: what is compiled, the search for the largest batch, and the tables that are printed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from bertjax import plan, settings
from bertjax.data import input as data_input
from bertjax.data.records import Records
from bertjax.errors import UserError
from bertjax.models import flops
from bertjax.planner import estimate, plan_report, planned_work, planning, topology
from bertjax.planner.estimate import Estimate
from bertjax.training.chips import GIB

Command = Callable[..., int]
# A step of BERT-tiny, 1,024 rows of 128 on v5e-16, as libtpu 0.0.42 compiled it.
STORED = Estimate(
    fits=True,
    memory={
        "parameters": 0.02 * GIB,
        "optimizer": 0.03 * GIB,
        "batch": 0.001 * GIB,
        "temporaries": 0.58 * GIB,
        "program": 0.03 * GIB,
    },
    used=0.661 * GIB,
    cycles=7_919_822,
    by_kind={"reduction": 3_088_730, "product": 2_138_351, "elementwise": 1_346_369},
    exchanges={"all-reduce": [4, 43.8 * 2**20]},
    waiting=43.8 * 2**20,
)


def linear_memory(rows: int, fixed: float = 2.0, each: float = 0.01, limit: float = 12) -> Estimate:
    """GiB that grow with the rows, as a compiler would report them."""
    used = (fixed + each * rows) * GIB
    memory = {"parameters": fixed * GIB, "temporaries": each * rows * GIB}
    return Estimate(used <= limit * GIB, memory, used)


@pytest.mark.parametrize("rows", [16, 256, 1000, 4096])
def test_the_largest_batch_is_found_in_few_compiles(rows: int) -> None:
    """1,000 rows fit, whether the first try was far below or above."""
    tried: list[int] = []

    def compiled(rows: int) -> Estimate:
        tried.append(rows)
        return linear_memory(rows)

    largest, *sure = planning.largest_batch(
        compiled, rows, linear_memory(rows), 12 * GIB, multiple=8, compiles=2
    )
    assert sure == [True, True]
    assert 900 < largest <= 1000
    assert largest % 8 == 0
    assert len(tried) <= 2


def test_without_compiles_the_largest_batch_is_a_guess() -> None:
    found = planning.largest_batch(linear_memory, 256, linear_memory(256), 12 * GIB, 8, 0)
    assert found == (960, False, False)


def test_the_search_believes_the_compiler_and_not_the_line() -> None:
    """Memory that jumps: what was seen to fit is reported, not what should."""

    def compiled(rows: int) -> Estimate:
        return linear_memory(rows) if rows <= 500 else linear_memory(rows, fixed=100.0)

    largest = planning.largest_batch(compiled, 256, compiled(256), 12 * GIB, 8, 2)
    # 608 rows did not fit, nearly twice as many.
    assert largest == (256, True, False)
    largest, *sure = planning.largest_batch(compiled, 256, compiled(256), 12 * GIB, 8, 6)
    assert sure == [True, True]
    assert 500 / 1.1 <= largest <= 500


def test_one_step_less_than_what_does_not_fit_is_the_largest() -> None:
    """Steps of 48 rows are more than a tenth: 48 fit, 96 do not."""

    def compiled(rows: int) -> Estimate:
        return linear_memory(rows, each=0.15)

    for rows in (48, 96):
        found = planning.largest_batch(compiled, rows, compiled(rows), 12 * GIB, 48, 1)
        assert found == (48, True, True)
    assert planning.largest_batch(compiled, 96, compiled(96), 12 * GIB, 96, 1) == (0, True, True)


def test_a_search_that_ran_out_says_so() -> None:
    """Memory that does not grow with the rows, as with microbatches that stay as they are."""

    def compiled(rows: int) -> Estimate:
        return linear_memory(256)

    largest = planning.largest_batch(compiled, 256, compiled(256), 12 * GIB, 8, 2)
    assert largest.compiled and not largest.sure
    row = {"largest_batch": 4096, "largest_batch_compiled": False, "largest_batch_fits": True}
    assert plan_report._largest_batch(row) == "at least 4,096"


def test_that_nothing_fits_is_sure_only_when_the_smallest_batch_was_tried() -> None:
    def compiled(rows: int) -> Estimate:
        return linear_memory(rows, fixed=13)

    def jumps(rows: int) -> Estimate:
        return linear_memory(rows) if rows == 4096 else compiled(rows)

    assert planning.largest_batch(compiled, 4096, compiled(4096), 12 * GIB, 8, 2) == (0, True, True)
    found = planning.largest_batch(jumps, 4096, jumps(4096), 12 * GIB, 8, 1)
    assert not found.compiled and not found.sure


@pytest.fixture()
def no_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topologies of the test's eight CPU devices, and the stored estimate of every program."""
    monkeypatch.setattr(topology, "devices", lambda wanted: jax.devices()[: wanted.chips])
    monkeypatch.setattr(estimate, "estimate", lambda *_: STORED)


def test_the_command_prints_facts_and_a_table(
    no_hardware: None, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config=configs/bert.py:tiny", "--topology", "v5e-8", "v6e-4"]
    assert command(plan, *flags, "--global_batch=1024", "--seq_length", 128, 512) == 0
    said = capsys.readouterr().out
    assert "v5e-8: 8 chips, data=8, 1,024 rows of 128" in said
    assert "(parameters 0.02, optimizer 0.03, batch 0.00, temporaries 0.58, program 0.03)" in said
    assert "4 all-reduce 43.8; waited for: 43.8" in said
    assert "Times are the compiler's estimates" in said
    lines = [line for line in said.splitlines() if line.startswith("| v")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    # Nine tenths of the million steps at 128, the others at 512 with as many tokens.
    assert [row[3] for row in cells] == ["1,024 x 128", "256 x 512"] * 2
    assert [row[10] for row in cells] == ["900,000", "100,000"] * 2
    # 7.9M cycles at 1.5 GHz, and 46 MB at 100 GB/s.
    assert [row[7] for row in cells[:2]] == ["5.7", "5.7"]
    assert cells[0][11] == f"{0.9e6 * 0.00574 / 86400:.2f}"
    both = sum(float(row[11]) for row in cells[:2])
    assert f"v5e-8: 1,000,000 steps in {both:.2f} days in all" in said
    assert "run it with" not in said


def test_a_recipe_of_two_phases_is_planned_in_both(
    no_hardware: None, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config=configs/lamb.py", "--topology=v5e-8", "train.microbatches=64"]
    assert command(plan, *flags, "--compiles=1", "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["rows"], row["length"], row["steps"]) for row in found] == [
        (65_536, 128, 7_038),
        (32_768, 512, 1_561),
    ]


def test_json_has_a_row_for_each_phase_and_topology(
    no_hardware: None, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config=configs/bert.py:tiny", "--topology=v5e-8", "--global_batch=1024", "--json"]
    assert command(plan, *flags, "mesh.fsdp=4", "train.steps=1000") == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["mesh"] == "data=2 fsdp=4"
    assert row["tokens_per_second"] == pytest.approx(1024 * 128 / row["seconds"])
    assert row["days"] == pytest.approx(1000 * row["seconds"] / 86400)
    assert sum(row["memory"].values()) == pytest.approx(row["used"])
    assert "compiler's estimates" in row["note"]


def test_records_that_are_there_are_planned_as_they_are_read(
    no_hardware: None,
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(estimate, "estimate", lambda *given: (seen.append(given), STORED)[1])
    flags = [f"--config={tiny_settings}", f"data.records={tiny_records}", "--topology=v5e-8"]
    assert command(plan, *flags, "--json", "--compiles=1") == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    records = Records(tiny_records)
    assert (row["rows"], row["length"], row["steps"]) == (16, 32, 12)
    real = 1 - records.manifest.padding_share
    assert row["tokens_per_second"] == pytest.approx(real * 16 * 32 / row["seconds"])
    # The very step that a run compiles takes such batches.
    program, shapes, *_ = seen[0]
    batch = next(data_input.train_batches(records, batch_size=16, seed=0))
    assert shapes == {name: (value.shape, value.dtype) for name, value in batch.items()}
    state = jax.eval_shape(lambda key: program.init(key), jax.random.key(0))
    assert state["encoder"]["embeddings"]["token"]["embedding"].shape[0] == (
        records.manifest.vocab_size
    )


def test_records_are_named_where_there_are_none_and_keep_their_vocabulary(
    no_hardware: None,
    command: Command,
    tiny_settings: Path,
    tiny_records: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [
        f"--config={tiny_settings}",
        "--topology=v5e-8",
        "--compiles=1",
        "model.max_positions=128",
    ]
    assert command(plan, *flags, "data.records=recrods", "--vocab_size=100") == 0
    told = capsys.readouterr().err
    assert "no records in data.records=recrods: rows of 128 are assumed" in told
    assert command(plan, *flags, f"data.records={tiny_records}", "--vocab_size=100") == 2
    assert f"--vocab_size=100: {tiny_records} has its own" in capsys.readouterr().err


def test_batches_that_grow_are_planned_each(no_hardware: None, tiny_settings: Path) -> None:
    config = settings.load(str(tiny_settings), ["train.batch_growth=((6, 32),)"])
    work = planned_work.imagined(config, [32], 100)
    site = planning.site(topology.parse("v5e-8"), work, chosen_mesh=True)
    found = planning.rows(site, work, 1, None)
    assert [(row["rows"], row["steps"]) for row in found] == [(16, 6), (32, 6)]


@pytest.mark.parametrize(
    ("spec", "overrides", "scored"),
    [
        ("bert.py:tiny", [], 5),
        ("bert.py:tiny", ["data.masked_lm_prob=0.3"], 10),
        ("left_to_right.py:tiny", [], 32),
    ],
)
def test_the_share_of_peak_counts_the_positions_that_are_named(
    no_hardware: None, spec: str, overrides: list[str], scored: int
) -> None:
    """15 % of a row, what the config masks, or all where the next token is named."""
    work = planned_work.imagined(settings.load(f"configs/{spec}", overrides), [32], 100)
    site = planning.site(topology.parse("v5e-8"), work, chosen_mesh=True)
    (row,) = planning.rows(site, work, 1, None)
    operations = flops.pretraining_step(work.encoder, row["rows"], 32, scored, 1)
    time = site.topology.chip.peak * site.topology.chips * row["seconds"]
    assert row["share_of_peak"] == pytest.approx(operations / time)


def test_state_and_temporaries_must_fit_together(
    no_hardware: None, tiny_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler takes temporaries of all the memory, as if there were no parameters."""
    config = settings.load(str(tiny_settings), ["train.batch_size=32"])
    work = planned_work.imagined(config, [32], 100)
    site = planning.site(topology.parse("v5e-8"), work, chosen_mesh=True)
    usable = site.topology.chip.usable

    def compiled(program: Any, batch: estimate.Shapes, *_: Any) -> Estimate:
        rows, _ = batch["input_ids"][0]
        return linear_memory(rows, fixed=1.0, each=usable / GIB / 32, limit=1e9)

    monkeypatch.setattr(estimate, "estimate", compiled)
    (row,) = planning.rows(site, work, 3, None)
    assert not row["fits"] and row["used"] > usable
    assert "does not fit" in plan_report.details(row)
    assert (row["largest_batch"], row["largest_batch_compiled"]) == (24, True)


def test_a_mesh_that_a_run_would_not_take_by_itself_is_said(
    no_hardware: None,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "suitable_fsdp", lambda *_: 4)
    flags = ["--config=configs/bert.py:tiny", "--topology=v5e-8", "--global_batch=1024"]
    assert command(plan, *flags, "--compiles=1") == 0
    said = capsys.readouterr().out
    assert "data=2 fsdp=4" in said and "run it with mesh.fsdp=4" in said
    assert command(plan, *flags, "--compiles=1", "mesh.fsdp=2") == 0
    said = capsys.readouterr().out
    assert "data=4 fsdp=2" in said and "run it with" not in said


def test_a_mesh_of_the_config_is_left_as_it_is(no_hardware: None, tiny_settings: Path) -> None:
    config = settings.load(str(tiny_settings), ["mesh.data=1", "mesh.fsdp=-1"])
    work = planned_work.imagined(config, [32], 100)
    site = planning.site(topology.parse("v5e-8"), work, chosen_mesh=False)
    assert (site.mesh.shape["fsdp"], site.setting) == (8, "")


def test_a_model_that_needs_it_is_shared_out_and_a_small_one_is_not() -> None:
    # Eight cores of 7.5 GiB; large takes 5 of them before its first activation.
    wanted = topology.parse("v2-8")
    for size, fsdp in {"tiny": 1, "large": 4}.items():
        config = settings.load(f"configs/bert.py:{size}", [])
        work = planned_work.imagined(config, [128], 30522)
        assert planning.suitable_fsdp(work, wanted, 8) == fsdp


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v9-8"], "--topology=v9-8: unknown; give a name like"),
        (["--topology=v5e-8", "--global_batch=1001"], "batch_size 1001 is not a multiple of 8"),
        (["--topology=v5e-8", "mesh.fsdp=3"], "needs 6 devices, there are 8"),
        (["--topology=v5e-8", "train.size=3"], "'train.size=3': no such setting"),
        (["--topology=v5e-8", "train.optimizer=sgd"], "train.optimizer=sgd: choose one of"),
        (["--topology=v5e-8", "--seq_length=1024"], "records of length 1024, the model has 512"),
        (["--topology=v5e-8", "--seq_length=4"], "--seq_length: give one length, or two"),
        (["--topology=v5e-8", "data.shapes=(32,)"], "data.shapes: a plan is of rows of one length"),
        (
            ["--topology=v5e-8", "--seq_length=128", "train.long_learning_rate=1e-4"],
            "--seq_length=128: the config has a second phase",
        ),
        (["--topology=v5e-8", "--compiles=0"], "--compiles=0: give 1 or more"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_compiled(
    flags: list[str],
    message: str,
    no_hardware: None,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estimate, "estimate", None)
    assert command(plan, "--config=configs/bert.py:tiny", *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    (line,) = [line for line in error.splitlines() if not line.startswith("no records")]
    assert line.startswith("error: ")


def test_two_phases_need_growing_lengths() -> None:
    config = settings.load("configs/bert.py:tiny", [])
    with pytest.raises(UserError, match="not longer than"):
        planned_work.imagined(config, [512, 128], 100)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_tpu_compiler_itself_is_asked(tiny_settings: Path, tmp_path: Path) -> None:
    """The whole command, in a process of its own: libtpu stays with the process that loads it."""
    flags = [f"--config={tiny_settings}", "--topology=v5e:2x2", "--compiles=1", "--json"]
    flags += ["--global_batch=64", "--seq_length=32", "--vocab_size=1024"]
    done = subprocess.run(
        [sys.executable, "-m", "bertjax.plan", *flags],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    if "another process uses libtpu" in done.stderr:
        pytest.skip("another process uses libtpu")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["chips"], row["mesh"], row["fits"]) == (4, "data=4", True)
    memory = row["memory"]
    assert sum(memory.values()) <= row["used"] < row["usable"]
    # Adam's two moments beside the parameters, of which every chip has all.
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=0.01)
    assert memory["program"] > 0
    assert row["cycles"] == sum(row["cycles_by_kind"].values()) > 0
    assert row["cycles_by_kind"]["product"] > 0
    # The chips add up their gradients, each of which is as large as its parameter.
    number, sent = row["exchanges"]["all-reduce"]
    assert number > 0 and sent > memory["parameters"]
    assert row["seconds"] > 0 and 0 < row["share_of_peak"] < 1
