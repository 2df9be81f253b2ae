"""The device mesh, and where every parameter lives on it: one screen of rows.

Axes: "data" splits the batch; "fsdp" splits the batch and the parameters; "tensor" splits heads,
inner widths and the vocabulary. Only this file, programs.py, shares.py and the planner
know their names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.errors import UserError

T = TypeVar("T")

AXES = ("data", "fsdp", "tensor")
# How arrays of tokens are split: rows of the batch, columns by heads.
BATCH = ("data", "fsdp")
WHOLE = PartitionSpec()
ROWS_OF_BATCH = PartitionSpec(BATCH)
COLUMNS = PartitionSpec("tensor")
ROWS_AND_COLUMNS = PartitionSpec(BATCH, None, "tensor")

# Exactly one row matches the end of every parameter's path; there is no catch-all, so that a
# misspelt name is an error and not a replicated table.
ROWS: tuple[tuple[str, PartitionSpec], ...] = (
    (r"embeddings/token/embedding", PartitionSpec("tensor", "fsdp")),
    # The words as word2vec foretells them.
    (r"output/embedding", PartitionSpec("tensor", "fsdp")),
    (r"embeddings/(position|segment)/embedding", PartitionSpec(None, "fsdp")),
    (r"attention/(query|key|value)/kernel", PartitionSpec("fsdp", "tensor")),
    (r"attention/(query|key|value)/bias", PartitionSpec("tensor")),
    (r"attention/output/kernel", PartitionSpec("tensor", "fsdp")),
    (r"feed_forward/(intermediate|gate)/kernel", PartitionSpec("fsdp", "tensor")),
    (r"feed_forward/(intermediate|gate)/bias", PartitionSpec("tensor")),
    (r"feed_forward/output/kernel", PartitionSpec("tensor", "fsdp")),
    (r"(attention|feed_forward)/output/bias", PartitionSpec()),
    (r"(norm|attention_norm|feed_forward_norm|final_norm)/(scale|bias)", PartitionSpec()),
    (r"(pooler|(masked_lm|next_token)/transform)/kernel", PartitionSpec("fsdp", None)),
    (r"(pooler|(masked_lm|next_token)/transform)/bias", PartitionSpec()),
    (r"(masked_lm|next_token)/bias", PartitionSpec("tensor")),
    # ELMo; the kernels of LSTMs are those of both directions, [2, in, 4 gates, units].
    (r"layer_\d+/(input|recurrent)_kernel", PartitionSpec(None, "fsdp", None, "tensor")),
    (r"layer_\d+/bias", PartitionSpec(None, None, "tensor")),
    (r"layer_\d+/projection_kernel", PartitionSpec(None, "tensor", "fsdp")),
    (r"characters/symbol/embedding", PartitionSpec()),
    (r"characters/(filter_\d+|projection)/kernel", PartitionSpec(None, "fsdp")),
    (r"characters/highway_\d+_(transform|gate)/kernel", PartitionSpec("fsdp", "tensor")),
    (r"characters/\w+/bias", PartitionSpec()),
    (r"softmax/embedding", PartitionSpec("tensor", "fsdp")),
    (r"softmax/bias", PartitionSpec("tensor")),
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


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over devices, all there are if none are given.

    One size may be -1 and takes what the others leave. Slices (TPUs that only the slower network
    of the data centre joins) share the "data" axis, the others stay within one.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or "data" is not a multiple of
        the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _filled((data, fsdp, tensor), len(devices))
    # Of GPUs and CPUs JAX calls every host a slice.
    tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if tpu else 1
    if sizes[0] % slices:
        raise UserError(
            f"mesh.data={sizes[0]} is not a multiple of the {slices} slices, which share it; "
            f"choose mesh.fsdp x mesh.tensor that divides the {len(devices) // slices} devices of "
            "a slice"
        )
    inside = (sizes[0] // slices, *sizes[1:])
    if slices == 1:
        placed = mesh_utils.create_device_mesh(inside, devices, allow_split_physical_axes=True)
    else:
        placed = mesh_utils.create_hybrid_device_mesh(
            inside, (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    return Mesh(placed, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)


def _filled(sizes: tuple[int, int, int], devices: int) -> tuple[int, ...]:
    """The sizes with a number in place of -1."""
    if any(size < 1 and size != -1 for size in sizes):
        named = " ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(f"mesh of {named}: sizes are 1 or more")
    if sizes.count(-1) > 1:
        raise UserError("only one of mesh.data, mesh.fsdp and mesh.tensor may be -1")
    rest = max(devices // math.prod(size for size in sizes if size != -1), 1)
    filled = tuple(rest if size == -1 else size for size in sizes)
    if math.prod(filled) != devices:
        named = " ".join(f"{axis}={size}" for axis, size in zip(AXES, filled, strict=True))
        mend = "choose sizes whose product divides them"
        if -1 not in sizes and devices % math.prod(sizes[1:]) == 0:
            mend = "set mesh.data=-1"
        raise UserError(
            f"mesh of {named} needs {math.prod(filled)} devices, there are {devices}; {mend}"
        )
    return filled


def matching_rows(name: str) -> list[PartitionSpec]:
    """The specs of all rows that match a parameter's path; exactly one if all is well."""
    return [spec for pattern, spec in ROWS if re.search(rf"(^|/){pattern}$", name)]


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Any) -> PartitionSpec:
    """Leaves an axis unsplit whose size the mesh does not divide (30,522 over 4, say)."""
    return PartitionSpec(
        *(
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, shape, strict=False)
        )
    )


def tree_shardings(tree: Any, mesh: Any, *, uneven: bool = False) -> Any:
    """A sharding for every leaf of a tree of parameters, or of state that holds such trees.

    Scalars are replicated; every other leaf must match exactly one row.

    Args:
      uneven: split axes that the mesh does not divide, too, as can be done within programs alone.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if not leaf.shape:
            return NamedSharding(mesh, PartitionSpec())
        specs = matching_rows(path_name(path))
        if len(specs) != 1:
            raise ValueError(f"{path_name(path)} matches {len(specs)} rows of partition.ROWS")
        return NamedSharding(mesh, specs[0] if uneven else _fit(specs[0], leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def placed(tree: Any, mesh: Mesh) -> Any:
    """A tree of arrays of the host, the same in every process, laid out on the mesh.

    What lies there as it should stays where it is.
    """

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)

    return jax.tree.map(place, tree, tree_shardings(tree, mesh))


def by_rows(tree: T, mesh: Mesh | None) -> T:
    """Within a program: a tree that leaves it laid out as it came in.

    The compiler would choose a layout of its own, and compile the next step once more for that.
    """
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, tree_shardings(tree, mesh))
