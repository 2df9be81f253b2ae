"""Tells the C library how to hold memory: to keep what training frees, to reserve little.

XLA allocates and frees large buffers in every step. glibc gives such buffers back to the kernel at
once, and every step then pays for hundreds of thousands of page faults: keeping them speeds up
training on CPUs by about half. A build, in turn, must do with little, and glibc reserves 64 MB for
every thread.
"""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3) in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Call before the first computation; does nothing where the C library has no mallopt."""
    # One heap for all threads, never split off by mmap, never shrunk.
    _set((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))


def share_one_heap() -> None:
    """Call before the first thread starts; does nothing where the C library has no mallopt."""
    _set((_M_ARENA_MAX, 1))


def _set(*parameters: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in parameters:
            mallopt(name, value)
