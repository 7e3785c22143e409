"""Latency of a loaded model on this device."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from edgeloop_agent.hardware import cores, machine
from edgeloop_agent.runtimes import Runtime, open_runtime, version_of
from edgeloop_agent.runtimes.named import calls
from edgeloop_agent.trial_samples import trial_samples
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.bench_report import MeasuredVariant
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import INPUT, Cost, Variant

__all__ = ["WARM_UP", "best_threads", "latency", "measure_bundle", "samples_of"]

WARM_UP = 10
MIN_RUNS = 30
MAX_RUNS = 2000


def latency(runtime: Runtime, samples: Array | Mapping[str, Array], threads: int, seconds: float) -> Cost:
    """Time batch-1 inference over `samples` (N, *sample), of one input or by input, for about `seconds`."""
    run, rows = calls(runtime, samples)
    for i in range(WARM_UP):
        run(rows[i % len(rows)])
    taken: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(taken) < MAX_RUNS and (len(taken) < MIN_RUNS or time.perf_counter() < deadline):
        row = rows[len(taken) % len(rows)]
        start = time.perf_counter()
        run(row)
        taken.append(time.perf_counter() - start)
    p50, p95 = np.percentile(np.array(taken) * 1e6, [50, 95])
    return Cost(latency_us_p50=round(float(p50), 1), latency_us_p95=round(float(p95), 1), threads=threads, machine=machine())


def best_threads(variant: Variant, model: bytes, samples: Array | Mapping[str, Array], seconds: float) -> Cost:
    """The least p50 over 1, 2 and 4 threads, as far as this device has the cores: more can be slower on small networks."""
    costs = []
    for threads in (1, 2, 4):
        if threads <= cores():
            costs.append(latency(open_runtime(variant, model, threads), samples, threads, seconds))
    return min(costs, key=lambda cost: cost.latency_us_p50)


def measure_bundle(bundle: Bundle, seconds: float = 0.5) -> list[MeasuredVariant]:
    """Every variant of the bundle on this device, on the canary's inputs; a variant of another shape (a probe's) on noise."""
    rows = []
    for variant in bundle.manifest.variants:
        try:
            runtime = version_of(variant.runtime)
            cost = best_threads(variant, bundle.read(variant.file), samples_of(bundle, variant), seconds)
            rows.append(MeasuredVariant(variant.name, runtime, cost))
        except DeviceError as error:
            rows.append(MeasuredVariant(variant.name, variant.runtime, None, str(error)))
        except Exception as error:  # a runtime's own types, which share no base: this variant does not run here, others may
            why = " ".join(str(error).split())[:300]
            rows.append(MeasuredVariant(variant.name, variant.runtime, None, f"does not run here ({type(error).__name__}: {why})"))
    return rows


def samples_of(bundle: Bundle, variant: Variant) -> Mapping[str, Array]:
    """By input, the canary's samples, or zeros; noise for a variant of another shape (a probe's)."""
    samples, shape = trial_samples(bundle), tuple(variant.input.shape)
    if not bundle.manifest.probe or next(iter(samples.values())).shape[1:] == shape:
        return samples
    return {INPUT: np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)}
