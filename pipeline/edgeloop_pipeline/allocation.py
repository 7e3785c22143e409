"""Memory that is freed and asked for again at every step stays with the process.

glibc gets every block above 32 MB from the kernel anew and gives it back when it is freed, so the activations of large images
cost a page fault for each 4 kB, at every layer, at every batch: several times the arithmetic itself on a virtual machine.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

KEPT_BYTES = 1 << 30  # a larger block is still the kernel's
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed() -> None:
    """From now on, in this process. Does nothing where the C library is not glibc: others have no such setting."""
    if libc := _glibc():
        libc.mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 2 * KEPT_BYTES)


def give_back() -> None:
    """What is free now goes back to the kernel: the next stage's peak is its own."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
