"""`edgeloop-agent check`: everything that can be known before the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeloop_agent import memory
from edgeloop_agent.config import load
from edgeloop_agent.counts import Counts
from edgeloop_agent.hardware import machine
from edgeloop_agent.logs import Log
from edgeloop_agent.loop import describe
from edgeloop_agent.models import Models
from edgeloop_agent.sensors import Board
from edgeloop_agent.sources import SOURCES, open_source


def lines(path: Path) -> Iterator[str]:
    """What the agent would work with, line by line. Raises what the start would raise."""
    config = load(path)
    yield f"{path}: valid"
    yield f"device: {machine()}"
    for runtime, found in memory.available().items():
        yield f"runtime {runtime}: {found}"
    models = Models(config, Counts(), Log("error"))
    for name, manifest in models.manifests.items():
        runs = [v.name for v in manifest.variants if v.runtime in memory.available()]
        yield f"bundle {models.paths[name]}: {name} version {manifest.version}; runs here: {', '.join(runs) or 'nothing'}"
    models.get(models.first)  # what does not run here is said in the log
    for loaded in models.loaded():
        yield f"model {loaded.name}: {loaded.variant} on {loaded.runtime}"
    open_source(config.source)
    yield f"source {config.source.kind}: {SOURCES[config.source.kind].says}"
    yield f"api: {f'http://{config.api.host}:{config.api.port}' if config.api.enabled else 'off'}"
    for what, said in describe(Board().read()).items():
        yield f"{what}: {said}"
