"""From a raw recording to answers: preprocessing, the model, probabilities."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from edgeloop_agent.answers import confidence_of, interpret
from edgeloop_agent.runtimes import PLAIN, RuntimeOptions, open_runtime
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import DTYPES, Array
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import DataError, DeviceError
from edgeloop_contract.preprocessing import prepare

__all__ = ["Answer", "Engine", "Scored"]


class Scored(NamedTuple):
    """Scores (1, outputs), and where they were computed ("": the device has no other place).

    `device_scores`: of the device's model, where a larger model answered instead. `for_drift`: whether the drift monitor may use
    them. It may not where early answers are possible: samples with an early answer and those without are two different populations.
    """

    scores: Array
    place: str = ""
    device_scores: Array | None = None
    for_drift: bool = True


class Answer(msgspec.Struct, frozen=True):
    """One sample's answer, or why it was refused."""

    window: int
    label: str | None = None
    probabilities: dict[str, float] | None = None
    values: dict[str, float] | None = None  # regression: by quantity, in its unit
    score: float | None = None  # anomaly: reconstruction error
    milliseconds: float = 0.0
    place: str | None = None  # where the model can be split: "device", a route and a tail, or "large"
    refused: str | None = None
    sample: Array | None = None  # (1, *sample) that was answered, and this device's scores of it
    scores: Array | None = None
    confidence: float | None = None  # of this device's model, 0 to 1; None where drift may not use it


class Engine:
    """One bundle's chosen variant, loaded."""

    def __init__(self, bundle: Bundle, choice: VariantChoice, options: RuntimeOptions = PLAIN) -> None:
        self.manifest, self.choice = bundle.manifest, choice
        self.variant = bundle.manifest.variant(choice.variant)
        self.runtime = open_runtime(self.variant, bundle.read(self.variant.file), choice.threads, options)
        self._shape = tuple(self.manifest.sample.shape)
        self._dtype = DTYPES[self.manifest.sample.dtype]

    def answers(self, recording: Array) -> Iterator[Answer]:
        """Answers for the recording's windows, in order. Raises DataError when the recording as a whole does not fit."""
        prepared = prepare(self.manifest.preprocessing, recording)
        values = self.checked(prepared.values) if prepared.indices else prepared.values
        if not prepared.refused:
            for window in prepared.indices:
                yield self._answer(window, values[window : window + 1])
            return
        rows = dict(zip(prepared.indices, range(len(prepared.indices)), strict=True))
        for window in sorted([*prepared.indices, *prepared.refused]):
            if window in prepared.refused:
                yield Answer(window, refused=prepared.refused[window])
            else:
                row = rows[window]
                yield self._answer(window, values[row : row + 1])

    def scored(self, sample: Array) -> Scored:
        """Scores of one checked sample (1, *sample). The service overrides this with caches and offloading."""
        return Scored(self._run(sample))

    def try_once(self) -> None:
        """One sample of zeros through the model. Raises DeviceError where it loads and does not run."""
        Engine._run(self, np.zeros((1, *self.variant.input.shape), self._dtype))

    def _run(self, sample: Array) -> Array:
        try:
            return self.runtime.run(sample)
        except Exception as error:  # a runtime's own types, which share no base
            why = " ".join(str(error).split())[:300]
            raise DeviceError(f"{self.runtime.description} failed: {type(error).__name__}: {why}") from error

    def _answer(self, window: int, sample: Array) -> Answer:
        start = time.perf_counter()
        scores, place, device_scores, for_drift = self.scored(sample)
        taken = (time.perf_counter() - start) * 1e3
        if not np.isfinite(scores).all():
            return Answer(window, refused="the model answered with NaN or infinity")
        meaning = interpret(self.manifest.task, scores, sample)
        seen = confidence = None
        if for_drift:
            seen = scores if device_scores is None else device_scores
            if meaning.probabilities is not None:
                own = device_scores is None
                confidence = max(meaning.probabilities.values()) if own else confidence_of(seen[0])
        return Answer(
            window, meaning.label, meaning.probabilities, meaning.values, meaning.score, round(taken, 4), place or None,
            sample=sample, scores=seen, confidence=confidence,
        )  # fmt: skip

    def checked(self, samples: Array) -> Array:
        """Samples at the model's dtype and shape. Raises DataError when they cannot be that without loss."""
        if samples.ndim == len(self._shape) and self._shape[-1] == 1:
            samples = samples[..., None]
        if samples.shape[1:] != self._shape:
            raise DataError(f"a sample of shape {samples.shape[1:]}; the model takes {self._shape}")
        if samples.dtype == self._dtype:
            return samples
        if self._dtype.kind != "f":
            limits = np.iinfo(self._dtype)
            if samples.size and (samples.min() < limits.min or samples.max() > limits.max or (samples % 1 != 0).any()):
                raise DataError(
                    f"values that are not {limits.dtype} counts; send what the sensor gives, {limits.min} to {limits.max}"
                )
        return np.asarray(samples.astype(self._dtype))
