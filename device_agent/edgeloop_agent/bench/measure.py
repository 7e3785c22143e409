"""Latency of a loaded model on this device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgeloop_agent.hardware import cores, machine
from edgeloop_agent.runtimes import PLAIN, Runtime, RuntimeOptions, open_runtime, version_of
from edgeloop_agent.runtimes.named import calls
from edgeloop_agent.runtimes.onnx import available_providers, version
from edgeloop_agent.runtimes.providers import CPU, OPENVINO, ways
from edgeloop_agent.trial_samples import trial_samples
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.bench_report import MeasuredVariant
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import INPUT, SCORES, Cost, Variant

__all__ = ["WARM_UP", "best_of", "best_threads", "latency", "measure_bundle", "samples_of"]

WARM_UP = 10
MIN_RUNS = 30
MAX_RUNS = 2000
THREADS = (1, 2, 4)


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


def best_threads(
    variant: Variant, model: bytes, samples: Array | Mapping[str, Array], seconds: float, options: RuntimeOptions = PLAIN
) -> Cost:
    """The least p50 over 1, 2 and 4 threads, as far as this device has the cores: more can be slower on small networks."""
    tried = THREADS if options.way in ("", CPU, OPENVINO) else (1,)
    return best_of(lambda threads: open_runtime(variant, model, threads, options), samples, seconds, tried)


def best_of(
    opened: Callable[[int], Any], samples: Array | Mapping[str, Array], seconds: float, tried: Sequence[int] = THREADS
) -> Cost:
    """As `best_threads`, of whatever `opened` gives for a number of threads: it has `run`."""
    counts = [threads for threads in tried if threads <= cores()]
    return min((latency(opened(count), samples, count, seconds) for count in counts), key=lambda cost: cost.latency_us_p50)


def measure_bundle(bundle: Bundle, seconds: float = 0.5, options: RuntimeOptions = PLAIN) -> list[MeasuredVariant]:
    """Every variant of the bundle on this device, on the canary's inputs; a variant of another shape (a probe's) on noise.

    ONNX files are tried by each of `options.providers` that this build has, and on the CPU, whose answers the others have to give.
    """
    rows = []
    for variant in bundle.manifest.variants:
        tried = variant.runtime == "onnx" and options.providers and not bundle.manifest.probe
        for way in ways(available_providers(), options.providers) if tried else [""]:
            rows.append(_measured(bundle, variant, seconds, msgspec.structs.replace(options, way=way, providers=())))
            if rows[-1].cost is None and way == CPU:
                break  # there are no answers that the others could give
    return rows


def _measured(bundle: Bundle, variant: Variant, seconds: float, options: RuntimeOptions) -> MeasuredVariant:
    try:
        runtime = version(options.way) if variant.runtime == "onnx" else version_of(variant.runtime)
        model, samples = bundle.read(variant.file), samples_of(bundle, variant)
        if options.way not in ("", CPU):
            _check_answers(bundle, variant, model, samples, options)
        cost = best_threads(variant, model, samples, seconds, options)
        return MeasuredVariant(variant.name, runtime, cost, provider=options.way)
    except DeviceError as error:
        return MeasuredVariant(variant.name, variant.runtime, None, str(error), options.way)
    except Exception as error:  # a runtime's own types, which share no base: this variant does not run here, others may
        why = f"does not run here ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        return MeasuredVariant(variant.name, variant.runtime, None, why, options.way)


def _check_answers(bundle: Bundle, variant: Variant, model: bytes, samples: Mapping[str, Array], options: RuntimeOptions) -> None:
    """Raises DeviceError where a provider answers otherwise than the CPU, by more than the canary allows, or a hundredth."""
    there, here = (
        _outputs(open_runtime(variant, model, 1, msgspec.structs.replace(options, way=way)), samples) for way in (options.way, CPU)
    )
    golden = bundle.manifest.canary.of(variant.name) if bundle.manifest.canary is not None else {}
    for name, wanted in here.items():
        one = golden.get(name or SCORES)
        allowed = one.step * one.max_steps if one is not None else max(float(np.abs(wanted).max()), 1e-6) / 100
        off = float(np.abs(there[name].astype(np.float64) - wanted).max())
        if not off <= allowed:
            raise DeviceError(f"{options.way} answers otherwise than the CPU: {off:.3g} off, {allowed:.3g} are allowed")


def _outputs(runtime: Runtime, samples: Mapping[str, Array]) -> dict[str, Array]:
    """By output, of all samples."""
    run, rows = calls(runtime, samples)
    answers = [answer if isinstance(answer, Mapping) else {"": answer} for answer in map(run, rows)]
    return {name: np.concatenate([np.asarray(answer[name]) for answer in answers]) for name in answers[0]}


def samples_of(bundle: Bundle, variant: Variant) -> Mapping[str, Array]:
    """By input, the canary's samples, or zeros; noise for a variant of another shape (a probe's)."""
    samples, shape = trial_samples(bundle), tuple(variant.input.shape)
    if not bundle.manifest.probe or next(iter(samples.values())).shape[1:] == shape:
        return samples
    return {INPUT: np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)}
