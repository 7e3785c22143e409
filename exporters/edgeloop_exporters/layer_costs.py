"""Time and bytes per layer of an ONNX file, from ONNX Runtime's own profiler."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgeloop_agent.runtimes.kernels import kernels
from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import Variant
from edgeloop_exporters.figures import LayerCost

RUNS = 200


def measure(variant: Variant, model: bytes, samples: Array | Mapping[str, Array]) -> list[LayerCost]:
    """Every kernel in the order it runs; batch 1, one thread. Raises DeviceError when the profile cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        timed = kernels(variant, model, samples, RUNS, optimised_model=str(optimised))
        weights = _weight_bytes(optimised)
    return [LayerCost(k.name, k.operation, k.microseconds, weights.get(k.name, 0)) for k in timed]


def _weight_bytes(path: Path) -> dict[str, int]:
    import onnx

    graph = onnx.load(str(path)).graph
    sizes = {i.name: len(i.raw_data) or i.ByteSize() for i in graph.initializer}
    return {n.name: sum(sizes.get(i, 0) for i in n.input) for n in graph.node}
