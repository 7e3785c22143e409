"""Energy of a run, measured where the machine has a meter: RAPL counters of the CPU, NVML of the GPUs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from edgeloop_agent.runtimes import Runtime
from edgeloop_agent.runtimes.named import calls
from edgeloop_contract.arrays import Array

__all__ = ["NO_METER", "Meter", "microjoules"]

POWERCAP = Path("/sys/class/powercap")
NO_METER = "not measured: no readable RAPL counters (a virtual machine, or not root) and no NVML"


class Meter:
    """Joules since it was made. Only whole packages are read (`intel-rapl:0`), as their parts are in them."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self.powercap = powercap
        self._start = self._read()

    @property
    def names(self) -> list[str]:
        return sorted(self._start)

    def joules(self) -> float | None:
        """Joules since the start; None without a meter. Handles a counter that wrapped around."""
        if not self._start:
            return None
        now = self._read()
        return sum(self._since(name, then, now.get(name, then)) for name, then in self._start.items())

    def text(self) -> str:
        joules = self.joules()
        return NO_METER if joules is None else f"{joules:,.0f} J ({', '.join(self.names)})"

    def _since(self, name: str, then: float, now: float) -> float:
        if now >= then:
            return now - then
        try:
            return now - then + int((self.powercap / name / "max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError):
            return 0.0

    def _read(self) -> dict[str, float]:
        joules = {}
        for zone in self.powercap.glob("*-rapl:[0-9]*"):
            if zone.name.count(":") == 1:
                try:
                    joules[zone.name] = int((zone / "energy_uj").read_text()) / 1e6
                except (OSError, ValueError):
                    continue
        return joules | _nvml()


def microjoules(runtime: Runtime, samples: Array | Mapping[str, Array], seconds: float, powercap: Path = POWERCAP) -> float | None:
    """Of one inference of one sample: the whole package while it runs, what it draws when idle included. None without a meter."""
    run, rows = calls(runtime, samples)
    meter, count, deadline = Meter(powercap), 0, time.perf_counter() + seconds
    if not meter.names:
        return None
    while time.perf_counter() < deadline:
        run(rows[count % len(rows)])
        count += 1
    return 1e6 * (meter.joules() or 0.0) / max(1, count)


def _nvml() -> dict[str, float]:
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {f"GPU {i}": pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3 for i, h in enumerate(handles)}
    except pynvml.NVMLError:
        return {}
