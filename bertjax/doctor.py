"""Looks at everything a long run needs before it starts: packages, devices, inputs, disk.

examples:
  python -m bertjax.doctor --platform=tpu --config=configs/bert.py:base --workdir=runs/base \\
      data.records=records/128
  python -m bertjax.doctor --init=runs/base --data_dir=glue --workdir=runs/sst2
It takes those flags of a pretraining or a fine-tuning that tell what is read and written; without
any it looks at packages, devices and their connections. Of several processes all must ask at once;
the first tells what it found, the others what is wrong with their own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from packaging.requirements import Requirement

from bertjax import distributed, partition
from bertjax.command_line import new_parser
from bertjax.data.records import Records
from bertjax.data.shards import sha256
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.runs import checkpoint, orbax_manager, run_folder, state
from bertjax.training import chips
from bertjax.training.inputs import Inputs, Opened, open_run
from bertjax.weights import pretrained

# What a fine-tuning, or a prediction, reads beside the model; as flags of bertjax.finetune.
FILES = ("data_dir", "train", "dev", "test", "extra_train", "input")
_OTHERS = ", ".join(f"--{name}" for name in FILES[1:])
_SIDE = 256
# A product in bfloat16 of numbers around 1 has errors of this share.
_ERROR = 2e-2


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("doctor", __doc__)
    add = parser.add_argument
    add("--platform", choices=["cpu", "gpu", "tpu"], help="what must be there (default: any)")
    add("--config", metavar="FILE[:SIZE]", help="of the run to come, as for bertjax.pretrain")
    add("--workdir", type=storage.path, metavar="RUN", help="of the run to come")
    add("--init", metavar="FROM", help="of a fine-tuning to come, as for bertjax.finetune")
    add("--data_dir", type=storage.path, metavar="DIR", help="its files; also " + _OTHERS)
    for name in FILES[1:]:
        add(f"--{name}", type=storage.path, help=argparse.SUPPRESS)
    add("overrides", nargs="*", metavar="name=value", help="settings of the config")
    flags = parser.parse_intermixed_args(argv)  # as bertjax.pretrain does
    if flags.overrides and not flags.config:
        raise UserError(f"{flags.overrides[0]}: settings belong to a config; give --config")
    return flags


def packages(wanted: str | None) -> str:
    """Those that bertjax and a platform ask for, in the versions that it is tested with."""
    count = 0
    for each in _needed("bertjax", [wanted or ""]):
        found = _version(each.name, mend=f"pip install '{_plain(each)}'")
        if not each.specifier.contains(found, prereleases=True):
            raise UserError(f"{each.name} {found} does not fit: pip install '{_plain(each)}'")
        count += 1
    return f"Python {platform.python_version()}, jax {jax.__version__}, {count} packages fit"


def _needed(package: str, extras: Iterable[str]) -> Iterator[Requirement]:
    """What a package asks for on this machine and, after each, what its own extras ask for."""
    _version(package, mend="pip install -e .")
    for each in map(Requirement, importlib.metadata.requires(package) or []):
        settings = [{"extra": extra} for extra in ("", *extras)]
        if each.marker is None or any(map(each.marker.evaluate, settings)):
            yield each
            if each.extras:
                yield from _needed(each.name, each.extras)


def _version(package: str, mend: str) -> str:
    """Raises UserError: it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{package} is not installed: {mend}") from None


def _plain(requirement: Requirement) -> str:
    """As pip takes it, for it does not take a marker of an extra."""
    return str(requirement).partition(";")[0].strip()


def devices(wanted: str | None) -> str:
    """Each of this process's devices multiplies two matrices and is right."""
    found = jax.local_devices()
    if wanted and found[0].platform != wanted:
        raise UserError(
            f"--platform={wanted}: JAX sees {found[0].platform} only; pip install "
            f"'bertjax[{wanted}]', and look whether another process holds the devices"
        )
    draw = np.random.default_rng(0)
    one, two = draw.standard_normal((2, _SIDE, _SIDE), np.float32)
    for device in found:
        a, b = (jax.device_put(jnp.asarray(x, jnp.bfloat16), device) for x in (one, two))
        product = jnp.matmul(a, b, preferred_element_type=jnp.float32)
        wrong = np.abs(np.asarray(product) - one @ two).max() / np.sqrt(_SIDE)
        if not wrong < _ERROR:
            host = f" of {platform.node()}" if distributed.several() else ""
            raise UserError(
                f"{device}{host}: a product of matrices is wrong by {wrong:.2g}; replace it"
            )
    memory = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in found]
    room = f", {min(memory) / 2**30:.1f} GiB each" if all(memory) else ""
    known = chips.peak(found[0])
    speed = f", {known / 1e12:,.0f} TFLOP/s" if known else ""
    return f"{len(found)} x {found[0].device_kind}{room}{speed}, each computes right"


def processes() -> str:
    """All processes see each other: a sum over the devices of all."""
    count, everywhere = jax.process_count(), jax.device_count()
    if count == 1:
        return "one process"
    mesh = partition.make_mesh()
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    ones = jax.make_array_from_callback((everywhere,), sharding, lambda _: np.ones(1, np.float32))
    if float(jnp.sum(ones)) != everywhere:
        raise UserError("the devices do not add up across processes; start all machines anew")
    return f"{count} processes with {everywhere} devices add up"


def records(inputs: Inputs) -> str:
    """All files are there, and a whole one of each folder is as it was written."""
    # A folder may serve several phases.
    opened = list(dict.fromkeys(phase.records for phase in inputs.phases))
    if inputs.held_out is not None:
        opened.append(inputs.held_out)
    for each in opened:
        _check_first(each)
    return ", ".join(f"{each.folder}: {len(each):,}" for each in opened)


def _check_first(each: Records) -> None:
    """Raises UserError: a byte of the first file has changed; sizes are checked at opening."""
    first = each.manifest.shards[0]
    path = each.place / first.file
    if sha256(path) != first.sha256:
        mend = "copy it again"
        if storage.is_remote(each.folder):
            mend = "delete it, and it is copied from the bucket again"
        raise UserError(f"{path}: is damaged; {mend}")


def model(init: str) -> str:
    """The model that --init names is read as the run will read it."""
    start = pretrained.find(init)
    return f"{start.name}: {start.config.encoder}, {start.config.vocab_size:,} entries"


def files(places: Mapping[str, Path]) -> str:
    """{flag: file or folder}: each is there and can be read.

    Raises:
      UserError: one is not there, or is an empty folder.
    """
    for name, place in places.items():
        if place.is_file():
            with place.open("rb") as file:
                file.read(1)
        elif not (place.is_dir() and any(place.iterdir())):
            raise UserError(
                f"--{name}={place}: no such file, and no folder that holds any, on "
                f"{platform.node()}; copy it there, or give another place"
            )
    return ", ".join(map(str, places.values()))


def checkpoint_bytes(opened: Opened) -> int:
    """What a run's checkpoints take: the last ones, the best one, and one being written."""
    made = opened.program
    one = checkpoint.size(state.abstract_state(made.init, made.optimizer, opened.mesh))
    return one * (opened.config.keep_last + 2)


def workdir(folder: Path, need: int) -> str:
    """Can be written to, and has room for checkpoints of so many bytes; 0: not known."""
    if storage.is_remote(folder):
        orbax_manager.check_client(folder)
        probe = folder / f"doctor-{jax.process_index()}"
        probe.write_bytes(b"bertjax")
        probe.unlink()
        return f"{folder}: can be written to"
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    _check_shared(folder, there)
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"bertjax")
    # A run that goes on has written some of them, and removes them for new ones.
    held = storage.files_below(folder / run_folder.CHECKPOINTS)
    need = max(0, need - sum(map(storage.size, held)))
    free = shutil.disk_usage(there).free
    if free < need:
        raise UserError(
            f"{folder}: {free / 1e9:,.1f} GB are free, checkpoints will take {need / 1e9:,.1f}; "
            "free some space, choose another --workdir or a smaller keep_last"
        )
    room = f", {free / 1e9:,.1f} GB are free"
    if need:
        room = f"; {need / 1e9:,.2f} of {free / 1e9:,.1f} GB for checkpoints"
    return f"{folder}: can be written to{room}"


def _check_shared(folder: Path, there: Path) -> None:
    """Raises UserError: what the first process writes is not seen by all."""
    if not distributed.several():
        return
    # Another run that begins at the same time may look at the same folder.
    probe = there / f".bertjax-doctor-{zlib.crc32(str(folder).encode()):08x}"
    if distributed.is_first():
        probe.touch()
    distributed.wait("probe written")
    seen = distributed.everywhere(probe.exists())
    if distributed.is_first():
        probe.unlink(missing_ok=True)
    if not seen:
        raise UserError(
            f"{folder}: is another folder on each host; give one that all of them share"
        )


def main() -> None:
    flags = parse_arguments()

    def look(name: str, check: Callable[[], str]) -> None:
        print(f"{name:<10}{check()}", flush=True)

    look("packages", lambda: packages(flags.platform))
    look("devices", lambda: devices(flags.platform))
    look("processes", processes)
    need = 0
    if flags.config:
        opened = open_run(flags.config, flags.overrides)
        look("records", lambda: records(opened.inputs))
        if flags.workdir:
            need = checkpoint_bytes(opened)
    if flags.init:
        look("init", lambda: model(flags.init))
    given = {name: getattr(flags, name) for name in FILES if getattr(flags, name)}
    if given:
        look("files", lambda: files(given))
    if flags.workdir:
        look("workdir", lambda: workdir(flags.workdir, need))


if __name__ == "__main__":
    sys.exit(distributed.run(main))
