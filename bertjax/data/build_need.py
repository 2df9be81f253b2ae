"""What a build needs of memory and disk, told before it starts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from bertjax.data.build_settings import BuildSettings
from bertjax.errors import UserError
from bertjax.files import storage, text_files
from bertjax.files.packings import PACKINGS

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
# Measured: what a process takes with its libraries and tables, and a worker with its job.
_PARENT_BYTES, _WORKER_BYTES = 150 * 10**6, 200 * 10**6
_LEAST_BYTES = 500 * 10**6
# A token is about four bytes of English text; a masked record has about 7 bytes a position.
_TOKENS_PER_BYTE, _STATIC_BYTES, _FILLED = 0.25, 7.0, 0.85


def parse_memory(given: str) -> int:
    """ "2GB", "512M" or a number of bytes. Raises UserError: not such, or too little."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", given.strip(), re.IGNORECASE)
    if not match:
        raise UserError(f"--memory={given}: write it like 2GB or 800MB")
    size = int(float(match[1]) * _UNITS[match[2].upper()])
    if size < _LEAST_BYTES:
        raise UserError(f"--memory={given}: give at least {_LEAST_BYTES // 10**6}MB")
    return size


def workers(wanted: int, memory: int) -> int:
    """As many processes as fit; says so where they are fewer."""
    room = max(1, (memory * 3 // 4 - _PARENT_BYTES) // _WORKER_BYTES)
    if room < wanted:
        print(f"{room} of {wanted} workers fit into --memory={memory / 1e9:g}GB")
    return min(wanted, room)


def run_bytes(memory: int) -> int:
    """Tokens gathered before they are sorted and written; they stand in memory twice then."""
    return memory // 64


def text_bytes(sources: Sequence[str | Path]) -> int:
    """How much text the files hold, about; of data sets nothing is known."""
    files = [source for source in sources if not isinstance(source, str)]
    return int(sum(storage.size(f) * PACKINGS[text_files.packing(f)].expansion for f in files))


def check_disk(output: Path, text: int, settings: BuildSettings) -> None:
    """Raises UserError: the disk has not the room that the build will probably take."""
    tokens = text * _TOKENS_PER_BYTE
    layout = 2.5 if settings.masking == "dynamic" else _STATIC_BYTES / _FILLED
    need = tokens * (2 + settings.dupe_factor * layout)
    folder = next(p for p in (output, *output.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{output}: the build will take about {need / 1e9:,.1f} GB, the disk has "
            f"{free / 1e9:,.1f} GB free; choose another --output, a smaller --dupe_factor or "
            "--masking=dynamic"
        )
