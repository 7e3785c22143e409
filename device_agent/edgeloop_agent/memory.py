"""What this device found out about itself, kept between starts: the fastest variant per (bundle, runtimes, hardware)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from edgeloop_agent.hardware import machine
from edgeloop_agent.measure import Measured
from edgeloop_agent.runtimes import RUNTIMES, version_of
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import DeviceError, StorageError
from edgeloop_contract.manifest import Variant


class Choice(msgspec.Struct, frozen=True):
    """The variant and thread count that a measurement chose, and why."""

    variant: str
    threads: int
    why: str


def default_folder() -> Path:
    """$EDGELOOP_STATE, else $XDG_STATE_HOME/edgeloop-agent, else ~/.local/state/edgeloop-agent. Not created here."""
    if named := os.environ.get("EDGELOOP_STATE"):
        return Path(named)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edgeloop-agent"


def _file(folder: Path, bundle: Bundle) -> Path:
    parts = [bundle.sha256, machine(), *available().values()]
    return folder / f"fastest-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}.json"


def available() -> dict[str, str]:
    """Runtimes that import on this device, with their versions."""
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = version_of(name)
        except DeviceError:
            continue
    return found


def recall(folder: Path, bundle: Bundle) -> Choice | None:
    """What was remembered for this very bundle, runtimes and hardware; a damaged note counts as none."""
    try:
        return msgspec.json.decode(_file(folder, bundle).read_bytes(), type=Choice)
    except (OSError, msgspec.MsgspecError):
        return None


def remember(folder: Path, bundle: Bundle, choice: Choice) -> Path:
    """Keep `choice`, by rename. Raises StorageError when the folder cannot be written."""
    path = _file(folder, bundle)
    partial = path.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(msgspec.json.encode(choice))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); pass --state a folder that can") from error
    return path


def fastest(variants: list[Variant], measured: list[Measured]) -> Choice | None:
    """The least p50 among the variants that ran; every variant in a bundle has met the accuracy floor already."""
    ran = {m.variant: m.cost for m in measured if m.cost is not None}
    names = [v.name for v in variants if v.name in ran]
    if not names:
        return None
    best = min(names, key=lambda name: ran[name].latency_us_p50)
    return Choice(best, ran[best].threads, f"fastest of {len(names)} measured on this device")


def first_available(variants: list[Variant]) -> Choice:
    """Before any measurement: the first int8 variant, else the first, whose runtime is installed."""
    here = available()
    usable = [v for v in variants if v.runtime in here]
    if not usable:
        wanted = " or ".join(f"pip install '{RUNTIMES[v][1]}'" for v in sorted({v.runtime for v in variants}))
        raise DeviceError(f"none of the bundle's runtimes is installed here; {wanted}")
    best = next((v for v in usable if v.precision == "int8"), usable[0])
    return Choice(best.name, 1, "not measured on this device yet: run edgeloop-agent bench")
