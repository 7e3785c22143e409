"""Computes the return on investment: the cost of inference on the device and in the cloud, and when devices pay.

Measured figures come from the recipe's last run; all other figures are assumptions of the recipe's `roi` table, and each result
lists them. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from edgeloop_pipeline.recipe.settings import Prices

MONTH_DAYS = 365.25 / 12
MILLION = 1e6
JOULES_PER_KWH = 3.6e6
FLIP_RANGE = 1000.0  # an assumption changes by at most this factor, up or down
PHASES = (("pilot", 0.0), ("10 %", 0.1), ("all", 1.0))
Fraction01 = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Measured:
    """The measured cost of one inference. `device_us`, `cloud_us`: of int8 file and float teacher; `energy_uj` None: no meter.

    `input_bytes`: of one sample in the model's input format.
    """

    device_us: float
    cloud_us: float
    energy_uj: float | None
    input_bytes: int
    machine: str


@dataclass(frozen=True)
class Line:
    """The cost of a million inferences, by part."""

    where: str
    energy: float
    hardware: float
    compute: float
    traffic: float

    @property
    def total(self) -> float:
        return self.energy + self.hardware + self.compute + self.traffic


@dataclass(frozen=True)
class Flip:
    """The factor by which one assumption alone must change to reverse the answer. `factor` None: not within 1000 times."""

    name: str
    value: float
    factor: float | None


@dataclass(frozen=True)
class Phase:
    name: str
    devices: float
    invested: float
    saves_per_month: float
    payback_months: float | None
    must_show: str


@dataclass(frozen=True)
class Answer:
    lines: list[Line]
    payback_months: float | None
    flips: list[Flip]
    phases: list[Phase]
    energy_is_measured: bool

    @property
    def cheapest(self) -> str:
        return min(self.lines, key=lambda line: line.total).where


def lines(m: Measured, p: Prices) -> list[Line]:
    """The costs of a million inferences: all on the device, all in the cloud, and a cascade that sends a share."""
    joules = m.energy_uj / 1e6 if m.energy_uj is not None else m.device_us / 1e6 * p.device_watts
    energy = joules * MILLION / JOULES_PER_KWH * p.electricity_per_kwh
    per_month = p.inferences_per_day * MONTH_DAYS
    hardware = (p.device_cost / (p.device_years * 12) + p.upkeep_per_device_month) / per_month * MILLION
    compute = m.cloud_us / 1e6 / 3600 * p.cloud_per_hour / max(p.cloud_utilisation, 1e-6) * MILLION
    traffic = m.input_bytes / 1e9 * p.traffic_per_gb * MILLION
    share = p.split_share
    return [
        Line("device", energy, hardware, 0.0, 0.0),
        Line("cloud", 0.0, 0.0, compute, traffic),
        Line("split", energy, hardware, share * compute, share * traffic),
    ]


def answer(m: Measured, p: Prices) -> Answer:
    """The whole answer, as the page shows it."""
    return Answer(
        lines(m, p), payback(m, p, p.devices), sorted(_flips(m, p), key=lambda f: (f.factor is None, _distance(f))), _phases(m, p),
        m.energy_uj is not None,
    )  # fmt: skip


def saving(m: Measured, p: Prices, devices: float) -> float:
    """The saving in a month: the cost of the cloud, less electricity, upkeep and the project's running costs."""
    device, cloud, _ = lines(m, p)
    millions = p.inferences_per_day * MONTH_DAYS / MILLION
    per_device = (cloud.total - device.energy) * millions - p.upkeep_per_device_month
    return per_device * devices - p.project_cost_per_month


def payback(m: Measured, p: Prices, devices: float) -> float | None:
    """The months until the saving has paid for devices and project; None: never."""
    gain = saving(m, p, devices)
    return (p.device_cost * devices + p.project_cost) / gain if gain > 0 else None


def _wins(m: Measured, p: Prices) -> bool:
    found = payback(m, p, p.devices)
    return found is not None and found <= p.device_years * 12


def _flips(m: Measured, p: Prices) -> list[Flip]:
    """For each assumption alone, the value at which devices begin or cease to pay within their life; by bisection on logarithms."""
    now, found = _wins(m, p), []
    for name in Prices.__struct_fields__:
        value = getattr(p, name)
        if not isinstance(value, int | float) or name in ("pilot_devices", "split_share") or not value:
            continue
        ends = [f for f in (FLIP_RANGE, 1 / FLIP_RANGE) if _moved(m, p, name, f) is not now]
        factors = [_edge(m, p, name, end, now) for end in ends]
        found.append(Flip(name, float(value), min(factors, key=lambda f: max(f, 1 / f)) if factors else None))
    return found


def _moved(m: Measured, p: Prices, name: str, factor: float) -> bool:
    value = getattr(p, name) * factor
    return _wins(m, msgspec.structs.replace(p, **{name: min(value, 1.0) if name == "cloud_utilisation" else value}))


def _edge(m: Measured, p: Prices, name: str, end: float, now: bool) -> float:
    same, other = 1.0, end
    for _ in range(50):
        middle = (same * other) ** 0.5
        same, other = (middle, other) if _moved(m, p, name, middle) is now else (same, middle)
    return other


def _distance(flip: Flip) -> float:
    return max(flip.factor, 1 / flip.factor) if flip.factor else FLIP_RANGE


def _phases(m: Measured, p: Prices) -> list[Phase]:
    shows = (
        "the accuracy floor on labelled random samples, no crash, and a gate that holds; the cost pays for this knowledge",
        "the same on other sites, drift alarms at the set rate, and upkeep no higher than assumed",
        "payback as computed here, with each month's measured figures in place of the assumptions",
    )
    found = []
    for (name, share), must in zip(PHASES, shows, strict=True):
        devices = min(p.devices, max(p.pilot_devices, share * p.devices))
        gain = saving(m, p, devices)
        invested = p.device_cost * devices + p.project_cost
        found.append(Phase(name, devices, invested, gain, invested / gain if gain > 0 else None, must))
    return found
