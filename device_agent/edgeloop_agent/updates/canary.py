"""Tests a staged bundle on this device with its own golden samples, in a process of its own: `python -m …canary CONFIG BUNDLE`.

It prints one JSON object. A model that crashes, hangs or exhausts memory affects no other process; the caller sets the deadline.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeloop_contract.errors import EdgeloopError, GateError
from edgeloop_contract.manifest import SCORES, GoldenTensor, Precision, Variant

if TYPE_CHECKING:
    from edgeloop_agent.engine import Engine
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.arrays import Array
    from edgeloop_contract.manifest import Detection, Multilabel, Segmentation, Task

MAX_NOISE = 0.5  # of a float file against integer golden scores, as a share of these scores' deviation: 6 dB
MAX_ACCURACY_LOSS = 0.02  # share of labelled samples that may be answered worse than the reference answered them
KIB = 1024


@dataclass(frozen=True)
class CanaryResult:
    """What the canary saw. `steps`: the largest difference to the golden scores, in steps of their quantization.

    `right`: labelled samples with the right answer, labels of samples or labelled pixels that are
    right, or labelled boxes that were found.
    """

    variant: str
    steps: float
    right: int
    samples: int
    latency_us_p95: float
    memory_bytes: int


def try_out(config: Path, bundle: Path, timeout_seconds: float) -> CanaryResult | str:
    """Run the canary in a process of its own; returns a sentence if it fails."""
    words = [sys.executable, "-m", "edgeloop_agent.updates.canary", str(config), str(bundle)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=timeout_seconds, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"the canary did not end within {timeout_seconds:g} s"
    try:
        outcome = msgspec.json.decode(done.stdout, type=CanaryResult | str)
    except msgspec.MsgspecError:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return f"the canary's process died ({how})"
    return outcome


def canary_failure(config: Path, timeout_seconds: float, bundle: Path) -> str | None:
    """Why the bundle fails its canary here; None where it passes."""
    outcome = try_out(config, bundle, timeout_seconds)
    return None if isinstance(outcome, CanaryResult) else outcome


def check(config_path: Path, bundle_path: Path, state: Path | None = None, beside: bool = False) -> CanaryResult:
    """Check golden scores, labelled accuracy, latency and memory. Raises GateError naming the limit that is exceeded.

    `state`: what is measured stays there, apart from the device's own measurements, and latency is not judged. `beside`: nor is it
    judged at a low priority, where engines are built.
    """
    import numpy as np

    from edgeloop_agent.config import load_running
    from edgeloop_agent.engine import Engine
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.models import Models
    from edgeloop_agent.trial_samples import canary_inputs, trial_samples
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.bench_report import VariantChoice

    config = load_running(config_path)
    if state is not None:
        config = msgspec.structs.replace(config, state=str(state))
    models = Models(msgspec.structs.replace(config, bundles=[str(bundle_path)]), Counts(), Log(config.log.level))
    models.builds_beside = not beside  # engines are built after the switch, beside, and tested then
    model = models.get(models.first)
    with Bundle.open(bundle_path, verified=models.verified) as bundle:
        canary = bundle.manifest.canary
        inputs = trial_samples(bundle)
        count = len(next(iter(inputs.values())))
        if canary is not None and not canary_inputs(bundle):
            raise GateError("the bundle has no canary samples")
        taken: list[float] = []
        # Without a canary two runs on zeros show that the file loads, and answers in its declared form.
        outputs = [
            _timed(model, {n: v[i : i + 1] for n, v in inputs.items()}, taken)
            for i in [*range(count), *([0] if canary is None else [])]
        ]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
        steps = check_outputs(bundle, model.variant, outputs[:count])
        hot = _hot_variant(bundle, config.thermal.hot_variant, model.variant.name)
        if hot is not None:
            other = Engine(bundle, VariantChoice(hot.name, 1, "hot_variant"))
            check_outputs(
                bundle, other.variant, [_timed(other, {n: v[i : i + 1] for n, v in inputs.items()}, []) for i in range(count)]
            )
        right = _right(bundle, model, outputs[:count])
    p95 = float(np.percentile(np.array(taken[1:] or taken) * 1e6, 95))
    limits = model.manifest.thresholds
    for what, value, limit in (
        ("p95 latency in µs", p95, config.updates.max_latency_us or limits.get("max_latency_us", 0)),
        ("memory in bytes", peak, config.updates.max_memory_bytes or limits.get("max_memory_bytes", 0)),
    ):
        if limit and value > limit and ((state is None and not beside) or value is not p95):
            raise GateError(f"canary: {what} {value:,.0f}; the limit is {limit:,.0f}")
    checked = 0 if canary is None else count
    return CanaryResult(model.choice.variant, round(steps, 2), right, checked, round(p95, 1), peak)


def _right(bundle: Bundle, model: Engine, outputs: Sequence[Mapping[str, Array]]) -> int:
    """How many of the canary's labels the outputs have right, by the task; 0 without labels."""
    import numpy as np

    from edgeloop_contract.tasks import Detection, Segmentation

    canary, task = bundle.manifest.canary, model.manifest.task
    if canary is None or not canary.labels:
        return 0
    labels = bundle.array(canary.labels)
    if isinstance(task, Detection):
        golden = {name: bundle.array(one.file) for name, one in canary.golden.items()}
        return _count_boxes(task, outputs, golden, labels, bundle.manifest.sample.shape)
    reference = bundle.array(canary.scores.file)
    if isinstance(task, Segmentation):
        return _count_pixels(task, outputs, reference, labels)
    if not model.is_simple:
        return 0
    scores = np.concatenate([next(iter(row.values())).reshape(1, -1) for row in outputs])
    return _count_right(task, scores, reference.reshape(len(outputs), -1), labels)


def _hot_variant(bundle: Bundle, name: str, chosen: str) -> Variant | None:
    """The variant that a hot device uses: it would answer too, so it is checked too."""
    return next((v for v in bundle.manifest.variants if v.name == name != chosen), None)


def check_outputs(bundle: Bundle, variant: Variant, rows: Sequence[Mapping[str, Array]]) -> float:
    """Compare a variant's outputs, one row a sample, with its own golden ones, else with the reference's. Returns the most steps.

    Without a canary their form alone is checked. Raises GateError.
    """
    import numpy as np

    canary = bundle.manifest.canary
    outputs = {name: np.concatenate([row[name].reshape(1, -1) for row in rows]) for name in rows[0]}
    for name, values in outputs.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise GateError(f"canary: {variant.name} answers with NaN or infinity in {name}")
    if canary is None:
        return 0.0
    exact = variant.name in canary.variants or variant.precision == Precision.INT8
    compared = {name: golden for name, golden in canary.of(variant.name).items() if name in outputs}
    if not compared:
        raise GateError(f"canary: {variant.name} gives none of the golden outputs {', '.join(canary.of(variant.name))}")
    steps = 0.0
    for name, golden in compared.items():
        wanted = bundle.array(golden.file).reshape(len(rows), -1)
        steps = max(steps, compare_scores(variant, outputs[name], wanted, golden, exact))
    return steps


def compare_scores(variant: Variant, scores: Array, golden: Array, allowed: GoldenTensor, exact: bool) -> float:
    """The largest difference between scores and golden ones, both (N, outputs), in steps. Raises GateError where that is too much.

    `exact`: the golden scores are of this variant's own arithmetic. Else they are of the integer one, whose noise a float file does
    not have: then the error as a whole is held against what the scores tell apart.
    """
    import numpy as np

    if scores.shape != golden.shape:
        raise GateError(f"canary: {variant.name} answers {scores.shape[1]} scores, {golden.shape[1]} are golden")
    if not np.isfinite(scores).all():
        raise GateError(f"canary: {variant.name} answers with NaN or infinity")
    error = scores.astype(np.float64) - golden
    steps = float(np.abs(error).max() / allowed.step)
    if exact and steps > allowed.max_steps + 0.01:
        raise GateError(
            f"canary scores of {variant.name} are {steps:.1f} steps off the golden ones; {allowed.max_steps} are allowed"
        )
    noise, spread = float(np.sqrt((error**2).mean())), float(golden.std())
    if not exact and noise > max(MAX_NOISE * spread, allowed.max_steps * allowed.step):
        raise GateError(
            f"canary scores of {variant.name} are {steps:.1f} steps off the golden ones of the integer reference, an error of"
            f" {noise / spread if spread else math.inf:.1f} times their deviation; {MAX_NOISE} is allowed"
        )
    return steps


def _timed(model: Engine, sample: Mapping[str, Array], taken: list[float]) -> dict[str, Array]:
    import time

    start = time.perf_counter()
    if model.is_simple:
        outputs = {model.variant.output.name or SCORES: model.scored(next(iter(sample.values()))).scores}
    else:
        outputs = model.outputs(sample, {})
    taken.append(time.perf_counter() - start)
    return outputs


def _count_right(task: Task, scores: Array, golden: Array, labels: Array) -> int:
    """Labelled samples answered rightly (classification). Raises GateError when they are clearly fewer than the reference's."""
    from edgeloop_contract.manifest import Classification, Multilabel

    if isinstance(task, Multilabel):
        return _count_labels(task, scores, golden, labels)
    if not isinstance(task, Classification):
        return 0
    here = int((scores.argmax(axis=1) == labels).sum())
    reference = int((golden.reshape(len(labels), -1).argmax(axis=1) == labels).sum())
    if here < reference - math.ceil(MAX_ACCURACY_LOSS * len(labels)):
        raise GateError(f"canary: {here} of {len(labels)} labelled samples right here, {reference} where it was made")
    return here


def _count_labels(task: Multilabel, scores: Array, golden: Array, labels: Array) -> int:
    """Known labels of samples that are answered rightly. Raises GateError when they are clearly fewer than the reference's."""
    from edgeloop_agent.label_answers import count_right
    from edgeloop_contract.tasks import NOT_KNOWN

    here, reference, known = count_right(task, scores, labels), count_right(task, golden, labels), int((labels != NOT_KNOWN).sum())
    if here < reference - math.ceil(MAX_ACCURACY_LOSS * known):
        raise GateError(f"canary: {here} of {known} labels of samples right here, {reference} where it was made")
    return here


def _count_boxes(
    task: Detection, rows: Sequence[Mapping[str, Array]], golden: Mapping[str, Array], labels: Array, shape: Sequence[int]
) -> int:
    """Labelled boxes that are found. Raises GateError when they are clearly fewer than those in the golden outputs."""
    from edgeloop_agent.box_answers import count_found, found_boxes

    here = reference = wanted = 0
    for i, truth in enumerate(labels):
        truth = truth[truth[:, 0] >= 0]
        wanted += len(truth)
        here += count_found(found_boxes(task, rows[i], shape[0], shape[1]), truth)
        reference += count_found(found_boxes(task, {n: v[i] for n, v in golden.items()}, shape[0], shape[1]), truth)
    if here < reference - math.ceil(MAX_ACCURACY_LOSS * wanted):
        raise GateError(f"canary: {here} of {wanted} labelled boxes found here, {reference} where it was made")
    return here


def _count_pixels(task: Segmentation, rows: Sequence[Mapping[str, Array]], golden: Array, labels: Array) -> int:
    """Labelled pixels with the right label. Raises GateError when they are clearly fewer than in the golden outputs."""
    from edgeloop_agent.mask_answers import found_labels
    from edgeloop_contract.masks import NOWHERE

    here = reference = wanted = 0
    for i, truth in enumerate(labels):
        wanted += int((truth != NOWHERE).sum())
        here += int((found_labels(task, rows[i], *truth.shape) == truth)[truth != NOWHERE].sum())
        reference += int((found_labels(task, {task.output: golden[i]}, *truth.shape) == truth)[truth != NOWHERE].sum())
    if here < reference - math.ceil(MAX_ACCURACY_LOSS * wanted):
        raise GateError(f"canary: {here} of {wanted} labelled pixels right here, {reference} where it was made")
    return here


def _main(config: Path, bundle: Path) -> int:
    try:
        outcome: CanaryResult | str = check(config, bundle)
    except EdgeloopError as error:
        outcome = str(error)
    except MemoryError:
        outcome = "the canary ran out of memory"
    sys.stdout.write(msgspec.json.encode(outcome).decode())
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2])))
