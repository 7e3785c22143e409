"""Examines this machine for `edgeloop doctor`: hardware, training speeds by a short measurement, and advice."""

from __future__ import annotations

import importlib.util
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeloop_agent.energy import NO_METER, Meter
from edgeloop_agent.hardware import cores, int8_may_saturate, machine

LIBRARIES = (
    "torch", "accelerate", "numpy", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert", "torch-pruning", "transformer-engine",
)  # fmt: skip
INSTRUCTIONS = {
    "avx2": "256-bit vectors", "avx512f": "512-bit vectors", "avx512_vnni": "int8 products", "avx_vnni": "int8 products",
    "avx512_bf16": "bf16 products", "amx_bf16": "bf16 tiles", "amx_int8": "int8 tiles", "avx512_fp16": "fp16 arithmetic",
    "asimd": "128-bit vectors", "asimddp": "int8 products", "i8mm": "int8 matrix products", "bf16": "bf16 products",
    "sve": "scalable vectors",
}  # fmt: skip
TRIAL_SECONDS = 0.5
BATCH, FEW = 64, 8  # images of a step


@dataclass(frozen=True)
class Trial:
    """The speed of training steps of a small network in one setting. `images_per_second` None: not measured, for `why`."""

    name: str
    images_per_second: float | None
    why: str = ""


def examine(log: Any = lambda _: None) -> dict[str, Any]:
    """Everything that `edgeloop doctor` reports, as plain values."""
    import torch

    found = {
        "machine": machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": cores(),
        "memory_bytes": _memory(),
        "instructions": {name: INSTRUCTIONS[name] for name in _flags() if name in INSTRUCTIONS},
        "accelerators": accelerators(),
        "blas": _blas(torch.__config__.show()),
        "versions": {name: _version(name) for name in LIBRARIES},
        "energy": ", ".join(Meter().names) or NO_METER,
    }
    log("measuring training steps")
    trials = _trials()
    found["trials"] = [asdict(t) for t in trials]
    found["advice"] = advice(trials, found)
    return found


def _flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])


def _memory() -> int:
    from edgeloop_pipeline.training.memory import free_bytes

    try:
        return free_bytes()
    except (OSError, StopIteration):
        return 0


def accelerators() -> dict[str, str]:
    """Each kind of accelerator that PyTorch knows → what this machine has of it, or why it has none."""
    import torch

    gpu = "none: this PyTorch is a CPU build" if torch.version.cuda is None and torch.version.hip is None else "none found"
    if torch.cuda.is_available():
        names = []
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            names.append(f"{p.name}, {p.total_memory / 2**30:.0f} GiB, compute capability {p.major}.{p.minor}")
        gpu = "; ".join(names)
    return {
        "GPU (CUDA or ROCm)": gpu,
        "Apple GPU (MPS)": "available" if torch.backends.mps.is_available() else "none",
        "Intel GPU (XPU)": "available" if torch.xpu.is_available() else "none",
        "TPU": "torch_xla is installed" if importlib.util.find_spec("torch_xla") else "none: torch_xla is not installed",
    }


def _blas(text: str) -> str:
    names = [part for part in ("MKL-DNN", "oneAPI Math Kernel Library", "OpenBLAS", "Accelerate", "OpenMP") if part in text]
    return ", ".join(name.replace("MKL-DNN", "oneDNN").replace("oneAPI Math Kernel Library", "MKL") for name in names)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _trials() -> list[Trial]:
    """Measures the settings that training chooses among, on an ordinary and on a depthwise convolutional network."""
    import torch
    from torch import nn

    from edgeloop_pipeline.training.precision import this_hardware
    from edgeloop_pipeline.training.scoring import device

    def dense() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1)]
        for _ in range(3):
            layers += [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def depthwise() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(1, 32, 3, 2, 1)]
        for _ in range(3):
            layers += [nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.Conv2d(32, 32, 1)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    hardware, found = this_hardware(), []
    for kind, make in (("convolutions", dense), ("depthwise convolutions", depthwise)):
        for precision in ("float32", "bf16", "fp16"):
            fast = {"float32": True, "bf16": hardware.bf16_fast, "fp16": hardware.fp16_fast}[precision]
            for last in (False, True):
                name = f"{kind}, {precision}{', channels last' if last else ''}"
                if not fast:
                    found.append(Trial(name, None, f"this {hardware.kind} has no {precision} instructions"))
                else:
                    found.append(Trial(name, _speed(make().to(device()), precision, last)))
        if kind == "convolutions" and cores() > 1:
            torch.set_num_threads(1)
            try:
                found.append(Trial(f"{kind}, float32, channels last, one thread", _speed(make().to(device()), "float32", True)))
            finally:
                torch.set_num_threads(cores())
    return found


def _speed(network: Any, precision: str, last: bool) -> float:
    import torch

    from edgeloop_pipeline.training.precision import DTYPES
    from edgeloop_pipeline.training.scoring import channels_last, device

    def step_seconds(images: int) -> float:
        x, labels = torch.randn(images, 1, 28, 28, device=device()), torch.zeros(images, dtype=torch.long, device=device())
        if last:
            x = channels_last(x)
        start = time.perf_counter()
        with torch.autocast(device().type, DTYPES.get(precision, torch.bfloat16), enabled=precision in DTYPES):
            scores = network(x)
        torch.nn.functional.cross_entropy(scores.float(), labels).backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if last:
        network = channels_last(network)
    few = min(step_seconds(FEW), step_seconds(FEW))
    if few > TRIAL_SECONDS:  # emulated: a whole batch would take many seconds, and say the same
        return FEW / few
    step_seconds(BATCH)
    taken: list[float] = []
    while len(taken) < 3 or (sum(taken) < TRIAL_SECONDS and len(taken) < 30):
        taken.append(step_seconds(BATCH))
    return BATCH / min(taken)


def advice(trials: list[Trial], found: dict[str, Any]) -> list[str]:
    """Advice for training here, and on the kind of machine for a job: flexibility, performance per watt, cost."""
    said = []
    for kind in ("convolutions", "depthwise convolutions"):
        speeds = {t.name.removeprefix(f"{kind}, "): t.images_per_second for t in trials if t.name.startswith(f"{kind}, ")}
        measured = {name: speed for name, speed in speeds.items() if speed}
        best = max(measured, key=lambda name: measured[name])
        ratio = measured[best] / measured["float32"]
        said.append(f"{kind}: {best} is the fastest, {ratio:.1f}× plain float32; precision: auto and channels_last: auto find it")
    gpu = not found["accelerators"]["GPU (CUDA or ROCm)"].startswith("none")
    said += [
        ("This machine trains on its GPU." if gpu else "This machine trains on its CPU.")
        + " CPU: the most flexible (any operator, any precision, all memory) and you own it already; the least work per watt."
        " It is enough for networks below about a million parameters on small images, sound and sensor windows.",
        "GPU: much more throughput on convolutions and more work per watt at full load, less when small batches leave it idle; rent"
        " one by the hour if a recipe takes more than a night here; edgeloop profile says whether training waits for data.",
        "TPU: the most work per watt for large, regular bf16 matrix products with fixed shapes; one vendor rents it by the hour;"
        " the least flexible (whole-graph compilation, fewer operators). Not worth it for networks that fit a small device.",
    ]
    if int8_may_saturate():
        said.append(
            "This x86 CPU has no VNNI, so the sums of ONNX Runtime's fast int8 kernels would saturate: edgeloop makes weights uint8"
            " when it opens a file. Answers are exact; int8 latencies of this machine say little about other machines."
        )
    return said
