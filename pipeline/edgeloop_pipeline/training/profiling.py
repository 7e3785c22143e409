"""Profiles training steps and says in words where the time goes: the bottleneck, and the setting to try next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from edgeloop_exporters.quiet import quiet
from edgeloop_pipeline.training.loop import Run
from edgeloop_pipeline.training.settings import FitSettings

WARM_UP = 3
COPIES = ("aten::copy_", "aten::_to_copy", "aten::clone")
REGIONS = ("data", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class Diagnosis:
    """The shares of a step's time by kind (they add up to 1), and the advice that follows from them."""

    shares: dict[str, float]
    bottleneck: str
    advice: str
    step_ms: float
    samples_per_second: float
    operators: list[tuple[str, float, int]]  # name, ms per step, calls per step
    modules: list[tuple[str, int, int]]  # name, parameter bytes, bytes kept for the backward pass
    device: str
    overhead: float  # time of a profiled step relative to a plain one

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def diagnose(run: Run, steps: int, trace: Path) -> Diagnosis:
    """Train some real steps, first plainly, then under the profiler. Writes a trace for Perfetto."""
    run.loader.start(0, 0)
    run.place.called.train()
    places = iter([(i // run.batches.steps, i % run.batches.steps) for i in range(WARM_UP + 2 * steps)])
    for _ in range(WARM_UP):
        _one(run, next(places))
    start = time.perf_counter()
    for _ in range(steps):
        _one(run, next(places))
    _synchronise()
    plain = (time.perf_counter() - start) / steps
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    on_cpu = _runnable_seconds()
    start = time.perf_counter()
    with quiet(), profile(activities=activities) as profiler:
        for _ in range(steps):
            _one(run, next(places))
        _synchronise()
        wall, on_cpu = time.perf_counter() - start, _runnable_seconds() - on_cpu
    run.loader.stop()
    profiler.export_chrome_trace(str(trace))
    shares = _shares(profiler, wall, on_cpu)
    few, _ = run.batches[0, 0][0]
    return Diagnosis(
        shares, max(shares, key=lambda k: shares[k]), advice(shares, run.settings, run.precision.name, run.chosen.batch),
        1e3 * plain, run.chosen.batch / plain, _operators(profiler, steps), kept_by_module(run.network, few),
        "GPU" if torch.cuda.is_available() else "CPU", wall / steps / plain,
    )  # fmt: skip


def _one(run: Run, place: tuple[int, int]) -> None:
    with record_function("data"):
        parts = run.loader.next(*place)
    run.step(parts, run.batches.count(*place))


def _runnable_seconds() -> float:
    """The time in which this thread ran or waited for a core, in seconds (Linux)."""
    try:
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        waited = 0.0
    return time.thread_time() + waited


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _shares(profiler: Any, wall: float, on_cpu: float) -> dict[str, float]:
    """Convert the profiler's microseconds to shares of the wall time."""
    regions = dict.fromkeys(REGIONS, 0.0)
    copies = kernels = device_busy = device_copies = 0.0
    for event in profiler.events():
        if str(event.device_type).endswith("CUDA"):
            device_busy += event.time_range.elapsed_us()
            device_copies += event.time_range.elapsed_us() if event.name.startswith("Memcpy") else 0.0
        elif event.name in REGIONS:
            regions[event.name] += event.time_range.elapsed_us()
        elif _region(event) in ("forward", "backward") and "::" in event.name and not event.name.startswith("autograd::"):
            if event.name in COPIES:
                copies += event.self_cpu_time_total
            else:
                kernels += event.self_cpu_time_total
    total = wall * 1e6
    data, optimizer = regions["data"], regions["optimizer"]
    if device_busy:
        compute, transfers = device_busy - device_copies, device_copies
        idle = max(0.0, total - device_busy - data)
        optimizer = 0.0  # its kernels count as the device's
        host = max(0.0, total - data - compute - transfers - idle)
    else:
        compute, transfers = kernels, copies
        # The time that the training thread slept: neither a kernel nor Python ran.
        idle = min(max(0.0, total - on_cpu * 1e6), max(0.0, total - data - optimizer - compute - transfers))
        host = max(0.0, total - data - optimizer - compute - transfers - idle)
    found = {"data": data, "host": host, "compute": compute, "transfers": transfers, "optimizer": optimizer, "idle": idle}
    return {kind: value / sum(found.values()) for kind, value in found.items()}


def _region(event: Any) -> str:
    """The innermost edgeloop region in which an operator ran; a CPU's backward pass runs on the same thread."""
    while event.cpu_parent is not None:
        event = event.cpu_parent
        if event.name in REGIONS:
            return str(event.name)
    return ""


def _operators(profiler: Any, steps: int) -> list[tuple[str, float, int]]:
    """The operators that take most time themselves."""
    cuda = torch.cuda.is_available()
    rows = [r for r in profiler.key_averages() if r.key not in REGIONS]
    cost = {r.key: (r.self_device_time_total if cuda else r.self_cpu_time_total) for r in rows}
    return [(r.key, cost[r.key] / 1e3 / steps, round(r.count / steps)) for r in sorted(rows, key=lambda r: -cost[r.key])[:8]]


def kept_by_module(network: nn.Module, x: Tensor) -> list[tuple[str, int, int]]:
    """The layers by their memory: parameters, and the bytes that autograd keeps for one part of a batch."""
    kept: dict[str, int] = {}
    seen: set[int] = set()
    alive: list[Tensor] = []
    layers = {name: m for name, m in network.named_modules() if not list(m.children())}
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(_counted(name, layer, kept, seen, alive, own))
        state = {k: v.clone() for k, v in network.state_dict().items()}
        network.train()(x.to(next(iter(state.values())).device))
        network.load_state_dict(state)
    rows = [
        (name, sum(p.numel() * p.element_size() for p in layer.parameters()), kept.get(name, 0)) for name, layer in layers.items()
    ]
    return sorted(rows, key=lambda row: -(row[1] + row[2]))[:8]


@contextmanager
def _counted(
    name: str, layer: nn.Module, kept: dict[str, int], seen: set[int], alive: list[Tensor], own: set[int]
) -> Iterator[None]:
    def pack(tensor: Tensor) -> Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in seen and where not in own:
            seen.add(where)
            alive.append(tensor)  # so that no address is used twice
            kept[name] = kept.get(name, 0) + tensor.untyped_storage().nbytes()
        return tensor

    open_hooks: list[Any] = []

    def enters(*_: object) -> None:
        open_hooks.append(torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t))
        open_hooks[-1].__enter__()

    def leaves(*_: object) -> None:
        open_hooks.pop().__exit__()

    handles = [layer.register_forward_pre_hook(enters), layer.register_forward_hook(leaves)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def advice(shares: dict[str, float], settings: FitSettings, precision: str, batch: int) -> str:
    """The next setting to try, for the largest share of the time."""
    worst = max(shares, key=lambda k: shares[k])
    if worst == "data":
        if settings.workers == 0:
            return "workers: auto lets loader processes make the batches"
        return "make augment and preprocessing cheaper: the loader cannot keep up"
    if worst == "optimizer":
        smaller = "optimizer: sgd keeps less state than adamw; " if settings.optimizer == "adamw" else ""
        return f"{smaller}a larger batch (now {batch}) makes fewer optimizer steps"
    if worst == "transfers":
        return "look for .to(), .clone() and .contiguous() in the network's forward(); channels_last: auto avoids reordering"
    if worst == "host":
        return f"a larger batch (now {batch}) does more per Python call; take loops out of the network's forward()"
    if worst == "idle":
        return "the training thread waits: remove locks, sleeps or file access in forward(); on a GPU, try a larger batch"
    if precision == "float32":
        return "precision: auto (bf16 or fp16 where this hardware multiplies it faster; see edgeloop doctor)"
    if settings.channels_last is False:
        return "channels_last: auto"
    return "the arithmetic takes the time: try batch: auto for the best throughput, then a narrower network"
