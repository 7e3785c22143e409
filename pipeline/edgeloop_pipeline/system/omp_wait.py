"""How torch's threads wait for each other; to be settled before torch is loaded."""

from __future__ import annotations

import os

TURNS = "1000"  # microseconds: enough for the next layer to come, too few to be in another process's way


def soon_sleep() -> None:
    """Threads that wait by spinning, as libgomp's do by default, keep another process, and each other, from the core."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", TURNS)
