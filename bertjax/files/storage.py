"""Paths as users give them: of this machine, or gs://BUCKET/... in Google Cloud Storage.

In a bucket a file appears when all of it is written; but nothing there can be appended to or mapped
into memory, and a folder is renamed file by file. What needs that is done in a local folder and
copied.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from bertjax.errors import UserError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_BUCKET = re.compile(r"gs://[^/]+")
# Each waits for the network most of the time.
AT_ONCE = 16


def path(name: str | os.PathLike[str]) -> Path:
    """What a user's text means; a path in a bucket is etils', which answers as pathlib's does.

    Raises:
      UserError: an address of another kind, which must not become a folder of that name.
    """
    text = os.fspath(name)
    if not _ADDRESS.match(text):
        return Path(text)
    if not _BUCKET.match(text):
        raise UserError(f"{text}: no such kind of path; give a local one or gs://BUCKET/...")
    from etils import epath  # Most commands need none.

    return cast(Path, epath.Path(text))


def local_path(name: str) -> Path:
    """A path of this machine. Raises UserError: one in a bucket."""
    found = path(name)
    if is_remote(found):
        raise UserError(f"{name}: must be a local folder here; copy it: gcloud storage cp -r")
    return found


def is_remote(place: Path) -> bool:
    """Whether it lies in a bucket."""
    return bool(_BUCKET.match(os.fspath(place)))


def size(file: Path) -> int:
    """Bytes of a file."""
    found: Any = file.stat()
    return found.length if is_remote(file) else found.st_size


def modified(file: Path) -> int:
    """When a file was last written, in nanoseconds since 1970."""
    found: Any = file.stat()
    return found.mtime * 10**9 if is_remote(file) else found.st_mtime_ns


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and those in it."""
    if not is_remote(folder):
        return [file for file in folder.rglob("*") if file.is_file()]
    remote: Any = folder
    return [top / name for top, _, names in remote.walk() for name in names]


def matching(pattern: str) -> list[Path]:
    """The files that a pattern of a shell stands for, sorted; ** only on this machine.

    Raises:
      UserError: ** in a bucket.
    """
    found: Iterable[Path]
    if not is_remote(path(pattern)):
        found = map(Path, glob.glob(pattern, recursive=True))
    elif "**" in pattern:
        raise UserError(f"{pattern}: ** cannot be asked of a bucket; give the folder itself")
    else:
        bucket, _, inner = pattern.removeprefix("gs://").partition("/")
        found = path(f"gs://{bucket}").glob(inner)
    return sorted(file for file in found if file.is_file())


def check_writable(folder: Path) -> None:
    """Raises OSError: a local folder, or the nearest above it that is there, takes no files.

    Nothing is left there. Of a bucket nothing is asked.
    """
    if is_remote(folder):
        return
    if folder.is_file():
        raise FileExistsError(errno.EEXIST, "is a file", str(folder))
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        error.filename = str(folder)  # And not the name of what was tried.
        raise


def remove_folder(folder: Path) -> None:
    """Deletes a folder with all that is in it, if there is one."""
    if is_remote(folder):
        remote: Any = folder
        remote.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Copies a file to or from a bucket, in place of another; there it appears when it is whole."""
    from etils import epath

    epath.Path(source).copy(target, overwrite=True)


def upload(folder: Path, target: Path, last: str = "") -> None:
    """Copies a local folder's files into a bucket; the one called `last` tells that all came."""
    names = [file.relative_to(folder).as_posix() for file in files_below(folder)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        first = [name for name in names if name != last]
        list(pool.map(lambda name: copy(folder / name, target / name), first))
    if last in names:
        copy(folder / last, target / last)


@contextmanager
def local(file: Path) -> Iterator[Path]:
    """The file itself; of one in a bucket a copy, which goes with the context."""
    if not is_remote(file):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder, file.name)
        copy(file, copied)
        yield copied


def cache() -> Path:
    """The folder of what can be fetched or computed again: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bertjax"


class Outbox:
    """A local folder for what is appended to; `send` copies its files to where they belong.

    Where that is a local folder it is that itself.
    """

    def __init__(self, folder: Path) -> None:
        self._target = folder
        self._made = tempfile.TemporaryDirectory() if is_remote(folder) else None
        self.folder = Path(self._made.name) if self._made else folder

    def send(self) -> None:
        if self._made:
            upload(self.folder, self._target)

    def close(self) -> None:
        """Sends a last time."""
        self.send()
        if self._made:
            self._made.cleanup()
