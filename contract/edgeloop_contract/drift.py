"""Whether samples still look like those a model was validated on: one arithmetic for workstation (which calibrates) and device.

Each sample is a few named numbers (`features`). They are standardised given the answer, joined by their squares, some squared
projections (for correlations) and the answer itself, and averaged with several memories at once: exponentially weighted moving
averages (Roberts 1959) of many numbers (Lowry et al. 1992), short memories for large and long ones for small changes. The largest
average of each memory, and the sum of their squares, are held against limits of their own that were found by running the monitor
itself over resampled reference samples, so that it raises as many false alarms as are asked for (`rates`, in alarms per 10,000
samples), as many by each.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.settings import NonNegativeInt

__all__ = [
    "BINS", "FAULTS", "MAX_ANSWERS", "MIN_LIMIT", "Drift", "Monitor", "channel_names", "input_features", "sample_features",
    "sample_names",
]  # fmt: skip

MAX_DEVIATIONS = 4.0  # limit of one number in standard deviations: a single odd sample is not drift
MAX_VALUES = 8192  # of a sample that are used
MAX_CHANNELS = 8
MAX_INPUTS = 4  # of a model with several that are watched
MOST_ARE_CHANNELS = 32  # a longer last axis of a model's several inputs is no axis of channels
MAX_ANSWERS = 16  # scores and labels that are monitored one by one
BINS = 10  # of confidence
MIN_LIMIT = 1e-6  # for statistics that never changed
FAULTS = ("fault", "miswired")  # causes that are repaired at the device: nothing to learn or to label


class Drift(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A model's reference, in its bundle.

    F features, L labels (1: not distinguished), P projections, N monitored numbers, M memories, R false-alarm rates.
    """

    features: list[str]
    labels: int
    centre: list[list[float]]  # (L, F): mean of each feature given the answer
    scale: list[float]  # (F,): standard deviation around that
    projections: list[list[float]]  # (P, F)
    mean: list[float]  # (N,): of the monitored numbers: F features, F squares, P projections' squares, L answers
    std: list[float]
    memories: list[float]  # (M,): time constant of each average, in samples
    spread: list[list[float]]  # (M, N): standard deviation of each average without drift
    level: list[float] = []  # (2 M,): typical maximum of each statistic; only in bundles of 0.2, as `thresholds`
    rates: list[float]  # alarms per 10,000 samples …
    thresholds: list[float] = []  # (R,): … and the multiple of its level that any statistic exceeds so often
    limits: list[list[float]] = []  # (R, 2 M): … and the limits that the statistics together exceed so often
    overall: list[list[float]]  # (2, F): mean and standard deviation of each feature, whatever the answer
    between: list[float] = []  # (F,): standard deviation of the mean between groups, or between recordings if there are few groups
    within: list[float] = []  # (F,): of a recording's mean within its group, beyond what its number of samples explains
    places: NonNegativeInt = 0  # number of groups behind `between`; 0: every sample is independent
    reliability: list[list[float]] = []  # (BINS, 2): share of right answers, and samples, by confidence; of validation data
    samples: NonNegativeInt = 0
    recordings: NonNegativeInt = 0  # number of recordings behind the samples; 0: not known
    source: str = ""  # which samples these are

    def __post_init__(self) -> None:
        f, p, m = len(self.features), len(self.projections), len(self.memories)
        n = 2 * f + p + (self.labels if self.labels > 1 else 0)
        shapes = (
            (self.centre, (max(1, self.labels), f)), (self.scale, (f,)), (self.projections, (p, f)),
            (self.mean, (n,)), (self.std, (n,)),
            (self.spread, (m, n)), (self.overall, (2, f)), *((each, (f,)) for each in (self.between, self.within) if each),
            *([(self.limits, (len(self.rates), 2 * m))] if self.limits else
              [(self.level, (2 * m,)), (self.thresholds, (len(self.rates),))]),
        )  # fmt: skip
        if not self.rates or any(np.shape(values) != shape for values, shape in shapes if shape[0]):
            raise ValueError("drift: its arrays do not fit together")
        if any(s <= 0 for s in (*self.scale, *self.std)) or any(x <= 0 for x in chain(self.rates, *self.limits)):
            raise ValueError("drift: scales, rates and limits are above 0")
        if self.places > self.samples:
            raise ValueError("drift: there are more places than samples")

    def limits_at(self, per_10k: float) -> Array:
        """(2 M,): limits that the statistics exceed `per_10k` times in 10,000 samples; linear in log(rate)."""
        rates = np.log(self.rates)
        limits = np.asarray(self.limits) if self.limits else np.outer(self.thresholds, self.level)
        at = float(np.log(per_10k))
        if len(rates) > 1 and not rates[0] <= at <= rates[-1]:
            i, j = (0, 1) if at < rates[0] else (-2, -1)
            outside = limits[i] + (at - rates[i]) * (limits[j] - limits[i]) / (rates[j] - rates[i])
            return np.asarray(np.maximum(outside, MIN_LIMIT))
        return np.array([np.interp(at, rates, column) for column in limits.T])


def channel_names(channels: int) -> list[str]:
    """Names of the input's features: mean, spread and roughness of each channel; of the first few where there are more."""
    few = range(min(channels, MAX_CHANNELS))
    return [f"{what} of channel {c}" for what in ("mean", "spread", "roughness") for c in few]


def sample_names(shapes: Mapping[str, Sequence[int]], texts: Collection[str] = ()) -> list[str]:
    """Names of what `sample_features` returns, by input and its shape (*sample)."""
    if len(shapes) == 1:
        return channel_names(next(iter(shapes.values()))[-1])
    few = [(name, shape) for name, shape in shapes.items() if name not in texts][:MAX_INPUTS]
    return [f"{name}: {each}" for name, shape in few for each in channel_names(_channels(shape) or 1)]


def sample_features(sample: Array | Mapping[str, Array], texts: Collection[str] = ()) -> Array:
    """The features of one sample (1, *sample), or of one that has several inputs, one input after the other.

    Of several, a row of few numbers is so many channels, and an input without an axis of channels is a single one. `texts`: inputs
    of token ids. They are left out: an id is a name, and has no mean.
    """
    if not isinstance(sample, Mapping):
        return input_features(sample)
    few = [values for name, values in sample.items() if name not in texts][:MAX_INPUTS]
    rows = [input_features(x if _channels(x.shape[1:]) else x.reshape(1, -1, 1)) for x in few]
    return np.concatenate(rows) if rows else np.zeros(0)


def _channels(shape: Sequence[int]) -> int:
    """The length of the axis of channels; 0: there is none."""
    most = MAX_CHANNELS if len(shape) == 1 else MOST_ARE_CHANNELS
    return shape[-1] if shape and shape[-1] <= most else 0


def input_features(sample: Array) -> Array:
    """(3 × channels,) of one sample (1, ..., C): mean, log spread, and log roughness (mean step between neighbours) per channel.

    Of large samples only a part is used: every n-th row of an image, the beginning of a series.
    """
    rows = sample[0]
    if rows.size > MAX_VALUES and rows.ndim > 2:
        rows = rows[:: -(-rows.size // MAX_VALUES)]
    x = rows.reshape(-1, rows.shape[-1])[:, :MAX_CHANNELS]
    if len(x) > MAX_VALUES:
        x = x[:MAX_VALUES]
    x = x.astype(np.float64)
    n, channels = x.shape
    out = np.empty(3 * channels)
    ones = np.ones(n)
    mean = ones @ x / n
    out[:channels] = mean
    x -= mean
    np.log1p(np.sqrt(np.einsum("ij,ij->j", x, x) / n), out=out[channels : 2 * channels])
    if n > 1:
        np.log1p(ones[1:] @ np.abs(x[1:] - x[:-1]) / (n - 1), out=out[2 * channels :])
    else:
        out[2 * channels :] = 0.0
    return out


class Monitor:
    """Follows one stream, or many at once in single precision (`streams`). `score` above 1 is an alarm: call `reset` then."""

    def __init__(self, reference: Drift, per_10k: float = 1.0, streams: int = 0) -> None:
        self.reference, self.per_10k, self.streams, self.score = reference, per_10k, streams, 0.0
        r, lead = reference, (streams,) if streams else ()
        self._f, self._p = len(r.features), len(r.projections)
        self._per_label = r.labels > 1
        self._centre, self._per_scale = np.asarray(r.centre), 1 / np.asarray(r.scale)
        self._projections = np.ascontiguousarray(np.asarray(r.projections).reshape(self._p, self._f).T)
        self._mean, self._per_std = np.asarray(r.mean), 1 / np.asarray(r.std)
        n, m = len(r.mean), len(r.memories)
        kind = np.float32 if streams else np.float64
        self._rate = (1 / np.asarray(r.memories)).astype(kind)[:, None]
        self._per_spread = (1 / np.asarray(r.spread)).astype(kind)
        self._per_limit = 1 / r.limits_at(self.per_10k)
        self.averages = np.zeros((*lead, m, n), kind)
        self._deviations, self._squares = np.empty_like(self.averages), np.empty_like(self.averages)
        self._ones, self._monitored = np.ones(n, kind), np.zeros(n)
        self._answers = np.eye(max(1, r.labels))
        self._statistics = np.empty((*lead, 2 * m), kind)

    def monitored(self, features: Array, answer: int | Array) -> Array:
        """The standardised numbers (N,) of a sample with features (F,) and an answer (the label's number); or (n, N) of many.

        The array for a single sample is reused by the next call.
        """
        f, p = self._f, self._p
        out: Array = self._monitored if features.ndim == 1 else np.empty((len(features), len(self._mean)))
        z = (features - self._centre[answer if self._per_label else 0]) * self._per_scale
        np.minimum(z, 8.0, out=z)
        np.maximum(z, -8.0, out=z)
        out[..., :f] = z
        np.multiply(z, z, out=out[..., f : 2 * f])
        if p:
            projected = z @ self._projections
            np.multiply(projected, projected, out=out[..., 2 * f : 2 * f + p])
        if self._per_label:
            out[..., 2 * f + p :] = self._answers[answer]
        out -= self._mean
        out *= self._per_std
        np.minimum(out, MAX_DEVIATIONS, out=out)
        np.maximum(out, -MAX_DEVIATIONS, out=out)
        return out

    def statistics(self, monitored: Array) -> Array:
        """One step with numbers (..., N); returns (..., 2 M): each memory's largest average, and the root of their squares' sum."""
        deviations, squares = self._deviations, self._squares
        np.subtract(monitored[..., None, :], self.averages, out=deviations)
        deviations *= self._rate
        self.averages += deviations
        np.multiply(self.averages, self._per_spread, out=deviations)
        np.multiply(deviations, deviations, out=squares)
        m = len(self._rate)
        squares.max(axis=-1, out=self._statistics[..., :m])
        np.matmul(squares, self._ones, out=self._statistics[..., m:])
        np.sqrt(self._statistics, out=self._statistics)
        return self._statistics

    def observe(self, features: Array, answer: int) -> bool:
        """Add one sample; whether it raises an alarm."""
        statistics = self.statistics(self.monitored(features, answer))
        statistics *= self._per_limit
        self.score = float(statistics.max())
        return self.score > 1.0

    def reset(self) -> None:
        self.averages[...] = 0.0
        self.score = 0.0

    @property
    def largest(self) -> Array:
        """(N,): deviation of each monitored number's average, in its own standard deviations, at the memory where it is largest."""
        off = self.averages * self._per_spread
        best = np.abs(off).argmax(axis=0)
        return np.asarray(off[best, np.arange(off.shape[1])])
