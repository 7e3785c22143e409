"""Temperature and power of the board: thermal zones, Pi throttling flags, Jetson's power monitors, RAPL on a PC, batteries."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

import msgspec

from edgeloop_agent.energy import Meter

SYSTEM = Path("/sys")
# Bits of vcgencmd get_throttled, and of the firmware's file in sysfs (Raspberry Pi documentation).
THROTTLING = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
COMMAND_SECONDS = 1.0


class Reading(msgspec.Struct, frozen=True):
    """One reading. None: not measurable here. `throttled`: limits that the firmware applies now.

    `battery`: share of its charge, while it discharges.
    """

    celsius: float | None
    throttled: tuple[str, ...] | None
    watts: float | None
    joules: float | None  # since the agent started, by a counter
    battery: float | None = None


class Sensor(Protocol):
    def read(self) -> Reading: ...


class Board:
    """The sensors of this machine. `system`: where sysfs is (a folder of made files, in tests)."""

    def __init__(self, system: Path = SYSTEM, vcgencmd: str = "vcgencmd") -> None:
        self.system, self.vcgencmd = system, vcgencmd
        self._meter = Meter(self.system / "class" / "powercap")
        self._firmware: Path | None = next(self.system.glob("devices/platform/soc/soc:firmware/get_throttled"), None)
        self._ask = self._firmware is None

    def read(self) -> Reading:
        return Reading(self._celsius(), self._throttled(), self._watts(), self._meter.joules(), self._battery())

    def _celsius(self) -> float | None:
        """The hottest zone; the processor's zone has another name on every board."""
        readings = [c for zone in self.system.glob("class/thermal/thermal_zone*/temp") if (c := _number(zone)) is not None]
        plausible = [c / 1000 for c in readings if -40_000 < c < 150_000 and c != 0]
        return max(plausible, default=None)

    def _throttled(self) -> tuple[str, ...] | None:
        if self._firmware is None and (not self._ask or shutil.which(self.vcgencmd) is None):
            self._ask = False
            return None
        import subprocess  # only on a Pi: the import is slow

        try:
            if self._firmware is not None:
                flags = int(self._firmware.read_text().strip(), 16)
            else:
                done = subprocess.run(
                    [self.vcgencmd, "get_throttled"], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
                )
                flags = int(done.stdout.strip().partition("=")[2], 16)
        except (OSError, ValueError, subprocess.SubprocessError):
            self._ask = False  # not a Pi: do not start a process every few seconds
            return None
        return tuple(name for bit, name in THROTTLING.items() if flags >> bit & 1)

    def _watts(self) -> float | None:
        """Power by a Jetson's INA monitors: the rail of the whole board if there is one, else the sum of all rails."""
        rails: dict[str, float] = {}
        for voltage in self.system.glob("class/hwmon/hwmon*/in*_input"):
            number = voltage.name.removeprefix("in").removesuffix("_input")
            label = _text(voltage.with_name(f"in{number}_label"))
            millivolts, milliamperes = _number(voltage), _number(voltage.with_name(f"curr{number}_input"))
            if label and millivolts is not None and milliamperes is not None:
                rails[label] = millivolts * milliamperes / 1e6
        if not rails:
            return None
        return next((w for name, w in rails.items() if name in ("VDD_IN", "POM_5V_IN")), sum(rails.values()))

    def _battery(self) -> float | None:
        """Charge of the emptiest of the board's own batteries; a peripheral's battery has the scope Device."""
        charges = []
        for supply in self.system.glob("class/power_supply/*"):
            share = _number(supply / "capacity")
            own = _text(supply / "type") == "Battery" and _text(supply / "scope") != "Device"
            if own and share is not None and 0 <= share <= 100 and _text(supply / "status") == "Discharging":
                charges.append(share / 100)
        return min(charges, default=None)


def describe(reading: Reading) -> dict[str, str]:
    """A reading in words, for `check`."""
    return {k: "not measurable here" if v is None else str(v) for k, v in msgspec.structs.asdict(reading).items()}


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
