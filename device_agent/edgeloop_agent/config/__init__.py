"""The agent's one TOML file: its sections as types, and `load`, which checks everything before anything starts."""

from edgeloop_agent.config.loading import ROLLED_OUT, SEEN_CONFIGS, check_for_rollout, load, load_running, secrets_in_addresses
from edgeloop_agent.config.settings import (
    Api,
    Cache,
    Chain,
    Config,
    CountedLine,
    CountedZone,
    Drift,
    Jobs,
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
    "ROLLED_OUT", "SEEN_CONFIGS",
    "Api", "Cache", "Camera", "Chain", "Config", "CountedLine", "CountedZone", "Drift", "Jobs", "Limits", "Log",
    "Network", "Output", "Runtime", "Samples", "Source", "Split", "Tail", "Thermal", "Tracking", "Updates", "check_for_rollout",
    "load", "load_running", "secrets_in_addresses",
]  # fmt: skip
