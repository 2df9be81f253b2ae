"""The device mesh, and where every parameter lives on it: one screen of rows.

Axes: "data" splits the batch; "fsdp" splits the batch and the parameters; "tensor" splits heads,
inner widths and the vocabulary. Only this file knows their names.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
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
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes[0] % slices:
        raise UserError(
            f"mesh.data={sizes[0]} is not a multiple of the {slices} slices, which share it; set "
            "mesh.data=-1"
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
        raise UserError(
            f"mesh of {named} needs {math.prod(filled)} devices, there are {devices}; set "
            "mesh.data=-1"
        )
    return filled


def knowing(mesh: Mesh | None, function: Callable[..., T]) -> Callable[..., T]:
    """The function, which is traced with the mesh known to what follows here."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> T:
        if mesh is None:
            return function(*arguments)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def jit(mesh: Mesh | None, function: Callable[..., T], *, donated: Sequence[int] = ()) -> Any:
    """jax.jit of a function that is traced with the mesh known, for the devices of the mesh.

    Args:
      donated: numbers of the arguments whose memory the results may take.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    # LLVM's next level takes twice as long, and the programs are no faster: seen with training
    # steps of 2 to 6 layers.
    options: Any = {"xla_backend_optimization_level": 2} if platform == "cpu" else None
    return jax.jit(knowing(mesh, function), donate_argnums=donated, compiler_options=options)


def traced_platform() -> str:
    """Of the devices that is traced for: "cpu", "gpu", "tpu". JAX's own if no mesh is known."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def splits_width() -> bool:
    """Whether the mesh that is traced for splits heads and inner widths."""
    return jax.sharding.get_abstract_mesh().shape.get("tensor", 1) > 1


def own_rows(rows: int) -> int:
    """Of a batch's rows, those of one device of the mesh that is traced for."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return rows // math.prod(sizes.get(axis, 1) for axis in BATCH)


def in_parts(
    function: Callable[..., Any],
    inputs: Sequence[PartitionSpec],
    outputs: Sequence[PartitionSpec],
    rows: int,
    columns: int,
) -> Callable[..., Any]:
    """A function of arrays, called by every device of the traced mesh on its own parts of them.

    Args:
      inputs, outputs: WHOLE, ROWS_OF_BATCH, COLUMNS or ROWS_AND_COLUMNS of each.
      rows, columns: how many there are; what the mesh does not divide stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or mesh.are_all_axes_manual:
        return function
    divided: dict[Any, bool] = {
        BATCH: rows % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0,
        "tensor": columns % mesh.shape["tensor"] == 0,
    }

    def fitted(specs: Sequence[PartitionSpec]) -> tuple[PartitionSpec, ...]:
        return tuple(
            PartitionSpec(*(axis if divided.get(axis) else None for axis in spec)) for spec in specs
        )

    return jax.shard_map(
        function, mesh=mesh, in_specs=fitted(inputs), out_specs=fitted(outputs), check_vma=False
    )


def splits_rows_alone() -> bool:
    """Whether the mesh that is traced for has several devices, which share out nothing but rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size > 1 and not splits_width()


def summed_over_devices(
    function: Callable[[Any, Any, Any, jax.Array], tuple[Any, Any]],
    params: Any,
    batch: Any,
    rest: Any,
) -> tuple[Any, Any]:
    """Sums of what every device of the traced mesh finds for its own rows, exchanged once.

    Every device holds all parameters meanwhile, and a gradient of all.

    Args:
      function: (params, batch, rest, number of the device) -> (gradient, other sums).
      batch: arrays of rows, which the devices share out.
    """
    mesh = jax.sharding.get_abstract_mesh()
    specs = jax.tree.map(lambda sharding: sharding.spec, tree_shardings(params, mesh))

    def summed(gradient: jax.Array, spec: PartitionSpec) -> jax.Array:
        if "fsdp" in spec:
            axis = list(spec).index("fsdp")
            own = jax.lax.psum_scatter(gradient, "fsdp", scatter_dimension=axis, tiled=True)
        else:
            own = jax.lax.psum(gradient, "fsdp")
        return jax.lax.psum(own, "data")

    def part(params: Any, batch: Any, rest: Any) -> tuple[Any, Any]:
        gradients, sums = function(params, batch, rest, jax.lax.axis_index(BATCH))
        return jax.tree.map(summed, gradients, specs), jax.lax.psum(sums, BATCH)

    run = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(WHOLE, ROWS_OF_BATCH, WHOLE),
        out_specs=(specs, WHOLE),
        check_vma=False,
    )
    return run(params, batch, rest)


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


def tree_shardings(tree: Any, mesh: Any) -> Any:
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


def by_rows(tree: T, mesh: Mesh | None) -> T:
    """Within a program: a tree that leaves it laid out as it came in.

    The compiler would choose a layout of its own, and compile the next step once more for that.
    """
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, tree_shardings(tree, mesh))


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
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec()))


def global_batch(local: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows -> arrays of the global batch; no process holds the others' rows."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in local.items()
    }
