"""One model's work, done here or partly elsewhere: always an answer, within its deadline, said where it came from."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as Late
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeloop_agent.answers import softmax
from edgeloop_agent.engine import Scored
from edgeloop_agent.offload.exploration import Observed
from edgeloop_agent.offload.heads import WEIGHT, Pace, early, heads_of, mean_seconds
from edgeloop_agent.offload.planning import DEVICE, Crossing, Plan, Policy, TailState, Way, plan
from edgeloop_agent.offload.tails import HEAD_BYTES, NotServed, Reply, Tail, TailBusy
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError, EdgeloopError, NetworkError
from edgeloop_contract.manifest import Classification
from edgeloop_contract.splitting import FILES, INPUT, nibbles, pack, served_name

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edgeloop_agent.config import Split
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts

MARGIN_SECONDS = 0.003  # kept for what comes after the device's own answer
WHOLE_EVERY = 20  # samples where early answers may stand: one that goes through the whole network, for drift to be told from
ABSENT_SECONDS = 60.0
ENOUGH = 1.5  # times the device's own time: a way that takes longer need not be known better


class Servers(Protocol):
    """What a router needs of the tail servers (`tail_servers.TailServers`)."""

    settings: Split
    counts: Counts
    log: Log
    tails: list[Tail]

    def begin(self, tail: Tail, work: Callable[[], Any]) -> Future[Any] | None: ...
    def busy(self, number: int) -> bool: ...
    def spent(self, size: int) -> None: ...
    def bytes_left(self) -> float: ...
    def replan(self) -> None: ...


class Splitter:
    """`whole`: the model on this device. Used by one caller at a time for planning; requests may come from several threads."""

    def __init__(self, edge: Servers, bundle: Bundle, whole: Callable[[Array], Array]) -> None:
        self.edge, self.settings, self.counts = edge, edge.settings, edge.counts
        self.manifest, self.sha256 = bundle.manifest, bundle.sha256
        self._whole = whole
        self._heads = heads_of(bundle, self.settings, edge.log)
        self._scores = tuple(bundle.manifest.variants[0].output.shape)
        self._sample = bundle.array(bundle.manifest.canary.inputs)[:1]
        self._lock, self._exits = threading.Lock(), itertools.count()
        self._observed = Observed()
        self._served: dict[str, dict[str, float]] = {}  # seconds by address and cut, as the tail said
        self._measured = 0.0  # the whole, when the heads were measured
        self.device = Pace()
        self.plan = Plan(DEVICE, why="not measured yet")
        self.replans = 0
        cascade = bundle.manifest.cascade
        self.cascade = cascade if self.settings.cascade else None

    def scored(self, sample: Array) -> Scored:
        """Scores of one sample (1, *sample), and where they come from. Raises DeviceError when the device itself cannot."""
        if self.cascade is not None:
            return self._unless_sure(sample, self.cascade.threshold)
        way = self._observed.way(self.plan, time.monotonic())
        whole = not way.cut or self._heads[way.cut].exit is None or next(self._exits) % WHOLE_EVERY == 0
        if way.tail >= 0:
            return self._there(sample, way, self.manifest.name, self.sha256, None, whole=whole)._replace(watched=whole)
        _, scores = (None, None) if whole else early(self._heads[way.cut], sample)
        if scores is not None:
            return Scored(scores, f"exit {way.cut}", watched=False)
        return Scored(self._here(sample), "device", watched=whole)

    def _here(self, sample: Array) -> Array:
        start = time.perf_counter()
        scores = self._whole(sample)
        self.device.saw(time.perf_counter() - start)
        return scores

    def _unless_sure(self, sample: Array, threshold: float) -> Scored:
        """The small model's answer; where it is not sure, the large one's, if that comes in time."""
        start = time.monotonic()
        own = self._here(sample)
        if not isinstance(self.manifest.task, Classification) or float(softmax(own[0]).max()) >= threshold:
            return Scored(own, "device")
        way = self.plan.way if self.plan.way.tail >= 0 else None
        assert self.cascade is not None
        if way is None:
            return Scored(own, "device: no tail")
        return self._there(sample, way, self.cascade.model, self.cascade.sha256, own, start)

    def _there(
        self, sample: Array, way: Way, model: str, sha256: str, own: Array | None, start: float = 0.0, whole: bool = True
    ) -> Scored:
        """By a tail; by the device where that does not answer in time. `own`: the device's answer, where it is there already.

        `whole`: no early answer will do.
        """
        start = start or time.monotonic()
        tail = self.edge.tails[way.tail]
        if tail.breaker.is_open:  # the plan was made before that
            return self._fallen_back(sample, own, "the tail is left alone")
        deadline = start + self.settings.deadline_ms * 1e-3
        tail.interrupted = True
        future = self.edge.begin(tail, lambda: self._remote(sample, way, tail, model, sha256, deadline, whole))
        if future is None:
            return self._fallen_back(sample, own, "the tail is still at earlier requests")
        needed = self.device.late if own is None else 0.0
        if own is None and self._hedged(tail):
            own = self._here(sample)
            if not future.done():
                return Scored(own, "device: hedged")
        wait = deadline - needed - MARGIN_SECONDS - time.monotonic()
        try:
            scores, place = future.result(max(0.0, wait))
        except Late:
            tail.breaker.failed(time.monotonic(), "no answer in time")
            self.edge.replan()
            return self._fallen_back(sample, own, "no answer in time")
        except Exception as error:  # the head's runtime has types of its own; whatever it is, the device can answer
            return self._fallen_back(sample, own, type(error).__name__)
        if own is not None and self.cascade:
            return Scored(scores, f"large@{tail.address}", own)
        return Scored(scores, place)

    def _hedged(self, tail: Tail) -> bool:
        how = self.settings.hedge
        return how == "always" or (how == "auto" and (tail.breaker.failures > 0 or tail.recent_failures > 0.2))

    def _fallen_back(self, sample: Array, own: Array | None, why: str) -> Scored:
        return Scored(self._here(sample) if own is None else own, f"device: {why}")

    def _remote(
        self, sample: Array, way: Way, tail: Tail, model: str, sha256: str, deadline: float, whole: bool, exploring: bool = False
    ) -> tuple[Array, str]:
        """In a thread of its own: the head, the tail; and what is learned from them. The scores, and where they come from.

        `whole`: no early answer will do. `exploring`: no request waits for it. Raises NetworkError, DataError.
        """
        begun, shared = time.perf_counter(), tail.exploring
        head = self._heads[way.cut]
        boundary, scores = early(head, sample, counted=not whole)
        if scores is not None and not whole:
            return scores, f"exit {way.cut}"
        name = head.tensor
        if way.coding == "4bit":
            boundary, name = nibbles(boundary), f"{name}.4bit"
        elif way.coding in FILES:
            boundary, name = np.frombuffer(pack(boundary, way.coding), np.uint8)[None], f"{name}.{way.coding}"
        left = max(0.001, deadline - time.monotonic())
        try:
            reply = tail.infer(served_name(model, sha256, way.cut), name, boundary, way.coding == "deflate", left)
            if reply.scores.shape != (1, *self._scores) or not np.isfinite(reply.scores).all():
                raise DataError(f"{tail.address}: scores of shape {reply.scores.shape}")
        except (NetworkError, DataError) as error:
            self._went_wrong(tail, served_name(model, sha256, way.cut), error)
            raise
        shared = tail.interrupted if exploring else shared
        self._went_well(tail, way, reply, time.perf_counter() - begun, shared)
        return reply.scores, f"{way}@{tail.address}"

    def _went_wrong(self, tail: Tail, model: str, error: EdgeloopError) -> None:
        now = time.monotonic()
        tail.recent_failures += WEIGHT * (1 - tail.recent_failures)
        if isinstance(error, NotServed):
            tail.absent[model] = now + ABSENT_SECONDS
        else:
            tail.breaker.failed(now, str(error), error.seconds if isinstance(error, TailBusy) else 0.0)
        self.edge.replan()

    def _went_well(self, tail: Tail, way: Way, reply: Reply, took: float, shared: bool) -> None:
        """`shared`: an exploration and a request had the link together, which says little of it."""
        tail.breaker.worked()
        tail.recent_failures *= 1 - WEIGHT
        tail.last_used = time.monotonic()
        self.edge.spent(reply.bytes)
        if shared:
            return
        tail.link.saw(reply.bytes, max(1e-6, reply.seconds - reply.computed - reply.waited), tail.last_used)
        tail.waiting += WEIGHT * (reply.waited - tail.waiting)
        served = self._served.setdefault(tail.address, {})
        before = served.get(way.cut)
        served[way.cut] = reply.computed if before is None else before + WEIGHT * (reply.computed - before)
        expected = next((row.seconds for row in self.plan.rows if row.way == way), 0.0)
        if expected:
            self._observed.saw(way, took, expected, time.monotonic())
        self.edge.replan()

    def measure(self) -> None:
        """This device's seconds for the whole, each head and each packing, on the bundle's own sample. Raises DeviceError."""
        self._measured = mean_seconds(lambda: self._whole(self._sample))
        self.device.saw(self._measured)
        for head in self._heads.values():
            run = head.run
            boundary, _ = early(head, self._sample, counted=False)
            head.seconds = 0.0 if run is None else mean_seconds(lambda run=run: run(self._sample))  # type: ignore[misc]
            for packed in list(head.packed):
                try:
                    head.packing[packed.coding] = mean_seconds(lambda b=boundary, c=packed.coding: pack(b, c))  # type: ignore[misc]
                except DeviceError as error:
                    self.edge.log("info", "split: a way is not there", coding=packed.coding, why=error)
                    head.packed.remove(packed)

    def make_plan(self) -> None:
        """Look at everything that is known, and decide."""
        with self._lock:
            settings, now = self.settings, time.monotonic()
            policy = Policy(
                deadline=settings.deadline_ms * 1e-3, seconds_per_mb=settings.seconds_per_mb,
                device_weight=device_weight(settings, self.counts),
                least_agreement=settings.least_agreement, may_send_input=settings.share == "anything",
                bytes_left=self.edge.bytes_left(), only="input" if self.cascade and not settings.cut else settings.cut,
            )  # fmt: skip
            tails = [self.state(tail, now) for tail in self.edge.tails]
            found = plan(self.device.mean, self.crossings(), tails, policy, self._observed.corrections(now), self.plan.way)
            self._observed.consider(found, now)
            self.replans += found.way != self.plan.way
            self.plan = found

    def crossings(self) -> list[Crossing]:
        """Every way off this device, at its pace of now."""
        pace = self.device.mean / self._measured if self._measured else 1.0
        answer = HEAD_BYTES + 4 * int(np.prod(self._scores))
        found = []
        for cut, head in self._heads.items():
            for packed in head.packed:
                seconds = pace * (head.seconds + head.packing.get(packed.coding, 0.0))
                found.append(
                    Crossing(cut, packed.coding, seconds, packed.bytes + answer, packed.agreement, head.narrow, head.goes_on)
                )
        return found

    def state(self, tail: Tail, now: float) -> TailState:
        model, sha256 = (self.cascade.model, self.cascade.sha256) if self.cascade else (self.manifest.name, self.sha256)
        away = ""
        if tail.breaker.is_open:
            away = f"away: {tail.breaker.why}"
        elif any(tail.absent.get(served_name(model, sha256, cut), 0.0) > now for cut in self._heads):
            away = "this tail has not this version of the model"
        split = self.manifest.split
        seconds = {cut.name: cut.tail_us * 1e-6 for cut in split.cuts} if split else {}
        said = self._served.get(tail.address, {})
        if said and seconds:  # what was not asked yet goes by the pace of what was
            pace = np.median([said[c] / max(seconds[c], 1e-6) for c in said if c in seconds] or [1.0])
            seconds = {cut: value * float(pace) for cut, value in seconds.items()}
        return TailState(
            tail.address, tail.link.round_trip, tail.link.rate, {**seconds, **said}, tail.waiting, away,
            codings=tail.codings or frozenset({"raw", "deflate"}),
        )  # fmt: skip

    def explore(self, number: int) -> None:
        """Send the bundle's own sample through this tail, for what it teaches: the way that is cheapest; and while too little is
        known of the link, more and more bytes, until they take longer than all of the work here does, or a request needs the link.
        Raises EdgeloopError."""
        tail = self.edge.tails[number]
        ways = self._harmless(number)
        model, sha256 = (self.cascade.model, self.cascade.sha256) if self.cascade else (self.manifest.name, self.sha256)
        for name in dict.fromkeys(served_name(model, sha256, way.cut) for way in ways):
            try:
                tail.wait_ready(name)
            except NotServed:
                tail.absent[name] = time.monotonic() + ABSENT_SECONDS
                raise
        if not tail.link.unsure:
            weight = {row.way: row.weight for row in self.plan.rows}
            ways = sorted(ways, key=lambda way: weight.get(way, 0.0))[:1]
        tail.exploring, tail.interrupted = True, False
        try:
            for way in ways:
                if tail.interrupted or self.edge.busy(number):
                    return  # a request goes before, and teaches as much
                begun = time.monotonic()
                late = begun + max(5.0, self.settings.deadline_ms * 1e-3)
                self._remote(self._sample, way, tail, model, sha256, late, True, exploring=True)
                if time.monotonic() - begun > ENOUGH * self.device.mean:
                    return
        finally:
            tail.exploring = False

    def _harmless(self, number: int) -> list[Way]:
        """Ways off this device that keep to the config and lose nothing, fewest bytes first."""
        left = self.edge.bytes_left()
        found = [c for c in self.crossings() if not c.lossy and c.bytes < left]
        if self.cascade is not None:
            found = [c for c in found if c.cut == INPUT]
        elif self.settings.share == "boundary":
            found = [c for c in found if c.cut != INPUT]
        return [Way(c.cut, c.coding, number) for c in sorted(found, key=lambda c: c.bytes)]


def device_weight(settings: Split, counts: Counts) -> float:
    """Of the device's own seconds: more while it is hot, or its battery nearly spent."""
    battery = counts.reading.battery if counts.reading else None
    low = battery is not None and battery < settings.low_battery
    return max(settings.hot_weight if counts.thermal == "hot" else 1.0, settings.low_battery_weight if low else 1.0)
