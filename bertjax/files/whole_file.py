"""Writes a file or a folder in full or not at all, whatever happens in between."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertjax.files import storage


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to: it becomes `path` at the end, or is removed after an error."""
    if storage.is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder, path.name)
            yield partial
            storage.copy(partial, path)
        return
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        # A write that fails does not say where.
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file's content; the folder is made if there is none."""
    if not storage.is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_bytes(content)


@contextmanager
def whole_folder(folder: Path, last: str) -> Iterator[Path]:
    """A temporary folder to write to: it becomes `folder` at the end, or goes after an error.

    In a bucket its files appear one by one, and the one called `last` when all others are there.
    """
    if storage.is_remote(folder):
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
            storage.upload(Path(made), folder, last)
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # One that was killed leaves it.
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """The folder itself; for one in a bucket a local one, which is copied there at the end.

    An error leaves the local one, for the same command to go on with. `last` as in whole_folder.
    """
    if not storage.is_remote(folder):
        yield folder
        return
    here = storage.cache() / "staged" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    yield here
    storage.upload(here, folder, last)
    shutil.rmtree(here)
