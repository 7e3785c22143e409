"""The first layers of a model, as far as they run on this device; and what things take here."""

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

WEIGHT, SLOW_WEIGHT = 0.2, 0.02  # of the last observation: of a time, of a yes or no
MEASURE_SECONDS, MOST_RUNS = 0.15, 50  # of each head and packing


@dataclass
class Pace:
    """Seconds of something that is done again and again: mean, and mean distance from it."""

    mean: float = 0.0
    spread: float = 0.0

    def saw(self, seconds: float) -> None:
        if not self.mean:
            self.mean, self.spread = seconds, seconds / 10
            return
        over = seconds - self.mean
        self.spread += WEIGHT * (abs(over) - self.spread)
        self.mean += WEIGHT * over

    @property
    def late(self) -> float:
        """What it hardly ever takes longer than."""
        return self.mean + 4 * self.spread


@dataclass
class Head:
    """From the sample to a boundary; `run` None for the input itself."""

    tensor: str
    packed: list[Packed]
    run: Callable[[Array], Array] | None
    narrow: bool = False
    exit: Exit | None = None
    both: Callable[[Array], tuple[Array, Array]] | None = None  # the boundary and the early scores
    goes_on: float = 1.0  # share of samples without an early answer, as validation data and lately seen ones have it
    seconds: float = 0.0
    packing: dict[Coding, float] = field(default_factory=dict)


def early(head: Head, sample: Array, counted: bool = True) -> tuple[Array, Array | None]:
    """The boundary of one sample, and its early scores where they are sure enough to stand. `counted`: it is a real one."""
    if head.exit is None or head.both is None:
        return (sample if head.run is None else head.run(sample)), None
    boundary, scores = head.both(sample)
    sure = float(softmax(scores[0]).max()) >= head.exit.threshold
    if counted:
        head.goes_on += SLOW_WEIGHT * (float(not sure) - head.goes_on)
    return boundary, scores if sure else None


def heads_of(bundle: Bundle, settings: Split, log: Log) -> dict[str, Head]:
    """The input, and as many of the bundle's heads as `heads_bytes` of files allow, the smallest first; lossy ones where they may
    be used."""
    manifest, used = bundle.manifest, 0
    size = np.prod(manifest.sample.shape) * np.dtype(manifest.sample.dtype).itemsize
    found = {INPUT: Head("input", [Packed(coding="raw", bytes=float(size))], None)}
    split = manifest.split
    if split is None:
        return found
    for cut in sorted(split.cuts, key=lambda cut: manifest.files[cut.file].bytes if cut.file else 0):
        if not cut.file:
            found[INPUT] = Head("input", list(cut.packed), None)
            continue
        if cut.decoder and settings.least_agreement >= 1 and cut.name != settings.cut.partition("/")[0]:
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
        found[cut.name] = head = Head(cut.tensor, list(cut.packed), runtime.raw, bool(cut.decoder))
        if cut.exit is not None and settings.exits:
            head.exit, head.both, head.goes_on = cut.exit, runtime.both, cut.exit.share
    return found


def mean_seconds(action: Callable[[], object]) -> float:
    """Seconds of one call. The mean: where a device is throttled, most calls are quick and a few pay for them."""
    action()
    begun, runs = time.perf_counter(), 0
    while runs < MOST_RUNS and time.perf_counter() - begun < MEASURE_SECONDS:
        action()
        runs += 1
    return (time.perf_counter() - begun) / runs
