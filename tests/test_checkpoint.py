"""A checkpoint is there in full or not at all, and gives back every bit of the state."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from bertjax import partition
from bertjax.errors import UserError
from bertjax.models.config import BertConfig
from bertjax.models.masked_lm import PretrainingModel
from bertjax.runs import checkpoint, run_folder, stored
from bertjax.runs.checkpoint import Checkpoints
from bertjax.runs.state import TrainState, abstract_state
from bertjax.training import optimizer, schedules

Init = Callable[[jax.Array], Any]
OPTIMIZER = optimizer.make_optimizer("adam2018", schedules.linear(1e-3, 2, 10))


def init_of(config: BertConfig) -> Init:
    def init(key: jax.Array) -> Any:
        ids = np.zeros((1, 8), np.int32)
        return PretrainingModel(config).init(key, ids, ids, ids, ids[:, :2])["params"]

    return init


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return partition.make_mesh(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope="module")
def config(tiny_config: BertConfig) -> BertConfig:
    return dataclasses.replace(tiny_config, num_layers=1)


@pytest.fixture(scope="module")
def state(config: BertConfig, mesh: Mesh) -> TrainState:
    """A state whose optimizer has something to remember: every leaf holds its own numbers."""
    shapes = abstract_state(init_of(config), OPTIMIZER, mesh)
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.normal(size=leaf.shape) if leaf.shape else rng.integers(1, 100)
        return jax.device_put(np.asarray(values, leaf.dtype), leaf.sharding)

    return jax.tree.map(fill, shapes)


def at(state: TrainState, step: int) -> TrainState:
    """The state as of another step, its parameters told apart by their pooler's bias."""
    params = jax.tree.map(lambda leaf: leaf, state.params)
    bias = params["encoder"]["pooler"]["bias"]
    params["encoder"]["pooler"]["bias"] = jnp.full_like(bias, step)
    return state.replace(step=jnp.asarray(step, jnp.int32), params=params)


def saved_step(params: Any) -> float:
    return float(params["encoder"]["pooler"]["bias"][0])


def steps_in(run: Path) -> list[int]:
    return sorted(int(name) for name in os.listdir(run / "checkpoints") if name.isdecimal())


def make_run(run: Path) -> Path:
    run_folder.save_config(run, {"kind": "test"})
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, state: TrainState) -> Path:
    """Five checkpoints saved with these scores, where only the last two and the best are kept."""
    run = make_run(tmp_path_factory.mktemp("run"))
    with Checkpoints(run, keep_last=2) as checkpoints:
        for step, score in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2), (5, None)):
            checkpoints.save(at(state, step), score)
    return run


def test_the_last_ones_and_the_best_are_kept(run: Path) -> None:
    assert steps_in(run) == [2, 4, 5]


def test_a_run_that_would_keep_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="keep_last=0: give at least 1"):
        checkpoint.Checkpoints(tmp_path, keep_last=0)


def test_newest_best_and_any_step_are_loaded(run: Path) -> None:
    assert saved_step(checkpoint.load_params(run)) == 5
    assert saved_step(checkpoint.load_params(run, best=True)) == 2
    assert saved_step(checkpoint.load_params(run, 4)) == 4
    assert saved_step(checkpoint.load_params(run, 4, best=True)) == 4
    leaves = jax.tree.leaves(checkpoint.load_params(run))
    assert all(type(leaf) is np.ndarray for leaf in leaves)


def test_a_step_that_is_not_there_is_refused_and_the_others_named(run: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint of step 3 \(there are: 2, 4, 5\)"):
        checkpoint.load_params(run, 3)


def test_the_newest_counts_as_best_where_nothing_has_a_score(
    tmp_path: Path, state: TrainState
) -> None:
    make_run(tmp_path)
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(at(state, step))
        # Saving a step again changes nothing.
        checkpoints.save(at(state, 3))
    assert steps_in(tmp_path) == [2, 3]
    assert saved_step(checkpoint.load_params(tmp_path, best=True)) == 3


def bits(tree: Any) -> list[tuple[str, Any, bytes]]:
    return [
        (partition.path_name(path), leaf.dtype, np.asarray(leaf).tobytes())
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def test_the_state_comes_back_bit_for_bit_where_it_lived(
    tmp_path: Path, state: TrainState, config: BertConfig, mesh: Mesh
) -> None:
    make_run(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract_state(init_of(config), OPTIMIZER, mesh))
    shape: Any = jax.tree.structure(restored)
    assert shape == jax.tree.structure(state)
    assert bits(restored) == bits(state)
    # Moments of the optimizer are among what was compared.
    assert sum("opt_state" in name and "kernel" in name for name, _, _ in bits(restored)) > 10
    for found, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert found.sharding == wanted.sharding


def test_a_state_is_restored_onto_another_mesh(
    run: Path, state: TrainState, config: BertConfig
) -> None:
    flat_mesh = partition.make_mesh()
    with Checkpoints(run) as checkpoints:
        restored: Any = checkpoints.restore(abstract_state(init_of(config), OPTIMIZER, flat_mesh))
    assert bits(restored) == bits(at(state, 5))
    kernel = restored.params["encoder"]["layer_0"]["attention"]["query"]["kernel"]
    assert kernel.sharding.mesh == flat_mesh


def test_a_half_written_checkpoint_is_ignored(
    tmp_path: Path, state: TrainState, config: BertConfig, mesh: Mesh, monkeypatch: Any
) -> None:
    make_run(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1))
    # A process that dies while it saves has written all but not given it its name.
    rename = os.rename

    def dies(source: Any, target: Any, *rest: Any, **more: Any) -> None:
        if os.path.basename(str(target)) == "2":
            raise InterruptedError("killed")
        rename(source, target, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dies)
        with pytest.raises(Exception, match="killed"), Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(at(state, 2))
    left = sorted(os.listdir(tmp_path / "checkpoints"))
    assert left[0] == "1"
    assert any(name.startswith("2.") for name in left)
    assert saved_step(checkpoint.load_params(tmp_path)) == 1
    with Checkpoints(tmp_path) as checkpoints:
        restored: Any = checkpoints.restore(abstract_state(init_of(config), OPTIMIZER, mesh))
        assert int(restored.step) == 1
        checkpoints.save(at(state, 3))
    # Of the half no room is taken any more, which another step's save would not have overwritten.
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "3"]
    assert saved_step(checkpoint.load_params(tmp_path)) == 3


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"vocab_size": 8}, "encoder/embeddings/token/embedding has shape"),
        ({"num_layers": 2}, "encoder/layer_1/attention/key/bias is missing"),
        ({"intermediate_size": 32}, "encoder/layer_0/feed_forward/intermediate/bias has shape"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused_by_the_parameters_name(
    change: dict[str, Any], name: str, run: Path, config: BertConfig, mesh: Mesh
) -> None:
    other = init_of(dataclasses.replace(config, **change))
    with Checkpoints(run) as checkpoints, pytest.raises(UserError, match=name):
        checkpoints.restore(abstract_state(other, OPTIMIZER, mesh))


def test_a_run_without_checkpoints_is_refused(
    tmp_path: Path, config: BertConfig, mesh: Mesh
) -> None:
    with pytest.raises(UserError, match="not a run"):
        checkpoint.load_params(tmp_path)
    make_run(tmp_path)
    with pytest.raises(UserError, match="no checkpoint yet"):
        checkpoint.load_params(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract_state(init_of(config), OPTIMIZER, mesh)) is None
    with pytest.raises(UserError, match="there are: none"):
        checkpoint.load_params(tmp_path)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def small_state(step: int) -> TrainState:
    """A state with few arrays, for many checkpoints."""
    rng = np.random.default_rng(step)

    def pooler() -> Any:
        arrays = {"kernel": rng.normal(size=(64, 64)), "bias": rng.normal(size=64)}
        return {"encoder": {"pooler": {k: jnp.float32(v) for k, v in arrays.items()}}}

    scalars = (jnp.int32(step), jnp.int32(0), jnp.int32(0))
    return TrainState(*scalars, pooler(), {"mean": pooler()})


def test_whatever_file_is_damaged_the_state_is_the_saved_one_or_that_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_PAUSE", 0)
    original = make_run(tmp_path / "original")
    states = {step: small_state(step) for step in (1, 2)}
    with Checkpoints(original) as checkpoints:
        for step, state in states.items():
            checkpoints.save(state, 0.1 * step)
    newest = original / "checkpoints" / "2"
    files = [path.relative_to(original) for path in sorted(newest.rglob("*")) if path.is_file()]
    passed_over = 0
    for number, file in enumerate(files):
        # Every file once, in turn by one of three kinds of damage.
        damage = (flip_a_bit, cut_short, os.remove)[number % 3]
        run = tmp_path / str(number)
        shutil.copytree(original, run)
        damage(run / file)
        with Checkpoints(run) as checkpoints:
            restored: Any = checkpoints.restore(states[1])
        step = int(restored.step)
        assert bits(restored) == bits(states[step]), file
        assert steps_in(run) == list(range(1, step + 1))
        passed_over += step == 1
    # Not every file is needed.
    assert passed_over >= 8


def test_without_its_checksums_a_checkpoint_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_PAUSE", 0)
    run = make_run(tmp_path)
    with Checkpoints(run) as checkpoints:
        for step in (1, 2):
            checkpoints.save(small_state(step))
    shutil.rmtree(run / "checkpoints" / "2" / "checksums")
    with pytest.raises(UserError, match="checkpoint 2 is damaged"):
        checkpoint.load_params(run)
    with Checkpoints(run) as checkpoints:
        restored: Any = checkpoints.restore(small_state(1))
    assert bits(restored) == bits(small_state(1))
    assert (run / "damaged" / "2").is_dir()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(tmp_path: Path) -> None:
    run, state = make_run(tmp_path), small_state(1)
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state)
    shutil.rmtree(run / "checkpoints" / "1" / "params")
    for _ in range(2):  # Nor when it is started again.
        refused = pytest.raises(UserError, match=r"all checkpoints are damaged, they lie in .*/da")
        with Checkpoints(run) as checkpoints, refused:
            checkpoints.restore(state)
    shutil.rmtree(run / "damaged")
    with Checkpoints(run) as checkpoints:
        assert checkpoints.restore(state) is None


@pytest.mark.parametrize("content", ['{"s', '{"sgore": 0.9}', "0.9", '{"score": "0.9"}', "\udcff"])
def test_a_damaged_score_is_none(content: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with Checkpoints(run) as checkpoints:
        for step, score in ((1, 0.5), (2, 0.9)):
            checkpoints.save(small_state(step), score)
    written = run / "checkpoints" / "2" / "metrics" / "metrics"
    written.write_text(content, errors="surrogateescape")
    with Checkpoints(run) as checkpoints:
        restored: Any = checkpoints.restore(small_state(1))
    assert int(restored.step) == 2
    assert checkpoint.best_step(run) == 1
    assert bits(checkpoint.load_params(run, best=True)) == bits(small_state(1).params)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        MemoryError(),
        ValueError("UNAVAILABLE: Error reading gs://b/run: HTTP response code: 503"),
        type("Forbidden", (Exception,), {})("403 GET gs://b/run"),
    ],
)
def test_what_cannot_be_read_from_here_is_no_damage(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state = make_run(tmp_path), small_state(1)
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state)
    read, times = stored._try_reading, [2]

    def fails(*arguments: Any) -> Any:
        times[0] -= 1
        if times[0] >= 0:
            raise error
        return read(*arguments)

    monkeypatch.setattr(stored, "_PAUSE", 0)
    monkeypatch.setattr(stored, "_try_reading", fails)
    with Checkpoints(run) as checkpoints, pytest.raises(type(error)):
        checkpoints.restore(state)
    times[0] = 1  # Later it fails but once.
    with Checkpoints(run) as checkpoints:
        assert checkpoints.restore(state) is not None
    assert steps_in(run) == [1]


def test_a_damaged_checkpoint_is_named_and_put_aside(
    tmp_path: Path,
    state: TrainState,
    config: BertConfig,
    mesh: Mesh,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(at(state, step))
    # Whole files with other numbers: only the checksums can tell.
    other = tmp_path / "other"
    with Checkpoints(make_run(other)) as checkpoints:
        checkpoints.save(at(state, 3).replace(step=jnp.int32(2)))
    params = tmp_path / "checkpoints" / "2" / "params"
    shutil.rmtree(params)
    shutil.copytree(other / "checkpoints" / "2" / "params", params)

    with pytest.raises(UserError, match=r"checkpoint 2 is damaged .*pooler/bias is another"):
        checkpoint.load_params(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        restored: Any = checkpoints.restore(abstract_state(init_of(config), OPTIMIZER, mesh))
        said = capsys.readouterr().out
        assert "checkpoint 2 is damaged (the checksum of encoder/pooler/bias is another)" in said
        assert "continuing at step 1" in said
        assert int(restored.step) == 1
        assert (tmp_path / "damaged" / "2" / "params").is_dir()
        checkpoints.save(at(state, 2))
    assert saved_step(checkpoint.load_params(tmp_path)) == 2


@pytest.mark.parametrize(
    ("kind", "mend"),
    [
        ("pretrain", "run its training again, which goes on from the one before"),
        ("finetune", "delete .*/run and run its training again"),
    ],
)
def test_the_way_out_of_a_damaged_checkpoint_is_one(
    kind: str, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished fine-tuning is reused, not trained again."""
    monkeypatch.setattr(stored, "_PAUSE", 0)
    run = tmp_path / "run"
    run_folder.save_config(run, {"kind": kind})
    with Checkpoints(run) as checkpoints:
        checkpoints.save(small_state(1))
    shutil.rmtree(run / "checkpoints" / "1" / "params")
    with pytest.raises(UserError, match=rf"checkpoint 1 is damaged .*; {mend}$"):
        checkpoint.load_params(run)


def test_a_state_of_another_optimizer_is_no_damage(
    run: Path, config: BertConfig, mesh: Mesh
) -> None:
    other = optimizer.make_optimizer("muon", schedules.linear(1e-3, 2, 10))
    with Checkpoints(run) as checkpoints, pytest.raises(UserError, match="of another kind"):
        checkpoints.restore(abstract_state(init_of(config), other, mesh))
    assert steps_in(run) == [2, 4, 5]


def test_a_step_saved_without_a_score_gets_one_later(tmp_path: Path, state: TrainState) -> None:
    make_run(tmp_path)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(at(state, 1))
    params = tmp_path / "checkpoints" / "1" / "params"
    before = params.stat()
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(at(state, 1), 0.5)
        # A kill while it was written again would leave none.
        assert (params.stat().st_ino, params.stat().st_mtime_ns) == (
            before.st_ino,
            before.st_mtime_ns,
        )
        for step, score in ((2, 0.1), (3, 0.2)):
            checkpoints.save(at(state, step), score)
    assert steps_in(tmp_path) == [1, 3]
    assert checkpoint.best_step(tmp_path) == 1


def test_a_checkpoint_without_room_is_not_begun(
    tmp_path: Path, state: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    usage = type(shutil.disk_usage(tmp_path))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1))
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: usage(size, size, size - 1))
            with pytest.raises(UserError, match=r"the disk is full: 0\.\d MiB are free"):
                checkpoints.save(at(state, 2))
        checkpoints.save(at(state, 3))
    assert steps_in(tmp_path) == [1, 3]


# Files end where a full disk would; the second save learns what became of the first.
_FULL = """
import resource, sys
from pathlib import Path
import jax
from bertjax.runs import checkpoint
from bertjax import errors
from bertjax.runs.state import TrainState

def main():
    numbers = {f"kernel_{i}": jax.random.normal(jax.random.key(i), (200, 200)) for i in range(9)}
    zero = jax.numpy.int32(0)
    state = TrainState(step=zero, seed=zero, skipped=zero, params=numbers, opt_state=numbers)
    with checkpoint.Checkpoints(Path(sys.argv[1])) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        checkpoints.save(state)
        if sys.argv[2] == "again":
            checkpoints.save(state.replace(step=zero + 1))

sys.exit(errors.run(main))
"""


@pytest.mark.parametrize("then", ["again", "end"])
def test_a_disk_that_fills_up_while_saving_is_one_line(then: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL, str(tmp_path), then]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1, found.stderr
    line = found.stderr.strip()
    assert line.startswith(f"error: {tmp_path}/checkpoints: a checkpoint could not be written (")
    assert "; free some space and run the same command again" in line


def test_the_config_of_a_run_cannot_be_changed(tmp_path: Path) -> None:
    config = {"kind": "pretrain", "model": {"size": "tiny", "shape": (1, 2)}, "seed": 0}
    run_folder.save_config(tmp_path / "run", config)
    run_folder.save_config(tmp_path / "run", config)
    assert run_folder.load_config(tmp_path / "run") == json.loads(json.dumps(config))
    with pytest.raises(UserError, match="other settings.*model.size was tiny, is base"):
        run_folder.save_config(tmp_path / "run", config | {"model": {"size": "base"}})
    with pytest.raises(UserError, match="extra was unset, is 1"):
        run_folder.save_config(tmp_path / "run", config | {"extra": 1})
    assert run_folder.load_config(tmp_path / "run") == json.loads(json.dumps(config))


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_config_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: not"):
        run_folder.load_config(tmp_path)
