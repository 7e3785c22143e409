"""A staged bundle answers its own golden samples on this very device, in a process of its own: `python -m …canary CONFIG BUNDLE`.

It prints one JSON object. A model that crashes, hangs or eats the memory takes nobody with it; the caller holds the deadline.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_contract.errors import EdgeloopError, GateError

SLACK = 0.02  # share of labelled samples that may be answered worse than the reference answered them
KIB = 1024


@dataclass(frozen=True)
class Passed:
    """What the canary saw. `steps`: the largest difference to the golden scores, in steps of their quantization."""

    variant: str
    steps: float
    right: int
    samples: int
    latency_us_p95: float
    memory_bytes: int


def try_out(config: Path, bundle: Path, timeout_seconds: float) -> Passed | str:
    """In a process of its own; a sentence when it did not pass."""
    words = [sys.executable, "-m", "edgeloop_agent.updates.canary", str(config), str(bundle)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=timeout_seconds, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"the canary did not end within {timeout_seconds:g} s"
    try:
        found = msgspec.json.decode(done.stdout, type=Passed | str)
    except msgspec.MsgspecError:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return f"the canary's process died ({how})"
    return found


def check(config_path: Path, bundle_path: Path) -> Passed:
    """Golden outputs, labelled accuracy, latency and memory within the limits. Raises GateError naming the one that is not kept."""
    import numpy as np

    from edgeloop_agent.config import load
    from edgeloop_agent.counts import Counts
    from edgeloop_agent.logs import Log
    from edgeloop_agent.models import Models
    from edgeloop_contract.archive import Bundle

    config = load(config_path)
    models = Models(msgspec.structs.replace(config, bundles=[str(bundle_path)]), Counts(), Log(config.log.level))
    model = models.get(models.first)
    with Bundle.open(bundle_path) as bundle:
        canary = bundle.manifest.canary
        inputs, golden, labels = (bundle.array(name) for name in (canary.inputs, canary.scores, canary.labels))
    if not len(inputs):
        raise GateError("the bundle has no canary samples")
    taken: list[float] = []
    scores = np.concatenate([_timed(model, inputs[i : i + 1], taken) for i in range(len(inputs))])
    scores = scores.reshape(len(inputs), -1)
    if not np.isfinite(scores).all():
        raise GateError("canary answers with NaN or infinity")
    steps = float(np.abs(scores - golden.reshape(len(inputs), -1)).max() / canary.score_step)
    if model.variant.precision == "int8" and steps > canary.max_steps + 0.01:
        raise GateError(f"canary scores are {steps:.1f} steps off the golden ones; {canary.max_steps} are allowed")
    right = _right(model.manifest.task, scores, golden, labels)
    p95 = float(np.percentile(np.array(taken[1:] or taken) * 1e6, 95))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    limits = model.manifest.thresholds
    for what, value, limit in (
        ("p95 latency in µs", p95, config.updates.max_latency_us or limits.get("max_latency_us", 0)),
        ("memory in bytes", peak, config.updates.max_memory_bytes or limits.get("max_memory_bytes", 0)),
    ):
        if limit and value > limit:
            raise GateError(f"canary: {what} {value:,.0f}; the limit is {limit:,.0f}")
    return Passed(model.choice.variant, round(steps, 2), right, len(inputs), round(p95, 1), peak)


def _timed(model: Any, sample: Any, taken: list[float]) -> Any:
    import time

    start = time.perf_counter()
    found = model.scored(sample).scores
    taken.append(time.perf_counter() - start)
    return found


def _right(task: Any, scores: Any, golden: Any, labels: Any) -> int:
    """Labelled samples answered rightly (classification). Raises GateError when they are clearly fewer than the reference's."""
    from edgeloop_contract.manifest import Classification

    if not isinstance(task, Classification):
        return 0
    here = int((scores.argmax(axis=1) == labels).sum())
    reference = int((golden.reshape(len(labels), -1).argmax(axis=1) == labels).sum())
    if here < reference - math.ceil(SLACK * len(labels)):
        raise GateError(f"canary: {here} of {len(labels)} labelled samples right here, {reference} where it was made")
    return here


def _main(config: Path, bundle: Path) -> int:
    try:
        found: Passed | str = check(config, bundle)
    except EdgeloopError as error:
        found = str(error)
    except MemoryError:
        found = "the canary ran out of memory"
    sys.stdout.write(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2])))
