"""The trial of a config that a rollout brought, in the worker that runs it. Another config needs another worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloop_agent.config import ROLLED_OUT, SEEN_CONFIGS, Updates
from edgeloop_agent.updates.config_slots import sha256_in_use
from edgeloop_agent.updates.journal import UpdateFolder
from edgeloop_agent.updates.own_trial import OwnTrial

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts


def ask_supervisor() -> None:
    """Let the supervisor choose the config anew; a worker without one goes on."""
    if "EDGELOOP_RESTARTS" in os.environ:
        os.kill(os.getppid(), signal.SIGHUP)


def config_trial(file: Path, folder: UpdateFolder, counts: Counts, log: Log, settings: Updates) -> OwnTrial:
    """`file`: the config in use."""
    seen, came = int(os.environ.get(SEEN_CONFIGS) or -1), bool(os.environ.get(ROLLED_OUT))
    return OwnTrial(
        "config", sha256_in_use(folder, file), folder, counts, log, settings, ask_supervisor, seen, came, source_counts=True
    )
