"""Checkpoints of a run: there in full or not at all, and checked when they are read.

run/checkpoints/<step>/   params/, optimizer/, checksums/ (and metrics), written by orbax
run/damaged/<step>/       checkpoints that could not be read, put aside
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from bertjax import distributed
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.whole_file import write_whole
from bertjax.runs.orbax_manager import open_manager, writing
from bertjax.runs.run_folder import CHECKPOINTS, SCORES, load_config
from bertjax.runs.state import TrainState
from bertjax.runs.stored import OPTIMIZER, PARAMS, Damaged, checksums_of, read_items, rest_of

DAMAGED = "damaged"
# Orbax's name of the item with the score, and of the file in it.
METRICS = "metrics"


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


class Checkpoints:
    """Saves and restores the states of one run; a context that ends when all is on disk."""

    def __init__(self, run: Path, *, keep_last: int = 2):
        """Keeps the last n and, of those saved with a score, the best one too.

        Raises:
          UserError: n is below 1.
        """
        if keep_last < 1:
            raise UserError(f"keep_last={keep_last}: give at least 1")
        self._run = run
        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep_last),
                preservation_policy.BestN(
                    n=1, get_metric_fn=_score, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        # What a killed run had half saved is of no use to anyone.
        options = ocp.CheckpointManagerOptions(
            best_fn=_score, preservation_policy=keep, cleanup_tmp_directories=True
        )
        self._manager = open_manager(run, options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if distributed.lost_another(error):
            return  # It would be waited for.
        with writing(self._run), closing(self._manager):
            self.wait()

    def wait(self) -> None:
        """Until what was saved is on disk."""
        with writing(self._run):
            self._manager.wait_until_finished()

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Saves in the background; a checkpoint appears under its name when it is complete.

        Args:
          score: of the state on the development set, higher is better.

        Raises:
          UserError: there is no room for it, or an earlier one could not be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            if score is not None and not self._manager.metrics(step):
                self._add_score(step, score)
            return
        _check_room(self._run, state)
        with writing(self._run):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    optimizer=ocp.args.StandardSave(rest_of(state)),
                    checksums=ocp.args.JsonSave(checksums_of(state.params, rest_of(state))),
                ),
                metrics=None if score is None else {"score": score},
                force=True,
            )

    def _add_score(self, step: int, score: float) -> None:
        """To a state saved in the middle of its evaluation, which is now made up for.

        The checkpoint stays: if it were written anew, a kill in between would leave none.
        """
        self.wait()
        if distributed.is_first():
            with writing(self._run):
                path = self._manager.directory / str(step) / METRICS / METRICS
                write_whole(path, json.dumps({"score": score}).encode())
        distributed.wait("score of a checkpoint")
        self._manager.reload()

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest whole state, placed as `abstract` (shapes, types, shardings) says, if any.

        Checkpoints that are damaged are named, put aside and passed over.

        Raises:
          UserError: a checkpoint of other shapes; all are damaged.
        """
        while (step := self._manager.latest_step()) is not None:
            try:
                restored = self._read(step, abstract)
                print(f"continuing at step {step:,}")
                return restored
            except Damaged as error:
                self._put_aside(step, error)
        aside = self._run / DAMAGED
        if aside.is_dir() and any(aside.iterdir()):
            # From scratch it would end what the log tells of all that was trained.
            raise UserError(
                f"{self._run}: all checkpoints are damaged, they lie in {aside}; move one back to "
                f"{CHECKPOINTS}/, take another --workdir, or delete {aside} to begin anew"
            )
        return None

    def _read(self, step: int, abstract: TrainState) -> TrainState:
        folder = self._manager.directory / str(step)
        params, rest = read_items(folder, {PARAMS: abstract.params, OPTIMIZER: rest_of(abstract)})
        return TrainState(params=params, **rest)

    def _put_aside(self, step: int, error: Damaged) -> None:
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


def _chosen(manager: Any, best: bool) -> int | None:
    """The newest step, or the first of those with the highest score; None: there are none."""
    steps = sorted(manager.all_steps())
    scores = {s: found["score"] for s in steps if best and (found := manager.metrics(s))}
    return max(scores, key=lambda s: scores[s], default=steps[-1] if steps else None)


def best_step(run: Path) -> int | None:
    """What load_params takes as the best, None where there is no checkpoint."""
    with open_manager(run, ocp.CheckpointManagerOptions(best_fn=_score, read_only=True)) as manager:
        return _chosen(manager, best=True)


def load_params(run: Path, step: int | None = None, *, best: bool = False) -> Any:
    """A run's parameters as a nested dict of NumPy arrays, on the host.

    Args:
      step: the newest checkpoint if not given.
      best: the one with the highest score instead, if any has a score.

    Raises:
      UserError: no such run or checkpoint, or it is damaged.
    """
    config = load_config(run)
    if not (run / CHECKPOINTS).is_dir():
        if (run / SCORES).is_file():
            raise UserError(
                f"{run}: its weights were given up by the sweep, which keeps the best run's; "
                "delete the folder and run the sweep again with --keep_all"
            )
        raise UserError(f"{run}: no checkpoint yet; run the training first")
    with open_manager(run, ocp.CheckpointManagerOptions(best_fn=_score, read_only=True)) as manager:
        steps = sorted(manager.all_steps())
        chosen = step if step is not None else _chosen(manager, best)
        if chosen not in steps:
            raise UserError(
                f"{run}: no checkpoint {'' if step is None else f'of step {step} '}"
                f"(there are: {', '.join(map(str, steps)) or 'none'})"
            )
        try:
            (params,) = read_items(manager.directory / str(chosen), {PARAMS: None})
        except Damaged as error:
            # A finished fine-tuning is reused as it is; its other checkpoint is a worse one.
            mend = (
                f"delete {run} and run its training again"
                if config["kind"] == "finetune"
                else "run its training again, which goes on from the one before"
            )
            raise UserError(f"{run}: checkpoint {chosen} is damaged ({error}); {mend}") from error
    return jax.tree.map(np.asarray, params)
