"""Memory that is freed and asked for again at every step stays with the process.

glibc gets every block above 32 MB from the kernel anew and gives it back when it is freed, so the activations of large images
cost a page fault for each 4 kB, at every layer, at every batch: several times the arithmetic itself on a virtual machine.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

MAX_KEPT_BYTES = 1 << 30  # a larger block is still the kernel's
KEPT_SHARE = 16  # of what is free: the same of a machine with little memory, where holes between kept blocks would hurt
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed() -> None:
    """From now on, in this process. Does nothing where the C library is not glibc: others have no such setting."""
    if libc := _glibc():
        kept = min(MAX_KEPT_BYTES, free_bytes() // KEPT_SHARE)
        libc.mallopt(_MMAP_THRESHOLD, kept)
        libc.mallopt(_TRIM_THRESHOLD, 2 * kept - 1)  # a C int


def give_back() -> None:
    """What is free now goes back to the kernel: the next stage's peak is its own."""
    if libc := _glibc():
        libc.malloc_trim(0)


def free_bytes() -> int:
    """Memory that could still be had on this machine, within its container's limit. Linux alone."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, limit - used)


@cache
def _glibc() -> Any:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
