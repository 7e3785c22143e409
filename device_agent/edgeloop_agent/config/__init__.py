"""The agent's one TOML file: its sections as types, and `load`, which checks everything before anything starts."""

from edgeloop_agent.config.loading import load
from edgeloop_agent.config.settings import (
    Api,
    Cache,
    Chain,
    Config,
    CountedLine,
    CountedZone,
    Drift,
    Limits,
    Log,
    Network,
    Output,
    Runtime,
    Samples,
    Split,
    Tail,
    Thermal,
    Tracking,
    Updates,
)
from edgeloop_agent.config.source_settings import Camera, Source

__all__ = [
    "Api", "Cache", "Camera", "Chain", "Config", "CountedLine", "CountedZone", "Drift", "Limits", "Log", "Network", "Output",
    "Runtime", "Samples", "Source", "Split", "Tail", "Thermal", "Tracking", "Updates", "load",
]  # fmt: skip
