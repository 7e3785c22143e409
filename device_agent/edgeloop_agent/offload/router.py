"""Runs one model on this device or partly on a tail server. There is always an answer, within its deadline, with its place."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as Late

import numpy as np

from edgeloop_agent.answers import confidence_of
from edgeloop_agent.engine import Scored
from edgeloop_agent.offload.exploration import RouteObservations
from edgeloop_agent.offload.heads import WEIGHT, LatencyAverage, early_answer, load_heads, mean_seconds
from edgeloop_agent.offload.planning import DEVICE, Crossing, Route, RoutePlan, RoutePolicy, TailState, plan_route
from edgeloop_agent.offload.servers import Servers, device_weight
from edgeloop_agent.offload.tails import HTTP_OVERHEAD_BYTES, NotServed, Reply, Tail, TailBusy
from edgeloop_agent.trial_samples import trial_samples
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError, EdgeloopError, NetworkError
from edgeloop_contract.manifest import Classification
from edgeloop_contract.splitting import FILES, INPUT, nibbles, pack, served_name

MARGIN_SECONDS = 0.003  # kept for what comes after the device's own answer
FULL_RUN_EVERY = 20  # one in so many samples with early exits runs through the whole network, for the drift monitor
ABSENT_SECONDS = 60.0
ENOUGH_TIMES = 1.5  # times the device's own time: slower routes need no better estimate


class Router:
    """`whole`: the model on this device. Used by one caller at a time for planning; requests may come from several threads."""

    def __init__(self, servers: Servers, bundle: Bundle, whole: Callable[[Array], Array]) -> None:
        self.servers, self.settings, self.counts = servers, servers.settings, servers.counts
        self.manifest, self.sha256 = bundle.manifest, bundle.sha256
        self._whole = whole
        self._heads = load_heads(bundle, self.settings, servers.log)
        self._scores = tuple(bundle.manifest.variants[0].output_of(bundle.manifest.task).shape)
        self._sample = next(iter(trial_samples(bundle).values()))[:1]
        self._lock, self._exits = threading.Lock(), itertools.count()
        self._observations = RouteObservations()
        self._served: dict[str, dict[str, float]] = {}  # seconds by address and cut, as the tail reported
        self._measured = 0.0  # the whole, when the heads were measured
        self.device = LatencyAverage()
        self.plan = RoutePlan(DEVICE, why="not measured yet")
        self.replans = 0
        cascade = bundle.manifest.cascade
        self.cascade = cascade if self.settings.cascade else None

    def scored(self, sample: Array) -> Scored:
        """Scores of one sample (1, *sample), and where they come from. Raises DeviceError when the device itself cannot."""
        if self.cascade is not None:
            return self._cascaded(sample, self.cascade.threshold)
        route = self._observations.next_route(self.plan, time.monotonic())
        whole = not route.cut or self._heads[route.cut].exit is None or next(self._exits) % FULL_RUN_EVERY == 0
        if route.tail >= 0:
            return self._on_tail(sample, route, self.manifest.name, self.sha256, None, whole=whole)._replace(for_drift=whole)
        _, scores = (None, None) if whole else early_answer(self._heads[route.cut], sample)
        if scores is not None:
            return Scored(scores, f"exit {route.cut}", for_drift=False)
        return Scored(self._on_device(sample), "device", for_drift=whole)

    def _on_device(self, sample: Array) -> Array:
        start = time.perf_counter()
        scores = self._whole(sample)
        self.device.observe(time.perf_counter() - start)
        return scores

    def _cascaded(self, sample: Array, threshold: float) -> Scored:
        """The small model's answer; where it is not confident, the large one's, if that comes in time."""
        start = time.monotonic()
        device_scores = self._on_device(sample)
        if not isinstance(self.manifest.task, Classification) or confidence_of(self.manifest.task, device_scores[0]) >= threshold:
            return Scored(device_scores, "device")
        route = self.plan.route if self.plan.route.tail >= 0 else None
        assert self.cascade is not None
        if route is None:
            return Scored(device_scores, "device: no tail")
        return self._on_tail(sample, route, self.cascade.model, self.cascade.sha256, device_scores, start)

    def _on_tail(
        self,
        sample: Array,
        route: Route,
        model: str,
        sha256: str,
        device_scores: Array | None,
        start: float = 0.0,
        whole: bool = True,
    ) -> Scored:
        """By a tail; by the device where that does not answer in time. `device_scores`: where the device answered
        already.

        `whole`: no early answer will do.
        """
        start = start or time.monotonic()
        tail = self.servers.tails[route.tail]
        if tail.breaker.is_open:  # the plan was made before that
            return self._fallback(sample, device_scores, "circuit breaker is open")
        deadline = start + self.settings.deadline_ms * 1e-3
        tail.interrupted = True
        future = self.servers.submit(tail, lambda: self._remote(sample, route, tail, model, sha256, deadline, whole))
        if future is None:
            return self._fallback(sample, device_scores, "tail is busy with earlier requests")
        needed = self.device.upper_bound if device_scores is None else 0.0
        if device_scores is None and self._hedged(tail):
            device_scores = self._on_device(sample)
            if not future.done():
                return Scored(device_scores, "device: hedged")
        wait = deadline - needed - MARGIN_SECONDS - time.monotonic()
        try:
            scores, place = future.result(max(0.0, wait))
        except Late:
            tail.breaker.failed(time.monotonic(), "no answer in time")
            self.servers.replan()
            return self._fallback(sample, device_scores, "no answer in time")
        except Exception as error:  # the head's runtime has types of its own; whatever it is, the device can answer
            return self._fallback(sample, device_scores, type(error).__name__)
        if device_scores is not None and self.cascade:
            return Scored(scores, f"large@{tail.address}", device_scores)
        return Scored(scores, place)

    def _hedged(self, tail: Tail) -> bool:
        how = self.settings.hedge
        return how == "always" or (how == "auto" and (tail.breaker.failures > 0 or tail.recent_failures > 0.2))

    def _fallback(self, sample: Array, device_scores: Array | None, why: str) -> Scored:
        return Scored(self._on_device(sample) if device_scores is None else device_scores, f"device: {why}")

    def _remote(
        self,
        sample: Array,
        route: Route,
        tail: Tail,
        model: str,
        sha256: str,
        deadline: float,
        whole: bool,
        exploring: bool = False,
    ) -> tuple[Array, str]:
        """In a thread of its own: the head, the tail; and what is learned from them. The scores, and where they come from.

        `whole`: no early answer will do. `exploring`: no request waits for it. Raises NetworkError, DataError.
        """
        begun, shared = time.perf_counter(), tail.exploring
        head = self._heads[route.cut]
        boundary, scores = early_answer(head, sample, counted=not whole)
        if scores is not None and not whole:
            return scores, f"exit {route.cut}"
        name = head.tensor
        if route.coding == "4bit":
            boundary, name = nibbles(boundary), f"{name}.4bit"
        elif route.coding in FILES:
            boundary, name = np.frombuffer(pack(boundary, route.coding), np.uint8)[None], f"{name}.{route.coding}"
        left = max(0.001, deadline - time.monotonic())
        try:
            reply = tail.infer(served_name(model, sha256, route.cut), name, boundary, route.coding == "deflate", left)
            if reply.scores.shape != (1, *self._scores) or not np.isfinite(reply.scores).all():
                raise DataError(f"{tail.address}: scores of shape {reply.scores.shape}")
        except (NetworkError, DataError) as error:
            self._record_failure(tail, served_name(model, sha256, route.cut), error)
            raise
        shared = tail.interrupted if exploring else shared
        self._record_success(tail, route, reply, time.perf_counter() - begun, shared)
        return reply.scores, f"{route}@{tail.address}"

    def _record_failure(self, tail: Tail, model: str, error: EdgeloopError) -> None:
        now = time.monotonic()
        tail.recent_failures += WEIGHT * (1 - tail.recent_failures)
        if isinstance(error, NotServed):
            tail.absent[model] = now + ABSENT_SECONDS
        else:
            tail.breaker.failed(now, str(error), error.seconds if isinstance(error, TailBusy) else 0.0)
        self.servers.replan()

    def _record_success(self, tail: Tail, route: Route, reply: Reply, took: float, shared: bool) -> None:
        """`shared`: an exploration and a request had the link together, which says little of it."""
        tail.breaker.succeeded()
        tail.recent_failures *= 1 - WEIGHT
        tail.last_used = time.monotonic()
        self.servers.count_bytes(reply.bytes)
        if shared:
            return
        tail.link.observe(reply.bytes, max(1e-6, reply.seconds - reply.computed - reply.waited), tail.last_used)
        tail.waiting += WEIGHT * (reply.waited - tail.waiting)
        served = self._served.setdefault(tail.address, {})
        before = served.get(route.cut)
        served[route.cut] = reply.computed if before is None else before + WEIGHT * (reply.computed - before)
        expected = next((row.seconds for row in self.plan.rows if row.route == route), 0.0)
        if expected:
            self._observations.observe(route, took, expected, time.monotonic())
        self.servers.replan()

    def measure(self) -> None:
        """This device's seconds for the whole, each head and each packing, on the bundle's own sample. Raises DeviceError."""
        self._measured = mean_seconds(lambda: self._whole(self._sample))
        self.device.observe(self._measured)
        for head in self._heads.values():
            run = head.run
            boundary, _ = early_answer(head, self._sample, counted=False)
            head.seconds = 0.0 if run is None else mean_seconds(lambda run=run: run(self._sample))  # type: ignore[misc]
            for packed in list(head.packed):
                try:
                    head.packing[packed.coding] = mean_seconds(lambda b=boundary, c=packed.coding: pack(b, c))  # type: ignore[misc]
                except DeviceError as error:
                    self.servers.log("info", "split: a coding is not available", coding=packed.coding, why=error)
                    head.packed.remove(packed)

    def replan_now(self) -> None:
        """Plan anew from everything measured so far."""
        with self._lock:
            settings, now = self.settings, time.monotonic()
            policy = RoutePolicy(
                deadline=settings.deadline_ms * 1e-3, seconds_per_mb=settings.seconds_per_mb,
                device_weight=device_weight(settings, self.counts),
                min_agreement=settings.min_agreement, may_send_input=settings.send == "anything",
                bytes_left=self.servers.bytes_left(), only="input" if self.cascade and not settings.route else settings.route,
            )  # fmt: skip
            tails = [self.state(tail, now) for tail in self.servers.tails]
            plan = plan_route(
                self.device.mean, self.crossings(), tails, policy, self._observations.corrections(now), self.plan.route
            )
            self._observations.consider(plan, now)
            self.replans += plan.route != self.plan.route
            self.plan = plan

    def crossings(self) -> list[Crossing]:
        """Every route off this device, at its present speed."""
        slowdown = self.device.mean / self._measured if self._measured else 1.0
        answer = HTTP_OVERHEAD_BYTES + 4 * int(np.prod(self._scores))
        crossings = []
        for cut, head in self._heads.items():
            for packed in head.packed:
                seconds, size = slowdown * (head.seconds + head.packing.get(packed.coding, 0.0)), packed.bytes + answer
                more = (packed.agreement, head.bottleneck, head.continue_share)
                crossings.append(Crossing(cut, packed.coding, seconds, size, *more))
        return crossings

    def state(self, tail: Tail, now: float) -> TailState:
        model, sha256 = (self.cascade.model, self.cascade.sha256) if self.cascade else (self.manifest.name, self.sha256)
        unavailable = ""
        if tail.breaker.is_open:
            unavailable = f"away: {tail.breaker.why}"
        elif any(tail.absent.get(served_name(model, sha256, cut), 0.0) > now for cut in self._heads):
            unavailable = "this tail does not have this version of the model"
        split = self.manifest.split
        seconds = {cut.name: cut.tail_us * 1e-6 for cut in split.cuts} if split else {}
        served = self._served.get(tail.address, {})
        if served and seconds:  # scale the bundle's times of other cuts by the tail's speed
            speed = float(np.median([served[c] / max(seconds[c], 1e-6) for c in served if c in seconds] or [1.0]))
            seconds = {cut: value * speed for cut, value in seconds.items()}
        return TailState(
            tail.address, tail.link.round_trip, tail.link.rate, {**seconds, **served}, tail.waiting, unavailable,
            codings=tail.codings or frozenset({"raw", "deflate"}),
        )  # fmt: skip

    def explore(self, number: int) -> None:
        """Measure this tail with the bundle's own sample, on the cheapest route. Raises EdgeloopError.

        While too little is known of the link, larger boundaries follow, until they take longer than the whole model here,
        or a request needs the link.
        """
        tail = self.servers.tails[number]
        routes = self._lossless_routes(number)
        model, sha256 = (self.cascade.model, self.cascade.sha256) if self.cascade else (self.manifest.name, self.sha256)
        for name in dict.fromkeys(served_name(model, sha256, route.cut) for route in routes):
            try:
                tail.wait_ready(name)
            except NotServed:
                tail.absent[name] = time.monotonic() + ABSENT_SECONDS
                raise
        if not tail.link.ambiguous:
            weight = {row.route: row.weight for row in self.plan.rows}
            routes = sorted(routes, key=lambda route: weight.get(route, 0.0))[:1]
        tail.exploring, tail.interrupted = True, False
        try:
            for route in routes:
                if tail.interrupted or self.servers.busy(number):
                    return  # a request goes before, and teaches as much
                begun = time.monotonic()
                deadline = begun + max(5.0, self.settings.deadline_ms * 1e-3)
                self._remote(self._sample, route, tail, model, sha256, deadline, True, exploring=True)
                if time.monotonic() - begun > ENOUGH_TIMES * self.device.mean:
                    return
        finally:
            tail.exploring = False

    def _lossless_routes(self, number: int) -> list[Route]:
        """Lossless routes off this device that the config allows, fewest bytes first."""
        left = self.servers.bytes_left()
        crossings = [c for c in self.crossings() if not c.lossy and c.bytes < left]
        if self.cascade is not None:
            crossings = [c for c in crossings if c.cut == INPUT]
        elif self.settings.send == "boundary":
            crossings = [c for c in crossings if c.cut != INPUT]
        return [Route(c.cut, c.coding, number) for c in sorted(crossings, key=lambda c: c.bytes)]
