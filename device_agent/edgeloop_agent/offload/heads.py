"""The first layers of a model, as far as they run on this device, and how long things take here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeloop_agent.answers import softmax
from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import Coding, Exit, Packed
from edgeloop_contract.splitting import INPUT

if TYPE_CHECKING:
    from edgeloop_agent.config import Split
    from edgeloop_agent.logs import Log

WEIGHT, SLOW_WEIGHT = 0.2, 0.02  # of the newest value in a running mean: of times, of yes-or-no values
MEASURE_SECONDS, MAX_RUNS = 0.15, 50  # of each head and packing


@dataclass
class LatencyAverage:
    """Running mean of a latency in seconds, and the mean distance from it."""

    mean: float = 0.0
    spread: float = 0.0

    def observe(self, seconds: float) -> None:
        if not self.mean:
            self.mean, self.spread = seconds, seconds / 10
            return
        over = seconds - self.mean
        self.spread += WEIGHT * (abs(over) - self.spread)
        self.mean += WEIGHT * over

    @property
    def upper_bound(self) -> float:
        """Seconds that are hardly ever exceeded: the mean and four mean distances."""
        return self.mean + 4 * self.spread


@dataclass
class Head:
    """From the sample to a boundary; `run` None for the input itself."""

    tensor: str
    packed: list[Packed]
    run: Callable[[Array], Array] | None
    bottleneck: bool = False
    exit: Exit | None = None
    both: Callable[[Array], tuple[Array, Array]] | None = None  # the boundary and the early scores
    continue_share: float = 1.0  # share of samples without an early answer: of validation data, then of recent samples
    seconds: float = 0.0
    packing: dict[Coding, float] = field(default_factory=dict)


def early_answer(head: Head, sample: Array, counted: bool = True) -> tuple[Array, Array | None]:
    """The boundary of one sample, and its early scores where they are confident enough. `counted`: for statistics."""
    if head.exit is None or head.both is None:
        return (sample if head.run is None else head.run(sample)), None
    boundary, scores = head.both(sample)
    confident = float(softmax(scores[0]).max()) >= head.exit.threshold
    if counted:
        head.continue_share += SLOW_WEIGHT * (float(not confident) - head.continue_share)
    return boundary, scores if confident else None


def load_heads(bundle: Bundle, settings: Split, log: Log) -> dict[str, Head]:
    """The input, and as many of the bundle's heads as `heads_bytes` of files allow, the smallest first; lossy ones where they may
    be used."""
    manifest, used = bundle.manifest, 0
    size = np.prod(manifest.sample.shape) * np.dtype(manifest.sample.dtype).itemsize
    heads = {INPUT: Head("input", [Packed(coding="raw", bytes=float(size))], None)}
    split = manifest.split
    if split is None:
        return heads
    for cut in sorted(split.cuts, key=lambda cut: manifest.files[cut.file].bytes if cut.file else 0):
        if not cut.file:
            heads[INPUT] = Head("input", list(cut.packed), None)
            continue
        if cut.decoder and settings.min_agreement >= 1 and cut.name != settings.route.partition("/")[0]:
            continue
        used += manifest.files[cut.file].bytes
        if used > settings.heads_bytes:
            log("info", "split: the larger heads are not loaded", heads_bytes=settings.heads_bytes, first=cut.name)
            break
        try:
            runtime: Any = open_runtime(manifest.variant(split.variant), bundle.read(cut.file))
        except DeviceError as error:
            log("warning", "split: heads do not run here, only whole inputs can be sent", why=error)
            break
        heads[cut.name] = head = Head(cut.tensor, list(cut.packed), runtime.raw, bool(cut.decoder))
        if cut.exit is not None and settings.exits:
            head.exit, head.both, head.continue_share = cut.exit, runtime.two_outputs, cut.exit.share
    return heads


def mean_seconds(action: Callable[[], object]) -> float:
    """Seconds of one call. The mean: where a device is throttled, most calls are quick and a few pay for them."""
    action()
    begun, runs = time.perf_counter(), 0
    while runs < MAX_RUNS and time.perf_counter() - begun < MEASURE_SECONDS:
        action()
        runs += 1
    return (time.perf_counter() - begun) / runs
