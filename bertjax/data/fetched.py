"""Records that lie in a bucket, copied to this machine's disk.

Every process reads records of all shards in a random order, one by one; a bucket would be asked for
each. So the shards are fetched once, and stay for the next start.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bertjax.data import tfrecord
from bertjax.data.manifest import Manifest, Shard
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.whole_file import whole
from bertjax.progress_bar import progress_bar


def place(folder: Path, manifest: Manifest) -> Path:
    """The folder of the shards: itself, or of one in a bucket a local copy.

    That is below storage.cache(), under a name that tells the contents of all shards.

    Raises:
      UserError: the disk has no room.
    """
    if not storage.is_remote(folder):
        return folder
    copied = storage.cache() / "records" / manifest.fingerprint[:16]
    copied.mkdir(parents=True, exist_ok=True)
    with (copied / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # One of the processes of this machine fetches.
        missing = [shard for shard in manifest.shards if not _is_there(copied, shard)]
        _check_room(folder, copied, missing)
        _fetch(folder, copied, missing)
    return copied


def _is_there(copied: Path, shard: Shard) -> bool:
    file = copied / shard.file
    return file.is_file() and storage.size(file) == shard.bytes


def _check_room(folder: Path, copied: Path, missing: Sequence[Shard]) -> None:
    need, free = sum(shard.bytes for shard in missing), shutil.disk_usage(copied).free
    if need > free:
        raise UserError(
            f"{folder}: {need / 1e9:,.1f} GB are to be copied to {copied}, where {free / 1e9:,.1f} "
            "GB are free; free some space or set XDG_CACHE_HOME to a folder of a larger disk"
        )


def _fetch(folder: Path, copied: Path, missing: Sequence[Shard]) -> None:
    def fetch(shard: Shard) -> int:
        file = folder / shard.file
        # The index first: a shard that is there has it, too, unless it never had one.
        for each in filter(lambda each: each.is_file(), (tfrecord.index_path(file), file)):
            with whole(copied / each.name) as partial:
                storage.copy(each, partial)
        return shard.bytes

    total = sum(shard.bytes for shard in missing)
    bar = progress_bar(total=total, unit="B", unit_scale=True, disable=not missing)
    bar.set_description("fetching records")
    with bar, ThreadPoolExecutor(storage.AT_ONCE) as pool:
        for size in pool.map(fetch, missing):
            bar.update(size)
