"""The agent's one TOML file: its sections as types, and `load`, which checks everything before anything starts."""

from edgeloop_agent.config.loading import load
from edgeloop_agent.config.settings import (
    Api,
    Cache,
    Config,
    Drift,
    Limits,
    Log,
    Network,
    Output,
    Runtime,
    Samples,
    Source,
    Split,
    Tail,
    Thermal,
    Updates,
)

__all__ = [
    "Api", "Cache", "Config", "Drift", "Limits", "Log", "Network", "Output", "Runtime", "Samples", "Source", "Split", "Tail",
    "Thermal", "Updates", "load",
]  # fmt: skip
