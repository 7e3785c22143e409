"""One loaded model, with a lock, a latency histogram and its size."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import msgspec

from edgeloop_agent.caches import ResultCache
from edgeloop_agent.engine import Engine, Scored
from edgeloop_agent.metrics import Counts, resident_bytes
from edgeloop_agent.runtimes import RuntimeOptions
from edgeloop_agent.runtimes.named import Memory
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.bench_report import VariantChoice

if TYPE_CHECKING:
    from edgeloop_agent.offload.router import Router
    from edgeloop_agent.offload.tail_servers import TailServers

__all__ = ["Model", "RunningInferences"]

P = ParamSpec("P")
T = TypeVar("T")


class RunningInferences(msgspec.Struct):
    """Inferences in progress, by thread; the loop detects a hung one here."""

    started: dict[int, float] = msgspec.field(default_factory=dict)

    def longest_seconds(self) -> float:
        now = time.monotonic()
        return max((now - start for start in list(self.started.values())), default=0.0)


class Model(Engine):
    """One bundle on one variant. TFLite's interpreter takes one caller at a time, so each model has a lock."""

    def __init__(
        self,
        bundle: Bundle,
        choice: VariantChoice,
        counts: Counts,
        results: ResultCache,
        running: RunningInferences,
        options: RuntimeOptions,
    ) -> None:
        before = resident_bytes()
        super().__init__(bundle, choice, options)
        self.name, self.sha256 = bundle.manifest.name, bundle.sha256
        self.memory_bytes = max(resident_bytes() - before, bundle.manifest.files[self.variant.file].bytes)
        self._latencies, self._calls = counts.latency_of(self.name), counts.calls_of(self.name)
        self._results, self._running, self._lock = results, running, threading.Lock()
        self._key = f"{bundle.sha256} {choice.variant}"
        self.router: Router | None = None

    def scored(self, sample: Array) -> Scored:
        """Scores from the cache of results, else from the planned place."""
        if not self._results.max_bytes:
            return self._fresh(sample)
        key = self._results.key(self._key, sample)
        cached = self._results.get(key)
        if cached is not None:
            return Scored(cached, "cache" if self.router else "")
        scored = self._fresh(sample)
        if scored.device_scores is None and scored.for_drift:  # a larger model's answer is not this model's, nor an early one
            self._results.put(key, scored.scores)
        return scored

    def _fresh(self, sample: Array) -> Scored:
        return Scored(self._run(sample)) if self.router is None else self.router.scored(sample)

    def attach_router(self, bundle: Bundle, tail_servers: TailServers) -> None:
        """Let `tail_servers` compute parts of the model from now on."""
        from edgeloop_agent.offload.router import Router

        self.router = Router(tail_servers, bundle, self._run)
        tail_servers.add_router(self.router)

    def _run(self, sample: Array) -> Array:
        return self._alone(super()._run, sample)

    def outputs(self, sample: Mapping[str, Array], memory: Memory) -> dict[str, Array]:
        return self._alone(super().outputs, sample, memory)

    def _alone(self, run: Callable[P, T], *inputs: P.args, **options: P.kwargs) -> T:
        thread = threading.get_ident()
        with self._lock:
            start = time.perf_counter()
            self._running.started[thread] = time.monotonic()
            done = False
            try:
                outputs = run(*inputs, **options)
                done = True
                return outputs
            finally:
                del self._running.started[thread]
                seconds = time.perf_counter() - start
                self._latencies.add(seconds)
                self._calls.answered += done
                self._calls.failed += not done
                self._calls.milliseconds.append(seconds * 1e3)
