"""Keeps compiled programs between runs, so that the second start of a shape takes no compiling."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax

from bertjax.files import storage

_CPU_FACTS = Path("/proc/cpuinfo")
# What compiles faster is not worth a file.
_LEAST_SECONDS = 0.5


def turn_on() -> None:
    """Uses $JAX_COMPILATION_CACHE_DIR if it is set, else ~/.cache/bertjax/compiled/<machine>."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)


def folder() -> Path:
    """A folder of its own for every kind of processor: a home may be shared by several machines,
    and a program compiled for one's instructions would end on another."""
    facts = _CPU_FACTS.read_text(encoding="utf-8") if _CPU_FACTS.exists() else platform.processor()
    flags = next(
        (line for line in facts.splitlines() if line.startswith(("flags", "Features"))), ""
    )
    machine = hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:12]
    return storage.cache() / "compiled" / machine
