"""Batches on the mesh: which rows are whose."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from bertjax.errors import UserError
from bertjax.partition import ROWS_OF_BATCH, WHOLE


def check_batch_size(batch_size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Every device must get as many rows as every other, in every microbatch (0: as suits).

    Raises:
      UserError: the rows cannot be shared out evenly.
    """
    devices, microbatches = mesh.shape["data"] * mesh.shape["fsdp"], microbatches or 1
    if batch_size < 1 or microbatches < 1 or batch_size % (devices * microbatches):
        parts = f"{devices} device(s)" + f" x {microbatches} microbatches" * (microbatches != 1)
        raise UserError(f"batch_size {batch_size} is not a multiple of {parts}; choose one that is")


def local_parts(mesh: Mesh, process: int | None = None) -> tuple[tuple[int, ...], int]:
    """Which of the equal parts of a batch's rows a process's devices hold, and how many there are.

    Processes whose devices differ along "tensor" only hold the same rows.

    Args:
      process: this one if not given.

    Raises:
      UserError: two processes share some of their parts, but not all.
    """
    process = jax.process_index() if process is None else process
    held: dict[int, set[int]] = {}
    for part, devices in enumerate(mesh.devices.reshape(-1, mesh.shape["tensor"])):
        for device in devices:
            held.setdefault(device.process_index, set()).add(part)
    count = mesh.shape["data"] * mesh.shape["fsdp"]
    kinds = {frozenset(parts) for parts in held.values()}
    if len({len(kind) for kind in kinds}) > 1 or sum(map(len, kinds)) != count:
        raise UserError(
            f"mesh.tensor={mesh.shape['tensor']}: some processes would share a part of their "
            "rows; choose a divisor or a multiple of the devices of one process"
        )
    return tuple(sorted(held[process])), count


def own_share(
    batch: dict[str, np.ndarray], mesh: Mesh, process: int | None = None
) -> dict[str, np.ndarray]:
    """A process's rows (this one's) of a batch that every process has laid out as a whole."""
    parts, count = local_parts(mesh, process)

    def share(rows: np.ndarray) -> np.ndarray:
        # [B, ...] -> [parts, B / parts, ...] -> those of this process
        own = rows.reshape(count, -1, *rows.shape[1:])[list(parts)]
        return own.reshape(-1, *rows.shape[1:])

    return batch if len(parts) == count else {name: share(rows) for name, rows in batch.items()}


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, ROWS_OF_BATCH)


def on_all_devices(batch: dict[str, jax.Array], mesh: Mesh) -> dict[str, jax.Array]:
    """Within a program: every device gets the rows of all."""
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, WHOLE))


def global_batch(local: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows -> arrays of the global batch; no process holds the others' rows."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in local.items()
    }
