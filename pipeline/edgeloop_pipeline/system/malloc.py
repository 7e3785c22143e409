"""Keeps freed memory in the process, because every training step needs it again.

glibc takes every block above 32 MB anew from the kernel and gives it back when it is freed. So the activations of large images
cost a page fault for each 4 kB, in every layer and batch. On a virtual machine, this takes several times as long as the arithmetic.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

MAX_KEPT_BYTES = 1 << 30  # a larger block still goes back to the kernel
KEPT_SHARE = 16  # 1/16 of the free memory: with little memory, holes between kept blocks would be harmful
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed() -> None:
    """Keep freed memory in this process from now on. Does nothing without glibc: other C libraries have no such setting."""
    if libc := _glibc():
        kept = min(MAX_KEPT_BYTES, free_bytes() // KEPT_SHARE)
        libc.mallopt(_MMAP_THRESHOLD, kept)
        libc.mallopt(_TRIM_THRESHOLD, 2 * kept - 1)  # a C int


def give_back() -> None:
    """Give free memory back to the kernel, so that it does not count in the next stage's peak."""
    if libc := _glibc():
        libc.malloc_trim(0)


def free_bytes() -> int:
    """The free memory of this machine in bytes, within its container's limit. Linux only."""
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
