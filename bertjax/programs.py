"""Programs for a mesh: what they know of it when they are traced, and what its devices do apart."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, PartitionSpec

from bertjax.partition import AXES, BATCH, ROWS_OF_BATCH, WHOLE, tree_shardings

T = TypeVar("T")
# One device of no kind: what is traced for it has nothing in it that suits one platform alone.
ANYWHERE = AbstractMesh(
    (1,) * len(AXES),
    AXES,
    (AxisType.Auto,) * len(AXES),
    abstract_device=AbstractDevice(device_kind="any", num_cores=None, platform="any"),
)


def knowing(mesh: Mesh | AbstractMesh | None, function: Callable[..., T]) -> Callable[..., T]:
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


def platform() -> str:
    """Of the devices that is traced for: "cpu", "gpu", "tpu"; "any" of a program for all of them.

    JAX's own if no mesh is known.
    """
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


def shared_out(params: T) -> T:
    """Parameters laid out over the mesh that is traced for, also where it does not divide them.

    Such an axis is whole between programs; within one the last devices have less of it, or nothing.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return params
    return jax.lax.with_sharding_constraint(params, tree_shardings(params, mesh, uneven=True))


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
