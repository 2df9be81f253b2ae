"""What is stored of a checkpoint, read back and compared with the checksums it was written with."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from bertjax import distributed
from bertjax.errors import NOT_ALLOWED, UserError
from bertjax.runs import checksums
from bertjax.runs.parameters import check_shapes
from bertjax.runs.state import TrainState

PARAMS, OPTIMIZER, CHECKSUMS = "params", "optimizer", "checksums"


# Between two tries, in seconds.
_PAUSE = 2.0
# What tells of the account, the memory or the network, and not of what is stored: Python's own
# errors, and how those of TensorStore, TensorFlow and Google's client begin.
_ELSEWHERE = (PermissionError, MemoryError, ConnectionError, TimeoutError)
_ELSEWHERE_TOLD = (
    *NOT_ALLOWED,
    *("ValueError: UNAVAILABLE", "ValueError: DEADLINE_EXCEEDED", "ValueError: RESOURCE_EXHAUSTED"),
    *("UnavailableError", "DeadlineExceededError", "TransportError", "RefreshError"),
    *("ServiceUnavailable", "InternalServerError", "BadGateway", "GatewayTimeout"),
    *("TooManyRequests", "RetryError"),
)


class Damaged(Exception):
    """A checkpoint that cannot be read, or is not what was written."""


def _is_damage(error: Exception) -> bool:
    told = f"{type(error).__name__}: {error}"
    return not (isinstance(error, _ELSEWHERE) or told.startswith(_ELSEWHERE_TOLD))


def read_items(folder: Path, wanted: dict[str, Any]) -> list[Any]:
    """Some of a checkpoint's items as their abstract trees say, or, for None, whole on the host.

    Raises:
      UserError: they are of other shapes.
      Damaged: for one process at least; for all alike.
      Exception: it cannot be read from here and now, which is no damage.
    """
    items, problem = None, ""
    for last in (False, True):  # What fails once may be the network.
        try:
            items, saved = _try_reading(folder, wanted)
            break
        except (UserError, jax.errors.JaxRuntimeError):
            raise  # Of another shape; no room on a device.
        except Exception as error:  # Orbax raises that, too, for what it cannot decode.
            if last and not _is_damage(error):
                raise
            problem = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
            if not last:
                time.sleep(_PAUSE)
    if not distributed.everywhere(items is not None) or items is None:
        raise Damaged(problem or "another process cannot read it")
    found = checksums_of(*items)
    changed = [path for path, value in saved.items() if found.get(path, value) != value]
    if changed:
        raise Damaged(f"the checksum of {changed[0]} is another")
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
    return items, ocp.JsonCheckpointHandler().restore(folder / CHECKSUMS)


def _on_host(tree: Any) -> Any:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), tree
    )


def checksums_of(*items: Any) -> dict[str, int]:
    return {path: value for item in items for path, value in checksums.of_tree(item).items()}


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))


def rest_of(state: TrainState) -> dict[str, Any]:
    """What a state holds beside its parameters."""
    return {
        "step": state.step,
        "seed": state.seed,
        "skipped": state.skipped,
        "opt_state": state.opt_state,
    }
