"""Checkpoints of a run: there in full or not at all, and checked when they are read.

    run/checkpoints/<step>/   params/, optimizer/, checksums/ (and metrics), written by orbax
    run/damaged/<step>/       checkpoints that could not be read, put aside

Only this file knows orbax.
"""

from __future__ import annotations

import importlib
import logging as python_logging
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util
from orbax.checkpoint.checkpoint_managers import preservation_policy

from bertjax.runs import checksums
from bertjax import distributed
from bertjax.files import storage
from bertjax.errors import UserError
from bertjax.runs.run_folder import CHECKPOINTS, load_config
from bertjax.runs.state import TrainState

DAMAGED = "damaged"
# What is stored of a checkpoint.
PARAMS, OPTIMIZER, CHECKSUMS = "params", "optimizer", "checksums"

# orbax warns about every option, also of those set on purpose, and what it raises its threads tell
# before, each with its stack.
logging.set_verbosity(logging.FATAL)
# Of the writes of a tensor that fail, orbax waits for the first; asyncio would tell of the others.
python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
_tell_unraisable = sys.unraisablehook


def _tell_but_late_writes(found: Any) -> None:
    """After a write that failed orbax ends its loops, and TensorStore complains for each other."""
    if str(found.exc_value) != "Event loop is closed":
        _tell_unraisable(found)


sys.unraisablehook = _tell_but_late_writes


class _Manager(ocp.CheckpointManager):
    """Orbax's, which leaves it to `Pulse` to ask whether the machines are taken away.

    Both would count their questions, and JAX compares the counts of all processes.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def _open(run: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    handlers: dict[str, Any] = {
        PARAMS: ocp.StandardCheckpointHandler(),
        OPTIMIZER: ocp.StandardCheckpointHandler(),
        CHECKSUMS: ocp.JsonCheckpointHandler(),
    }
    folder = run / CHECKPOINTS
    if storage.is_remote(run):
        _check_client(run)
    else:
        folder = folder.absolute()
    return _Manager(folder, options=options, item_handlers=handlers)


def _check_client(run: Path) -> None:
    """Raises UserError: there is not what orbax asks buckets of their kind with."""
    try:
        importlib.import_module("google.cloud.storage")
    except ModuleNotFoundError:
        raise UserError(
            f"{run}: checkpoints in a bucket need google-cloud-storage: pip install 'bertjax[gcs]'"
        ) from None


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


def size(state: TrainState) -> int:
    """Bytes of a checkpoint, at most."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _check_room(run: Path, state: TrainState) -> None:
    """Refuses to begin what the disk cannot hold: orbax fails late, and in many words."""
    if storage.is_remote(run):
        return  # A bucket has room.
    needed = size(state)
    free = shutil.disk_usage(run).free
    if free < needed:
        raise UserError(
            f"{run}: the disk is full: {free / 2**20:,.1f} MiB are free, a checkpoint takes "
            f"{needed / 2**20:,.1f}; free some space and run the same command again"
        )


@contextmanager
def _writing(run: Path) -> Iterator[None]:
    """What the disk refuses is the user's to mend; it may be told only by a later call."""
    try:
        yield
    except ValueError as error:
        if "os_error_code" not in str(error):
            raise
        raise UserError(
            f"{run}/{CHECKPOINTS}: a checkpoint could not be written "
            f"({str(error).rpartition(': ')[2]}); free some space and run the same command again"
        ) from error


class Checkpoints:
    """Saves and restores the states of one run; a context that ends when all is on disk."""

    def __init__(self, run: Path, *, keep_last: int = 2):
        """Keeps the last n and, of those saved with a score, the best one too."""
        self._run = run
        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep_last),
                preservation_policy.BestN(
                    n=1, get_metric_fn=_score, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(best_fn=_score, preservation_policy=keep)
        self._manager = _open(run, options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if distributed.lost_another(error):
            return  # It would be waited for.
        with _writing(self._run), closing(self._manager):
            self._manager.wait_until_finished()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Saves in the background; a checkpoint appears under its name when it is complete.

        Args:
          score: of the state on the development set, higher is better.

        Raises:
          UserError: there is no room for it, or an earlier one could not be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            if score is None or self._manager.metrics(step):
                return
            # Saved in the middle of its evaluation, which is now made up for.
            self._manager.delete(step)
        _check_room(self._run, state)
        with _writing(self._run):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    optimizer=ocp.args.StandardSave(_rest(state)),
                    checksums=ocp.args.JsonSave(_checksums(state.params, _rest(state))),
                ),
                metrics=None if score is None else {"score": score},
                force=True,
            )

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest whole state, placed as `abstract` (shapes, types, shardings) says, if any.

        Checkpoints that are damaged are named, put aside and passed over.

        Raises:
          UserError: a checkpoint of other shapes.
        """
        while (step := self._manager.latest_step()) is not None:
            try:
                restored = self._read(step, abstract)
                print(f"continuing at step {step:,}")
                return restored
            except _Damaged as error:
                self._put_aside(step, error)
        return None

    def _read(self, step: int, abstract: TrainState) -> TrainState:
        folder = self._manager.directory / str(step)
        params, rest = _read_items(folder, {PARAMS: abstract.params, OPTIMIZER: _rest(abstract)})
        return TrainState(params=params, **rest)

    def _put_aside(self, step: int, error: _Damaged) -> None:
        damaged, target = self._manager.directory / str(step), self._run / DAMAGED / str(step)
        while target.exists():
            target = target.with_name(f"{target.name}-again")
        distributed.wait("damaged checkpoint")
        print(f"warning: checkpoint {step} is damaged ({error}); it lies in {target} now")
        if distributed.is_first():
            target.parent.mkdir(exist_ok=True)
            damaged.rename(target)
        distributed.wait("damaged checkpoint put aside")
        self._manager.reload()


class _Damaged(Exception):
    """A checkpoint that cannot be read, or is not what was written."""


def _read_items(folder: Path, wanted: dict[str, Any]) -> list[Any]:
    """Some of a checkpoint's items as their abstract trees say, or, for None, whole on the host.

    Raises:
      UserError: they are of other shapes.
      _Damaged: for one process at least; for all alike.
    """
    items, problem = None, ""
    for _ in range(2):  # What fails once may be the network.
        try:
            items, saved = _try_reading(folder, wanted)
            break
        except (UserError, jax.errors.JaxRuntimeError):
            raise  # Of another shape; no room on a device.
        except Exception as error:  # Orbax raises that, too, for what it cannot decode.
            problem = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
    if not distributed.everywhere(items is not None) or items is None:
        raise _Damaged(problem or "another process cannot read it")
    found = _checksums(*items)
    changed = [path for path, value in saved.items() if found.get(path, value) != value]
    if changed:
        raise _Damaged(f"the checksum of {changed[0]} is another")
    return items


def _try_reading(folder: Path, wanted: dict[str, Any]) -> tuple[list[Any], dict[str, int]]:
    handler, items = ocp.StandardCheckpointHandler(), []
    for item, tree in wanted.items():
        saved = handler.metadata(folder / item).tree
        if tree is None:
            tree = _on_host(saved)
        elif item == PARAMS:
            check_shapes(folder, saved, tree)
        elif _shapes(saved) != _shapes(tree):
            raise UserError(
                f"{folder}: the optimizer's state is of another kind; it was written by another "
                "version, so go on in another --workdir with this one as init"
            )
        items.append(handler.restore(folder / item, args=ocp.args.StandardRestore(tree)))
    if not (folder / CHECKSUMS).exists():
        return items, {}  # Of an earlier version.
    return items, ocp.JsonCheckpointHandler().restore(folder / CHECKSUMS)


def _on_host(tree: Any) -> Any:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), tree
    )


def _checksums(*items: Any) -> dict[str, int]:
    return {path: value for item in items for path, value in checksums.of_tree(item).items()}


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))


def _rest(state: TrainState) -> dict[str, Any]:
    """What a state holds beside its parameters."""
    return {
        "step": state.step,
        "seed": state.seed,
        "skipped": state.skipped,
        "opt_state": state.opt_state,
    }


def flat(params: Any) -> dict[str, Any]:
    """{"encoder/layer_0/attention/query/kernel": array, ...}."""
    return traverse_util.flatten_dict(params, sep="/")


def check_shapes(source: str | Path, given: Any, wanted: Any) -> None:
    """Compares two parameter trees by names and shapes.

    Raises:
      UserError: names the first parameter that is missing, unknown or of another shape.
    """
    have, want = flat(given), flat(wanted)
    for name in sorted(have.keys() | want.keys()):
        if name not in want or name not in have:
            where = "only there" if name in have else "missing there"
            raise UserError(
                f"{source}: parameter {name} is {where}; use the model it was made with"
            )
        if tuple(have[name].shape) != tuple(want[name].shape):
            raise UserError(
                f"{source}: parameter {name} has shape {tuple(have[name].shape)}, the model "
                f"wants {tuple(want[name].shape)}; use the size and vocabulary it was made with"
            )


def _chosen(manager: Any, best: bool) -> int | None:
    """The newest step, or the first of those with the highest score; None: there are none."""
    steps = sorted(manager.all_steps())
    scores = {s: found["score"] for s in steps if best and (found := manager.metrics(s))}
    return max(scores, key=lambda s: scores[s], default=steps[-1] if steps else None)


def best_step(run: Path) -> int | None:
    """What load_params takes as the best, None where there is no checkpoint."""
    with _open(run, ocp.CheckpointManagerOptions(best_fn=_score, read_only=True)) as manager:
        return _chosen(manager, best=True)


def load_params(run: Path, step: int | None = None, *, best: bool = False) -> Any:
    """A run's parameters as a nested dict of NumPy arrays, on the host.

    Args:
      step: the newest checkpoint if not given.
      best: the one with the highest score instead, if any has a score.

    Raises:
      UserError: no such run or checkpoint.
    """
    load_config(run)
    if not (run / CHECKPOINTS).is_dir():
        raise UserError(f"{run}: no checkpoint yet; run the training first")
    with _open(run, ocp.CheckpointManagerOptions(best_fn=_score, read_only=True)) as manager:
        steps = sorted(manager.all_steps())
        chosen = step if step is not None else _chosen(manager, best)
        if chosen not in steps:
            raise UserError(
                f"{run}: no checkpoint {'' if step is None else f'of step {step} '}"
                f"(there are: {', '.join(map(str, steps)) or 'none'})"
            )
        try:
            (params,) = _read_items(manager.directory / str(chosen), {PARAMS: None})
        except _Damaged as error:
            raise UserError(
                f"{run}: checkpoint {chosen} is damaged ({error}); run its training again, which "
                "goes on from the one before"
            ) from error
    return jax.tree.map(np.asarray, params)
