"""What can be published beside bundles: the kinds of signed targets, and what the hub can hold them against."""

from __future__ import annotations

import json
import re

__all__ = [
    "AGENT", "AGENT_MODEL", "BUNDLE", "CONFIG", "CONFIG_MODEL", "DELTA", "MANIFEST", "MAX_CONFIG_BYTES", "SHIPPED",
    "config_problem", "kind_of_model", "name_problem", "shipped_file", "shipped_problem",
]  # fmt: skip

BUNDLE, CONFIG, DELTA, AGENT = "bundle", "config", "delta", "agent"  # `kind` in a target's custom part; without one it is a bundle
MANIFEST = "manifest"  # in an agent's custom part: bytes and digest of the wheelhouse's list of wheels
SHIPPED = "return-to-shipped"  # of an agent: to the packaged one; of a config: to the device's own file
CONFIG_MODEL, AGENT_MODEL = "config:", "agent:"  # before the name of a config or an agent, where a bundle has its model's name
MAX_CONFIG_BYTES = 256 << 10


def kind_of_model(model: str) -> str:
    """What is published under this name."""
    return CONFIG if model.startswith(CONFIG_MODEL) else AGENT if model.startswith(AGENT_MODEL) else BUNDLE


def name_problem(kind: str, model: str, version: object) -> str:
    """What is wrong with the name or the version of a config or an agent; "" where nothing is."""
    if not re.fullmatch(rf"{kind}:[a-z0-9][a-z0-9-]{{0,62}}", model):
        return f"{model[:80]!r} names no {kind}; use a-z, 0-9 and -, up to 63 of them"
    if not isinstance(version, int) or isinstance(version, bool) or not 0 < version < 1 << 53:
        return "its version is no whole number above 0"
    return ""


def config_problem(content: bytes, model: str, version: object) -> str:
    """Why these bytes are no config for devices, as far as anybody but a device can tell; "" where nothing is wrong."""
    if problem := name_problem(CONFIG, model, version):
        return problem
    if len(content) > MAX_CONFIG_BYTES:
        return f"{len(content)} bytes; a config has {MAX_CONFIG_BYTES} at most"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "it is no UTF-8 text"
    return ""


def shipped_file(model: str, version: int) -> bytes:
    """The bytes of a return to what devices were shipped with. No device needs them: signed metadata list files alone."""
    return json.dumps({SHIPPED: model, "version": version}).encode() + b"\n"


def shipped_problem(content: bytes, model: str, version: object) -> str:
    """Why this is no return to what devices were shipped with; "" where nothing is wrong."""
    kind = kind_of_model(model)
    if kind == BUNDLE:
        return f"{model[:80]!r}: agents and configs have a way back; publish the bundle itself again"
    if problem := name_problem(kind, model, version):
        return problem
    return "" if content == shipped_file(model, int(str(version))) else "its file is not what it must be"
