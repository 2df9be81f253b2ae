"""The device mesh, and where every parameter lives on it: one screen of rows.

Axes: "data" splits the batch; "fsdp" splits the batch and the parameters; "tensor" splits heads,
inner widths and the vocabulary. Only this file knows their names.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.errors import UserError

AXES = ("data", "fsdp", "tensor")

# Exactly one row matches the end of every parameter's path; there is no catch-all, so that a
# misspelt name is an error and not a replicated table.
ROWS: tuple[tuple[str, PartitionSpec], ...] = (
    (r"embeddings/token/embedding", PartitionSpec("tensor", "fsdp")),
    (r"embeddings/(position|segment)/embedding", PartitionSpec(None, "fsdp")),
    (r"attention/(query|key|value)/kernel", PartitionSpec("fsdp", "tensor")),
    (r"attention/(query|key|value)/bias", PartitionSpec("tensor")),
    (r"attention/output/kernel", PartitionSpec("tensor", "fsdp")),
    (r"feed_forward/intermediate/kernel", PartitionSpec("fsdp", "tensor")),
    (r"feed_forward/intermediate/bias", PartitionSpec("tensor")),
    (r"feed_forward/output/kernel", PartitionSpec("tensor", "fsdp")),
    (r"(attention|feed_forward)/output/bias", PartitionSpec()),
    (r"(norm|attention_norm|feed_forward_norm)/(scale|bias)", PartitionSpec()),
    (r"(pooler|masked_lm/transform)/kernel", PartitionSpec("fsdp", None)),
    (r"(pooler|masked_lm/transform)/bias", PartitionSpec()),
    (r"masked_lm/bias", PartitionSpec("tensor")),
    (r"(next_sentence|head)/(kernel|bias)", PartitionSpec()),
    # The layer mix and the LSTMs of a head on a frozen encoder: small, a copy on every device.
    (r"mix/scores", PartitionSpec()),
    (r"head/(output|(forward|backward)_\d+/\w+)/(kernel|bias)", PartitionSpec()),
    # Three numbers of Muon's iteration.
    (r"ns_coeffs", PartitionSpec()),
)


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as text: "encoder/layer_3/attention/query/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over all devices; one size may be -1 and takes what the others leave.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    sizes = [data, fsdp, tensor]
    if any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh of data={data} fsdp={fsdp} tensor={tensor}: sizes are 1 or more")
    if sizes.count(-1) > 1:
        raise UserError("only one of mesh.data, mesh.fsdp and mesh.tensor may be -1")
    if -1 in sizes:
        rest = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = max(devices // rest, 1)
    if int(np.prod(sizes)) != devices:
        raise UserError(
            f"mesh of data={sizes[0]} fsdp={sizes[1]} tensor={sizes[2]} needs "
            f"{int(np.prod(sizes))} devices, there are {devices}; set mesh.data=-1"
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)


def matching_rows(name: str) -> list[PartitionSpec]:
    """The specs of all rows that match a parameter's path; exactly one if all is well."""
    return [spec for pattern, spec in ROWS if re.search(rf"(^|/){pattern}$", name)]


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Leaves an axis unsplit whose size the mesh does not divide (30,522 over 4, say)."""
    return PartitionSpec(
        *(
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, shape, strict=False)
        )
    )


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """A sharding for every leaf of a tree of parameters, or of state that holds such trees.

    Scalars are replicated; every other leaf must match exactly one row.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if not leaf.shape:
            return NamedSharding(mesh, PartitionSpec())
        specs = matching_rows(path_name(path))
        if len(specs) != 1:
            raise ValueError(f"{path_name(path)} matches {len(specs)} rows of partition.ROWS")
        return NamedSharding(mesh, _fit(specs[0], leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def check_batch_size(batch_size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Every device must get as many rows as every other, in every microbatch.

    Raises:
      UserError: the rows cannot be shared out evenly.
    """
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size < 1 or microbatches < 1 or batch_size % (devices * microbatches):
        parts = f"{devices} device(s)" + f" x {microbatches} microbatches" * (microbatches != 1)
        raise UserError(f"batch_size {batch_size} is not a multiple of {parts}; choose one that is")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def global_batch(local: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows -> arrays of the global batch; no process holds the others' rows."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in local.items()
    }
