"""What `edgeloop-agent bench` adds to latencies: the fastest variant's sustained rate, memory, energy, heat and kernels."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from edgeloop_agent.bench.measure import WARM_UP, samples_of
from edgeloop_agent.energy import NO_METER, Meter
from edgeloop_agent.metrics import resident_bytes
from edgeloop_agent.runtimes import RuntimeOptions, open_runtime
from edgeloop_agent.runtimes.kernels import kernels
from edgeloop_agent.runtimes.named import calls, is_plain
from edgeloop_agent.runtimes.providers import CPU
from edgeloop_agent.sensors import Board
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import KernelTimes, MeasuredVariant, SustainedRun, VariantChoice
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import Variant

START_SECONDS = 60.0
LOOK_SECONDS = 1.0  # between two looks at the sensors


def kernel_times(bundle: Bundle, measured: list[MeasuredVariant]) -> KernelTimes:
    """Of the fastest ONNX variant that ran, or why there are none."""
    costs = {m.variant: m.cost.latency_us_p50 for m in measured if m.cost is not None and m.provider in ("", CPU)}
    onnx = [v for v in bundle.manifest.variants if v.runtime == "onnx" and v.name in costs and is_plain(v)]
    if not onnx:
        return KernelTimes(
            "", [], "only ONNX Runtime tells the time of each kernel, and no ONNX variant with one input and one output runs here"
        )
    best = min(onnx, key=lambda v: costs[v.name])
    return KernelTimes(best.name, kernels(best, bundle.read(best.file), samples_of(bundle, best)))


def sustained(
    bundle: Bundle, variant: Variant, threads: int, seconds: float, stop_celsius: float = math.inf, board: Board | None = None,
    way: str = "",
) -> SustainedRun:  # fmt: skip
    """One variant back to back, with the sensors read every second; ends early above `stop_celsius`. Raises DeviceError.

    Energy is the board's, what it draws when idle included: by RAPL and NVML counters, else by a Jetson's power monitors.
    """
    board = board or Board()
    before = resident_bytes()
    runtime = open_runtime(variant, bundle.read(variant.file), threads, RuntimeOptions(way=way))
    run, rows = calls(runtime, samples_of(bundle, variant))
    for row in rows[:WARM_UP]:
        run(row)
    meter, watts, hottest, throttled = Meter(), [], None, set()
    start = look = time.perf_counter()
    count, first = 0, None
    while (now := time.perf_counter()) < start + seconds or not count:
        run(rows[count % len(rows)])
        count += 1
        if first is None and now - start >= seconds / 4:
            first = count / (now - start)
        if now >= look:
            look, reading = now + LOOK_SECONDS, board.read()
            watts += [reading.watts] if reading.watts is not None else []
            hottest = max((c for c in (hottest, reading.celsius) if c is not None), default=None)
            throttled |= set(reading.throttled or ())
            if hottest is not None and hottest > stop_celsius:
                break
    took = time.perf_counter() - start
    joules, source = meter.joules(), ", ".join(meter.names)
    if joules is None and watts:
        joules, source = took * float(np.mean(watts)), "power monitors of the board"
    return SustainedRun(
        variant.name, round(took, 3), round(count / took, 1), round(first or count / took, 1), max(0, resident_bytes() - before),
        round(1e6 * joules / count, 2) if joules is not None else None, source or NO_METER, hottest, sorted(throttled),
    )  # fmt: skip


def lines(steady: SustainedRun | None, timed: KernelTimes | None) -> list[str]:
    """The report as lines for people."""
    lines_out = []
    if steady is not None:
        energy = f"{steady.microjoules:,.0f} µJ an inference ({steady.energy})" if steady.microjoules is not None else steady.energy
        lines_out = [
            f"sustained: {steady.per_second:,.0f}/s for {steady.seconds:.1f} s (first quarter: {steady.per_second_first:,.0f}/s)",
            f"memory: {steady.memory_bytes / 2**20:.1f} MiB for the runtime and {steady.variant}",
            f"energy: {energy}",
            "temperature: not measurable here" if steady.celsius is None else f"temperature: at most {steady.celsius:.0f} °C",
        ] + [f"throttled: {', '.join(steady.throttled)}"] * bool(steady.throttled)
    if timed is not None:
        lines_out += [f"{timed.variant:16}{k.operation:24}{k.microseconds:10.1f} µs  {k.name}" for k in timed.kernels]
        lines_out += [f"kernels: {timed.why}"] * bool(timed.why)
    return lines_out


def in_a_process(bundle: Path, choice: VariantChoice, seconds: float, stop_celsius: float) -> SustainedRun:
    """Run `sustained` in a fresh process, so that its memory is the model's alone. Raises DeviceError."""
    words = [sys.executable, "-m", "edgeloop_agent.bench.sustained", str(bundle), choice.variant, str(choice.threads)]
    words += [str(seconds), str(stop_celsius), choice.provider]
    try:
        done = subprocess.run(words, capture_output=True, timeout=seconds + START_SECONDS, check=True, stdin=subprocess.DEVNULL)
        return msgspec.json.decode(done.stdout, type=SustainedRun)
    except (subprocess.SubprocessError, msgspec.MsgspecError) as error:
        raise DeviceError(f"{choice.variant}: the sustained run did not end well ({error})") from error


if __name__ == "__main__":
    path, name, threads, seconds, stop, provider = sys.argv[1:]
    with Bundle.open(Path(path)) as opened:
        chosen = next(v for v in opened.manifest.variants if v.name == name)
        steady = sustained(opened, chosen, int(threads), float(seconds), float(stop), way=provider)
        sys.stdout.buffer.write(msgspec.json.encode(steady))
