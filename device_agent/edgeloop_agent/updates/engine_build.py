"""Builds a bundle's engines beside the worker, and checks their answers: `python -m …engine_build CONFIG BUNDLE`.

At a low priority, as the worker answers meanwhile. It measures every way, remembers the fastest, and tests it with the bundle's
golden samples. It prints why that failed, as JSON, or "".
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import msgspec

from edgeloop_contract.errors import EdgeloopError, StorageError

NICENESS = 15


def build(config_path: Path, bundle_path: Path) -> str:
    """Why the engines cannot be used, in one sentence; "" where they can."""
    from edgeloop_agent import device_state
    from edgeloop_agent.caches import GraphCache
    from edgeloop_agent.config import load_running
    from edgeloop_agent.updates.canary import check
    from edgeloop_contract.archive import Bundle

    config = load_running(config_path)
    state, runtime = Path(config.state) if config.state else device_state.default_folder(), config.runtime
    with Bundle.open(bundle_path) as bundle:
        try:
            check(config_path, bundle_path, beside=True)
        except EdgeloopError as error:
            device_state.forget_choice(state, bundle, runtime.providers)
            return str(error)
        with contextlib.suppress(StorageError):  # the next start builds, or loads, them again
            device_state.keep_engines(state, bundle, runtime.providers, runtime.variant, GraphCache(state / "graphs", 0).engines)
    return ""


def main(config_path: Path, bundle_path: Path) -> None:
    answer = os.dup(1)  # whatever a provider prints meanwhile would fill the pipe, which nobody reads before the end
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.nice(NICENESS)
    try:
        problem = build(config_path, bundle_path)
    except EdgeloopError as error:
        problem = str(error)
    with os.fdopen(answer, "wb") as out:
        out.write(msgspec.json.encode(problem))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
