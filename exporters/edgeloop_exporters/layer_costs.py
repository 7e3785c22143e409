"""Time and bytes per layer of an ONNX file, from ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np

from edgeloop_agent.runtimes import Array, open_runtime
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import Variant

RUNS = 200


class LayerCost(msgspec.Struct, frozen=True):
    """One kernel of the optimised graph: median time, and bytes of the weights it reads."""

    name: str
    operation: str
    microseconds: float
    weight_bytes: int


def measure(variant: Variant, model: bytes, samples: Array) -> list[LayerCost]:
    """Every kernel in the order it runs; batch 1, one thread. Raises DeviceError when the profile cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        runtime = open_runtime(variant, model, 1, profile=str(Path(folder) / "trace"), optimised_model=str(optimised))
        for i in range(RUNS):
            runtime.run(samples[i % len(samples)][None])
        trace = runtime._session.end_profiling()  # type: ignore[attr-defined]
        try:
            events = json.loads(Path(trace).read_text())
        except (OSError, ValueError) as error:
            raise DeviceError(f"onnxruntime left no readable profile ({error})") from error
        weights = _weight_bytes(optimised)
    taken: dict[str, list[float]] = defaultdict(list)
    operation: dict[str, str] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            node = name.removesuffix("_kernel_time")
            taken[node].append(event["dur"])
            operation[node] = event["args"]["op_name"]
    return [LayerCost(n, operation[n], round(float(np.mean(t[len(t) // 10 :])), 2), weights.get(n, 0)) for n, t in taken.items()]


def _weight_bytes(path: Path) -> dict[str, int]:
    import onnx

    graph = onnx.load(str(path)).graph
    sizes = {i.name: len(i.raw_data) or i.ByteSize() for i in graph.initializer}
    return {n.name: sum(sizes.get(i, 0) for i in n.input) for n in graph.node}
