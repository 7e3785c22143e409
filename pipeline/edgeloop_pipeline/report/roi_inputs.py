"""Collects the measured inputs of the return on investment from a finished run."""

from __future__ import annotations

from pathlib import Path

from edgeloop_pipeline.report.roi import Measured
from edgeloop_pipeline.results.files import ProfileResult


def one_inference(profiled: ProfileResult, bundle_path: Path) -> Measured:
    """The measured cost of one inference, from the run's profile and its bundle. Latency in µs, energy in µJ."""
    import numpy as np

    from edgeloop_contract.archive import Bundle

    with Bundle.open(bundle_path) as bundle:
        sample = bundle.manifest.sample
    floats = [network.cost.latency_us_p50 for network in profiled.stages.values()]
    return Measured(
        profiled.variants[profiled.fastest_int8].latency_us_p50, floats[0] if floats else 0.0, profiled.energy_uj,
        int(np.prod(sample.shape)) * np.dtype(sample.dtype).itemsize, profiled.machine,
    )  # fmt: skip
