"""Calibrates the drift reference of a device: runs the monitor itself over streams of resampled reference samples.

A stream is like the input of a device: whole recordings of one group (a person, a site), windows in order. Each stream draws
its recordings from a resample of the reference, so that the uncertainty of the finite reference does not count as drift (a
bootstrap in a bootstrap; for the effect of estimated parameters on control charts see Jensen et al. 2006). But windows of one
recording deviate together, and no resample has a more unusual recording than the reference. So for averages over few
recordings, rates that would need more recordings than there are come from extrapolation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import BINS, MIN_LIMIT, Drift, Monitor
from edgeloop_contract.manifest import Anomaly, Classification
from edgeloop_exporters.named_inputs import NamedInput
from edgeloop_exporters.named_outputs import Output
from edgeloop_pipeline.drift.pool import Pool, pool_of
from edgeloop_pipeline.drift.variance import MIN_GROUPS, between_group_variance

STREAMS = 256
STEPS = 8192
WARM_UP_STREAMS, WARM_UP_STEPS = 64, 4096
MEMORIES = (4.0, 16.0, 64.0, 256.0)
PROJECTIONS = 8
RATES = np.array([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0])
MIN_COUNTED = 3.0  # the rate, or the rarest known one, at which alarms of all statistics together are counted, and …
COUNTED = np.array([1.0, 1.5, 2.5, 5.0, 20.0])  # … these multiples of it, …
COUNTED_STREAMS = 64  # … on this number of streams
MIN_HITS = 25  # a rate is counted if a value is exceeded at least so often; rarer ones are extrapolated
MIN_ALARMS = 10  # among the reference's own samples, at the rarest rate that recordings can show
FOLDS = 10
FEW = 5  # an average over fewer recordings can be dominated by one unusual recording
MAX_ALARMS = 0.25  # of a statistic, in the time of its memory; more would be mere chance
FITTED = 5.0  # the line for extrapolation is fitted from the rarest known rate to this multiple of it
SHRINK = 10.0  # a label's mean is shrunk to the mean of all by this number of samples
MAX_SAMPLES = 20_000


def rarest_told(samples: int, recordings: int) -> float:
    """The rate, in 10,000 samples, below which recordings are too few and extrapolation begins; 0: samples are independent."""
    return MIN_ALARMS / samples * 10_000 if recordings < samples else 0.0


def too_few(groups: Array, recordings: Array) -> bool:
    """Whether these samples are too few for a reference: few groups, or so few recordings that every rate is extrapolated."""
    return len(np.unique(groups)) < MIN_GROUPS or rarest_told(len(recordings), len(np.unique(recordings))) > RATES[-1]


def calibrate(pool: Pool, names: Sequence[str], labels: int, source: str = "", reliability: Any = (), seed: int = 0) -> Drift:
    """The reference of a bundle. `labels`: the number of different answers (1: answers are not distinguished)."""
    rng = np.random.default_rng(seed)
    pool = _fewer(pool, rng)
    if labels == 1:
        pool = replace(pool, answers=np.zeros(len(pool.features), dtype=np.intp))
    directions = rng.standard_normal((PROJECTIONS if pool.features.shape[1] > 1 else 0, pool.features.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    raw = msgspec.structs.replace(
        reference_of(pool, names, labels, directions), source=source, reliability=[list(map(float, row)) for row in reliability]
    )
    numbers = _held_out(raw, pool, rng)
    wander = _wander(raw, numbers, _streams(pool, WARM_UP_STREAMS, WARM_UP_STEPS, rng))
    raw = msgspec.structs.replace(raw, spread=_rounded(wander))
    limits = _limits(raw, pool, numbers, rng)
    return msgspec.structs.replace(raw, rates=RATES.tolist(), limits=_rounded(limits))


def reference_of(pool: Pool, names: Sequence[str], labels: int, directions: Array | None = None) -> Drift:
    """The reference without limits: the statistics of samples and groups. `directions`: (P, F)."""
    raw = _standardised(pool, names, labels, np.zeros((0, len(names))) if directions is None else directions)
    standard = (pool.features - np.asarray(raw.centre)[pool.answers]) / np.asarray(raw.scale)
    between, within, places = between_group_variance(standard, pool.recordings, pool.groups)
    return msgspec.structs.replace(raw, between=_rounded(between), within=_rounded(within), places=places)


def _standardised(pool: Pool, names: Sequence[str], labels: int, directions: Array) -> Drift:
    """A reference that standardises the watched values; the limits of averages are still unknown."""
    x, answers = pool.features, pool.answers
    overall = x.mean(0)
    sums, counts = np.zeros((labels, x.shape[1])), np.bincount(answers, minlength=labels)[:, None]
    np.add.at(sums, answers, x)
    centre = (sums + SHRINK * overall) / (counts + SHRINK)
    deviation = np.maximum(x.std(0), 1e-3 * (1 + np.abs(overall)))
    scale = np.maximum(np.sqrt(((x - centre[answers]) ** 2).mean(0)), 1e-2 * deviation)
    watched = 2 * x.shape[1] + len(directions) + (labels if labels > 1 else 0)
    memories = [m for m in MEMORIES if m * 4 <= max(len(x), 64)]
    raw = Drift(
        features=list(names), labels=labels, centre=_rounded(centre), scale=_rounded(scale), projections=_rounded(directions),
        mean=[0.0] * watched, std=[1.0] * watched, memories=memories, spread=np.ones((len(memories), watched)).tolist(),
        rates=[1.0], limits=[[1.0] * (2 * len(memories))], overall=_rounded(np.stack([overall, deviation])), samples=len(x),
        recordings=len(np.unique(pool.recordings)),
    )  # fmt: skip
    numbers = Monitor(raw).monitored(x, answers)
    mean, std = numbers.mean(0), np.maximum(numbers.std(0), 1e-3)
    for _ in range(3):  # clipping moves the mean, and the mean decides what is clipped
        raw = msgspec.structs.replace(raw, mean=_rounded(mean), std=_rounded(std))
        mean += Monitor(raw).monitored(x, answers).mean(0) * std
    return raw


def _held_out(reference: Drift, pool: Pool, rng: np.random.Generator) -> Array:
    """The watched values (n, N) of each recording, standardised by the others: so each looks as unusual as a new one."""
    _, place = np.unique(pool.recordings, return_inverse=True)
    fold = rng.permutation(np.arange(place.max() + 1) % FOLDS)[place]
    numbers = np.empty((len(fold), len(reference.mean)), np.float32)
    for held in (fold == one for one in np.unique(fold)):
        others = pool.of(~held) if not held.all() else pool
        by = _standardised(others, reference.features, reference.labels, np.asarray(reference.projections))
        numbers[held] = Monitor(by).monitored(pool.features[held], pool.answers[held])
    return numbers


def reliability(confidence: Array, right: Array) -> list[tuple[float, int]]:
    """The share of right answers by confidence, in bins of equal width: the reliability of a device's confidence."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    found, overall = [], float(right.mean())
    for b in range(BINS):
        hits = right[place == b]
        found.append((round(float((hits.sum() + overall) / (len(hits) + 1)), 4), len(hits)))  # an empty bin gets the overall share
    return found


def of_bundle(
    task: Any, pools: dict[str, tuple[Any, Array]], labelled: bool = True, outputs: Sequence[Output] = (),
    inputs: Sequence[NamedInput] = (), texts: Collection[str] = (),
) -> Drift:  # fmt: skip
    """The reference of a bundle from validation samples and scores; with training samples if validation has too few groups.

    `pools`: "validation", and optionally "train", as (Samples, scores). Not `labelled`: no table says how often
    a confidence is right. `outputs`: several, whose scores are joined; `inputs`: several, which each sample has together;
    `texts`: those of token ids, which are not watched.
    """
    if isinstance(task, Anomaly):  # the normal samples are the reference
        pools = {name: (s.of(s.labels == 0), found[s.labels == 0]) for name, (s, found) in pools.items()}
    samples, scores = pools["validation"]
    classes = isinstance(task, Classification)
    _, _, confidence = pool_of(task, samples.values, scores, samples.recording, samples.groups, outputs, inputs, texts)
    table = reliability(confidence, scores.argmax(1) == samples.labels) if classes and labelled else ()
    parts = [pool_of(task, s.values, found, s.recording, s.groups, outputs, inputs, texts)[:2] for s, found in pools.values()]
    names = parts[0][1]
    pool = Pool(
        np.concatenate([p.features for p, _ in parts]), np.concatenate([p.answers for p, _ in parts]),
        np.concatenate([p.recordings + 10_000_000 * i for i, (p, _) in enumerate(parts)]),
        np.concatenate([[f"{i} {g}" for g in p.groups] for i, (p, _) in enumerate(parts)]),
    )  # fmt: skip
    labels = len(task.labels) if classes and len(task.labels) <= 64 else 1
    return calibrate(pool, names, labels, " and ".join(pools), table)


def _fewer(pool: Pool, rng: np.random.Generator) -> Pool:
    """The pool with a limited number of samples, in whole recordings."""
    if len(pool.features) <= MAX_SAMPLES:
        return pool
    names, counts = np.unique(pool.recordings, return_counts=True)
    order = rng.permutation(len(names))
    keep = names[order[np.cumsum(counts[order]) <= MAX_SAMPLES]]
    return pool.of(np.isin(pool.recordings, keep))


def _streams(pool: Pool, streams: int, steps: int, rng: np.random.Generator) -> Array:
    """The streams (streams, steps) as numbers of samples."""
    n = len(pool.features)
    if len(np.unique(pool.recordings)) == n:
        if len(np.unique(pool.groups)) in (1, n):
            resampled = rng.integers(0, n, (streams, n))
            return np.take_along_axis(resampled, rng.integers(0, n, (streams, steps)), axis=1)
        blocks_of = {g: [np.array([i]) for i in np.flatnonzero(pool.groups == g)] for g in np.unique(pool.groups)}
    else:
        blocks = np.split(np.arange(n), np.flatnonzero(np.diff(pool.recordings)) + 1)
        blocks_of = {}
        for block in blocks:
            blocks_of.setdefault(pool.groups[block[0]], []).append(block)
        if all(len(b) == 1 for b in blocks_of.values()):  # each group has one recording: any may follow any other
            blocks_of = {"all": blocks}
    groups, out = list(blocks_of.values()), np.empty((streams, steps), dtype=np.intp)
    for s in range(streams):
        own = groups[s % len(groups)]
        drawn = rng.integers(0, len(own), len(own))  # a resample of the reference …
        first, length = np.array([own[i][0] for i in drawn]), np.array([len(own[i]) for i in drawn])
        order = rng.integers(0, len(own), steps // length.min() + 1)  # … whose blocks follow each other
        ends = np.cumsum(length[order])
        order = order[: int(np.searchsorted(ends, steps)) + 1]
        begins = np.repeat(ends[: len(order)] - length[order], length[order])
        out[s] = (np.repeat(first[order], length[order]) + np.arange(len(begins)) - begins)[:steps]
    return out


def _wander(reference: Drift, numbers: Array, rows: Array) -> Array:
    """The deviation (M, N) of each full average without drift, within and between streams."""
    monitor = Monitor(reference, streams=len(rows))
    total = np.zeros_like(monitor.averages[0])
    count = 0
    for t in range(rows.shape[1]):
        monitor.statistics(numbers[rows[:, t]])
        if t * 4 >= rows.shape[1]:
            total += (monitor.averages**2).mean(0)
            count += 1
    floor = np.sqrt(1 / (2 * np.asarray(reference.memories) - 1))[:, None] * 0.05
    return np.asarray(np.maximum(np.sqrt(total / count), floor))


def _paths(reference: Drift, numbers: Array, rows: Array) -> Array:
    """Every statistic over time, (streams, steps, 2 M)."""
    monitor = Monitor(reference, streams=len(rows))
    found = np.empty((*rows.shape, 2 * len(reference.memories)), dtype=np.float32)
    for t in range(rows.shape[1]):
        found[:, t] = monitor.statistics(numbers[rows[:, t]])
    return found


@dataclass(frozen=True)
class _Tail:
    """How often a statistic exceeds a value, in 10,000 samples: counted, and below `start` a line in log(rate)."""

    rates: Array
    values: Array
    start: float
    line: Array

    @classmethod
    def of(cls, path: Array, memory: int, least: float) -> _Tail:
        """The tail of a path (streams, steps). Values within one memory are one alarm. `least`: the rarest known rate."""
        streams, steps = path.shape[0], path.shape[1] // memory * memory
        values = np.sort(path[:, :steps].reshape(streams, -1, memory).max(axis=2), axis=None)[::-1]
        rates = np.arange(1, len(values) + 1) / (streams * steps) * 10_000
        most = MAX_ALARMS * rates[-1]
        values, rates = values[rates <= most], rates[rates <= most]
        start = float(min(max(rates[MIN_HITS], least), most / FITTED))
        near = np.geomspace(start, start * FITTED, 20)
        return cls(rates, values, start, np.polyfit(np.log(near), np.interp(near, rates, values), 1))

    def at(self, rates: Array) -> Array:
        known: Array = np.interp(rates, self.rates, self.values)
        return np.asarray(np.where(rates < self.start, np.polyval(self.line, np.log(rates)), known))


def _limits(reference: Drift, pool: Pool, numbers: Array, rng: np.random.Generator) -> Array:
    """The limit (R, 2 M) of each statistic at each of RATES.

    Each statistic has an equal share of the alarms. With one limit for all, the short averages would decide it, because one unusual
    recording moves them far; the long averages, which show a lasting change, would never reach it. The alarms of all together are
    then counted as a device raises them: it starts again after each alarm, and an unusual recording can raise the next one.
    """
    paths = _paths(reference, numbers, _streams(pool, STREAMS, STEPS, rng))
    length, told = reference.samples / reference.recordings, rarest_told(reference.samples, reference.recordings)
    memories = [int(m) for m in reference.memories] * 2
    tails = [_Tail.of(paths[:, :, j], m, told if 2 * m - 1 < FEW * length else 0.0) for j, m in enumerate(memories)]

    def limits(rates: Array) -> Array:
        return np.stack([tail.at(rates / len(tails)) for tail in tails], axis=-1).clip(MIN_LIMIT)

    tried = max(told, MIN_COUNTED) * COUNTED
    counted = _alarms(reference, numbers, _streams(pool, COUNTED_STREAMS, STEPS, rng), limits(tried))
    counted = np.maximum.accumulate(np.maximum(counted, tried[0] / len(tails)))  # all together raise at least as many as one alone
    return np.minimum.accumulate(limits(RATES * np.interp(np.log(RATES), np.log(counted), tried / counted)))


def _alarms(reference: Drift, numbers: Array, rows: Array, limits: Array) -> Array:
    """The alarms (K,) in 10,000 samples at each of the limits (K, 2 M)."""
    monitor = Monitor(reference, streams=len(limits) * len(rows))
    each = np.repeat(limits, len(rows), axis=0)
    count = np.zeros(len(each))
    for t in range(rows.shape[1]):
        alarm = (monitor.statistics(np.tile(numbers[rows[:, t]], (len(limits), 1))) > each).any(axis=1)
        if alarm.any():
            count += alarm
            monitor.averages[alarm] = 0.0
    return np.asarray(count.reshape(len(limits), -1).mean(axis=1) / rows.shape[1] * 10_000)


def _rounded(values: Array) -> Any:
    """The values as lists, rounded to six digits."""
    digits = np.vectorize(lambda v: float(f"{v:.6g}"))
    return digits(np.asarray(values, dtype=np.float64)).tolist() if np.size(values) else np.asarray(values).tolist()
