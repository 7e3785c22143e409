"""Child processes that do not outlive the run that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def dies_with(parent: int, *_: object) -> None:
    """Called in a child: when process `parent` is killed, so is this one (Linux). An orphan would hold the runs folder's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before this was set
            os._exit(1)
