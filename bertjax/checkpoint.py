"""Run folders: the resolved config, and checkpoints that are there in full or not at all.

    run/config.json           everything needed to rebuild model and tokenizer
    run/vocab.txt ...         the tokenizer
    run/checkpoints/<step>/   params/, optimizer/ (and metrics), written by orbax

Only this file knows orbax.
"""

from __future__ import annotations

import json
import shutil
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

from bertjax.errors import UserError
from bertjax.json_file import read_json, write_json
from bertjax.state import TrainState

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"

# orbax warns about every option, also of those set on purpose.
logging.set_verbosity(logging.ERROR)


def save_config(run: Path, config: dict[str, Any]) -> None:
    """Writes the resolved config of a run.

    Raises:
      UserError: the folder already belongs to a run with another config; the difference is named.
    """
    run.mkdir(parents=True, exist_ok=True)
    if (run / CONFIG).exists():
        _refuse_difference(run, load_config(run), config)
    write_json(run / CONFIG, config)


def load_config(run: Path) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
      UserError: not a run folder.
    """
    path = run / CONFIG
    if not path.is_file():
        raise UserError(f"{run}: not a run (no {CONFIG}); give the --workdir of a training run")
    return read_json(path)


def newest_run(folder: Path, kind: str) -> Path:
    """The run with the newest config of that kind among the folders in `folder`.

    Raises:
      UserError: there is none.
    """
    configs = [path for path in folder.glob(f"**/{CONFIG}") if (path.parent / CHECKPOINTS).is_dir()]
    runs = [path for path in configs if read_json(path).get("kind") == kind]
    if not runs:
        raise UserError(
            f"--init is missing, and {folder}/ holds no {kind}ing run to take instead; give a run, "
            "or a Hugging Face or TF1 folder"
        )
    return max(runs, key=lambda path: path.stat().st_mtime).parent


def _refuse_difference(run: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    old = traverse_util.flatten_dict(saved, sep=".")
    new = traverse_util.flatten_dict(json.loads(json.dumps(wanted)), sep=".")
    changed = [
        f"{name} was {old.get(name, 'unset')}, is {new.get(name, 'unset')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise UserError(
            f"{run}: holds a run with other settings ({'; '.join(changed[:3])}); "
            "use another --workdir or delete the folder"
        )


def _open(run: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    handlers = {name: ocp.StandardCheckpointHandler() for name in ("params", "optimizer")}
    return ocp.CheckpointManager(
        (run / CHECKPOINTS).absolute(), options=options, item_handlers=handlers
    )


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


def _check_room(run: Path, state: TrainState) -> None:
    """Refuses to begin what the disk cannot hold: orbax fails late, and in many words."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
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

    def __exit__(self, *_: object) -> None:
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
            return
        _check_room(self._run, state)
        with _writing(self._run):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    optimizer=ocp.args.StandardSave(_rest(state)),
                ),
                metrics=None if score is None else {"score": score},
                force=True,
            )

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, placed as `abstract` (shapes, types, shardings) says.

        Raises:
          UserError: no checkpoint, or one of other shapes.
        """
        step = self._manager.latest_step()
        if step is None:
            raise UserError(f"{self._run}: no checkpoint to restore")
        saved = self._manager.item_metadata(step)["params"].tree
        check_shapes(self._run, saved, abstract.params)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract.params),
                optimizer=ocp.args.StandardRestore(_rest(abstract)),
            ),
        )
        return TrainState(params=restored["params"], **restored["optimizer"])


def _rest(state: TrainState) -> dict[str, Any]:
    """What a state holds beside its parameters."""
    return {"step": state.step, "seed": state.seed, "opt_state": state.opt_state}


def flat(params: Any) -> dict[str, Any]:
    """{"encoder/layer_0/attention/query/kernel": array, ...}."""
    return traverse_util.flatten_dict(params, sep="/")


def check_shapes(source: Path, given: Any, wanted: Any) -> None:
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
        chosen = step if step is not None else (steps[-1] if steps else None)
        if best and step is None:
            scores = {s: found["score"] for s in steps if (found := manager.metrics(s))}
            chosen = max(scores, key=lambda s: scores[s], default=chosen)
        if chosen not in steps:
            raise UserError(
                f"{run}: no checkpoint {'' if step is None else f'of step {step} '}"
                f"(there are: {', '.join(map(str, steps)) or 'none'})"
            )
        shapes = manager.item_metadata(chosen)["params"].tree
        here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        wanted = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes
        )
        restored = manager.restore(
            chosen, args=ocp.args.Composite(params=ocp.args.StandardRestore(wanted))
        )
    return jax.tree.map(np.asarray, restored["params"])
