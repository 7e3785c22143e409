"""What tests of the agent as a service share: short limits, a watched folder, faults in the worker."""

from __future__ import annotations

import shutil
from pathlib import Path

from commands import HERE
from serving import RECORDING

WINDOWS = 48  # in the golden recording
WATCH = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\nsettle_seconds = 0.1\n'
QUICK = "[limits]\nhang_seconds = 1.5\nrestart_seconds = 0.1\ndrain_seconds = 3\n"


def arrive(inbox: Path, name: str) -> None:
    shutil.copy(RECORDING, inbox / name)


def faulty(tmp_path: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(HERE / "support" / "faults"), "FAULT": str(tmp_path / "fault")}
