"""Measures a cut of a model: bytes that cross, times of both parts, agreement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeloop_contract.arrays import Array
    from edgeloop_contract.manifest import Coding, Packed, Variant

WORTH = 0.95  # a coding is offered if it leaves at most this share of the raw bytes


SAME_SHARE = 0.01  # share of a quantity's range


class CutBench:
    """The model to cut, its samples, and the whole model's scores for them."""

    def __init__(self, variant: Variant, model: bytes, samples: Array, seconds: float, classes: bool) -> None:
        self.variant, self.model, self.samples, self._seconds, self._classes = variant, model, samples, seconds, classes
        self.whole = self.open(model)
        self.scores = self.whole.run(samples)
        self.whole_us = self.took(self.whole, samples)

    def open(self, model: bytes) -> Any:
        from edgeloop_agent.runtimes import open_runtime

        return open_runtime(self.variant, model)

    def is_one_by_one(self, head: Any, crossing: Array) -> bool:
        """Whether each sample alone gives its row of `crossing`, up to rounding: kernels for one row may sum in another order."""
        import numpy as np

        alone = np.concatenate([head.raw(self.samples[i : i + 1]) for i in range(len(self.samples))]).astype(np.float64)
        allowed = 1.0 if crossing.dtype.kind in "iu" else 1e-4 * max(1e-6, float(np.abs(crossing).max()))
        return alone.shape == crossing.shape and bool((np.abs(alone - crossing) <= allowed).all())

    def took(self, runtime: Any, samples: Array) -> float:
        from edgeloop_agent.bench.measure import latency

        return latency(runtime, samples, 1, self._seconds).latency_us_p50

    def packed(self, values: Array) -> list[Packed]:
        """Packs the values raw, and deflated where that saves bytes."""
        from edgeloop_contract.manifest import Packed
        from edgeloop_contract.splitting import pack

        ways: list[Packed] = []
        for coding in ("raw", "deflate"):
            size = _mean([pack(values[i : i + 1], coding) for i in range(len(values))])
            if not ways or size <= WORTH * ways[0].bytes:
                ways.append(Packed(coding=coding, bytes=size))
        return ways

    def lossy(self, coding: Coding, rows: list[bytes], scores: Array) -> Packed:
        from edgeloop_contract.manifest import Packed

        return Packed(coding=coding, bytes=_mean(rows), agreement=self.agreement(scores))

    def agreement(self, scores: Array) -> float:
        """The share of samples with the whole model's answer: the same class, or quantities within a hundredth of their range."""
        if self._classes:
            same = scores.argmax(axis=1) == self.scores.argmax(axis=1)
        else:
            apart = abs(scores - self.scores).reshape(len(scores), -1).max(axis=1)
            same = apart <= SAME_SHARE * (self.scores.max() - self.scores.min())
        return round(float(same.mean()), 4)


def _mean(packed: list[bytes]) -> float:
    return round(sum(map(len, packed)) / len(packed), 1)
