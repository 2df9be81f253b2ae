"""Makes the C library keep freed memory, which speeds up training on CPUs by about half.

XLA allocates and frees large buffers in every step. glibc gives such buffers back to the kernel at
once, and every step then pays for hundreds of thousands of page faults.
"""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3) in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Call before the first computation; does nothing where the C library has no mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # One heap for all threads, never split off by mmap, never shrunk.
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
