"""What a device's reports from one bundle say, added up: bounded, however many reports there are."""

from __future__ import annotations

import msgspec

from edgeloop_hub.rollouts.label_mix import LabelMixes


class DeviceEvidence(msgspec.Struct, gc=False):
    """One device's reports from one bundle, added up. `worked`: its model has answered something.

    A tick reads one for each device: a struct is decoded in half of the time, and nothing in it needs the garbage collector.
    """

    hours: float = 0.0
    crashes: float = 0.0
    latency_us_p95: float = 0.0  # the sum over `latency_reports`
    latency_reports: int = 0
    answers: int = 0
    confidence_sum: float = 0.0
    confidence_reports: int = 0
    confidence_means: float = 0.0  # sums over reports, of their means and of the squares of these
    confidence_mean_squares: float = 0.0
    labels: dict[str, int] = {}
    mixes: LabelMixes = msgspec.field(default_factory=LabelMixes)
    drift: float = 0.0  # the sum over `drift_reports`
    drift_reports: int = 0
    right: int = 0
    labelled: int = 0
    worked: bool = False

    @property
    def confidence(self) -> float | None:
        return self.confidence_sum / self.answers if self.answers else None


ByDevice = dict[str, DeviceEvidence]
