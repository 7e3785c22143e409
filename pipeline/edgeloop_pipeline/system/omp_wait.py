"""Sets how torch's threads wait for each other, before torch is loaded."""

from __future__ import annotations

import os

TURNS = "1000"  # microseconds: long enough for the next layer to begin, short enough not to disturb other processes


def soon_sleep() -> None:
    """Let waiting threads sleep soon. libgomp's threads spin by default, which keeps other threads from the core."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", TURNS)
