"""The time of each kernel of an ONNX file, from ONNX Runtime's own profiler."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeloop_agent.runtimes import RuntimeOptions, open_runtime
from edgeloop_agent.runtimes.named import NamedModel, calls
from edgeloop_contract.arrays import Array
from edgeloop_contract.bench_report import Kernel
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import Variant

KERNEL_RUNS = 100


def kernels(
    variant: Variant, model: bytes, samples: Array | Mapping[str, Array], runs: int = KERNEL_RUNS, optimised_model: str = ""
) -> list[Kernel]:
    """Every kernel in the order it runs, by ONNX Runtime's profiler; batch 1, one thread. Raises DeviceError.

    TFLite's Python interface has no profiler: the variant must be ONNX.
    """
    if variant.runtime != "onnx":
        raise DeviceError(f"{variant.name}: only ONNX Runtime tells the time of each kernel")
    with tempfile.TemporaryDirectory() as folder:
        options = RuntimeOptions(profile=str(Path(folder) / "trace"), optimised_model=optimised_model)
        runtime = open_runtime(variant, model, 1, options)
        run, rows = calls(runtime, samples)
        for i in range(runs):
            run(rows[i % len(rows)])
        loaded: Any = runtime.raw if isinstance(runtime, NamedModel) else runtime
        trace = loaded.end_profiling()
        try:
            events = msgspec.json.decode(Path(trace).read_bytes(), type=list[_Event])
        except (OSError, msgspec.MsgspecError) as error:
            raise DeviceError(f"onnxruntime left no readable profile ({error})") from error
    taken: dict[str, list[float]] = defaultdict(list)
    operation: dict[str, str] = {}
    for event in events:
        if event.cat == "Node" and event.name.endswith("_kernel_time"):
            node = event.name.removesuffix("_kernel_time")
            taken[node].append(event.dur)
            operation[node] = str(event.args.get("op_name", ""))
    return [Kernel(n, operation[n], round(float(np.mean(t[len(t) // 10 :])), 2)) for n, t in taken.items()]


class _Event(msgspec.Struct, frozen=True):
    """As the profiler writes it."""

    name: str = ""
    cat: str = ""
    dur: float = 0.0
    args: dict[str, object] = {}
