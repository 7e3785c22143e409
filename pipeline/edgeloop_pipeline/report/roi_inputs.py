"""What one inference took in a finished run: the measured side of the return on investment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeloop_pipeline.report.roi import Measured


def one_inference(profiled: dict[str, Any], bundle_path: Path) -> Measured:
    """What one inference took in a finished run, by what `profile` reported, and the bundle."""
    import numpy as np

    from edgeloop_contract.archive import Bundle

    with Bundle.open(bundle_path) as bundle:
        sample = bundle.manifest.sample
    floats = [stage["cost"]["latency_us_p50"] for stage in profiled["stages"].values()]
    return Measured(
        profiled["variants"][profiled["fastest_int8"]]["latency_us_p50"], floats[0] if floats else 0.0, profiled["energy_uj"],
        int(np.prod(sample.shape)) * np.dtype(sample.dtype).itemsize, profiled["machine"],
    )  # fmt: skip
