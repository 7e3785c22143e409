"""Ends child processes together with the run that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def dies_with(parent: int, *_: object) -> None:
    """Call it in a child: the kernel then kills it with process `parent` (Linux). An orphan would keep the runs folder's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent was killed before this call
            os._exit(1)
