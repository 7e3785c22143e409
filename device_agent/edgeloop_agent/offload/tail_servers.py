"""The tails of this device, the threads that talk to them, and the rare probes that tell when one is worth it (again)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from edgeloop_agent.config import Config
from edgeloop_agent.offload.router import Splitter
from edgeloop_agent.offload.tails import CONNECTIONS, NotServed, Tail, TailBusy, secret_of
from edgeloop_contract.errors import EdgeloopError, NetworkError

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts

DAY_SECONDS = 86400.0
LEAST_SECONDS = 0.03  # between plans, however much happens
LOOK_SECONDS = 1.0  # between plans while nothing happens
SOON_SECONDS = 1.0  # until the first probe after a tail was left, doubled each time up to `probe_seconds`
RARELY = 6  # times `probe_seconds`: the longest between probes of a tail that is not worth it


class Edge:
    """Started with the first model that may be split. Nothing here holds an answer up: a tail that fails is left alone."""

    def __init__(self, config: Config, credential: str, counts: Counts, log: Log) -> None:
        """`credential`: the device's own, for the hub it is enrolled at. Raises UsageError where a token cannot be read."""
        self.settings, self.counts, self.log = config.split, counts, log
        timeout = min(5.0, max(0.2, self.settings.deadline_ms * 1e-3))
        self.tails: list[Tail] = []
        for tail in self.settings.tails:
            secret = secret_of(tail.token_file)
            self.tails.append(Tail(tail.address, _bearer(secret), tail.ca_file, timeout, config.network.use_proxies))
        if not self.tails and config.updates.hub:
            self.tails.append(
                Tail(config.updates.hub, _bearer(credential), config.updates.ca_file, timeout, config.network.use_proxies)
            )
        self._pool = ThreadPoolExecutor(CONNECTIONS * max(1, len(self.tails)), "split")
        self._probing: set[int] = set()
        self._flights = dict.fromkeys(range(len(self.tails)), 0)
        self._lock = threading.Lock()
        self._splitters: list[Any] = []
        self._pending: list[Splitter] = []
        self._said: dict[str, str] = {}
        self._next = [0.0] * len(self.tails)
        self._every = [min(SOON_SECONDS, self.settings.probe_seconds)] * len(self.tails)
        self._day, self._bytes = time.time() // DAY_SECONDS, 0
        self._stale = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, splitter: Splitter) -> None:
        """Look after it from now on; the one of the same model before it is forgotten."""
        with self._lock:
            self._splitters = [s for s in self._splitters if s.manifest.name != splitter.manifest.name] + [splitter]
            self._pending.append(splitter)
        if self._thread is None:
            self._thread = threading.Thread(target=self._look_after, name="split", daemon=True)
            self._thread.start()

    def splitters(self) -> list[Splitter]:
        with self._lock:
            return list(self._splitters)

    def begin(self, tail: Tail, work: Callable[[], Any]) -> Future[Any] | None:
        """Start in a thread; None where all of this tail's threads wait for it already."""
        number = self.tails.index(tail)
        with self._lock:
            if self._flights[number] >= CONNECTIONS:
                return None
            self._flights[number] += 1
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._landed(number))
        return future

    def _landed(self, number: int) -> None:
        with self._lock:
            self._flights[number] -= 1

    def busy(self, number: int) -> bool:
        """Does this tail work for a request?"""
        with self._lock:
            return self._flights[number] > 0

    def spent(self, size: int) -> None:
        """Bytes of this day; counted anew after a restart."""
        with self._lock:
            today = time.time() // DAY_SECONDS
            if today != self._day:
                self._day, self._bytes = today, 0
            self._bytes += size

    def bytes_left(self) -> float:
        self.spent(0)  # it may be another day by now
        ceiling = self.settings.max_bytes_per_day
        return ceiling - self._bytes if ceiling else float("inf")

    def replan(self) -> None:
        """Soon, in the background."""
        self._stale.set()

    def _look_after(self) -> None:
        while True:
            self._stale.wait(self._pause())
            self._stale.clear()
            try:
                self._measure()
                for number in range(len(self.tails)):
                    if number not in self._probing and time.monotonic() >= self._due(number):
                        self._probing.add(number)
                        threading.Thread(target=self._probed, args=(number,), name="probe", daemon=True).start()
                for splitter in self.splitters():
                    splitter.make_plan()
                    self._tell(splitter)
                time.sleep(LEAST_SECONDS)
            except Exception as error:  # whatever it is, answers go on as planned last
                self.log("error", "split", why=f"{type(error).__name__}: {error}")
                time.sleep(1.0)

    def _due(self, number: int) -> float:
        breaker = self.tails[number].breaker
        return breaker.again if breaker.is_open else self._next[number]

    def _pause(self) -> float:
        """Until something is due."""
        now = time.monotonic()
        free = set(range(len(self.tails))) - self._probing
        return max(0.0, min([LOOK_SECONDS, *(self._due(number) - now for number in free)]))

    def _measure(self) -> None:
        while self._pending:
            splitter = self._pending.pop()
            try:
                splitter.measure()
            except EdgeloopError as error:
                self.log("warning", "heads cannot be measured: the model is not split", why=error)
                with self._lock:
                    self._splitters.remove(splitter)

    def _probed(self, number: int) -> None:
        """In a thread of its own: a slow tail holds up neither plans nor the probes of others."""
        try:
            self._probe(number)
        except Exception as error:  # whatever it is, answers go on as planned last
            self.log("error", "split", why=f"{type(error).__name__}: {error}")
            self._next[number] = time.monotonic() + self.settings.probe_seconds
        finally:
            self._probing.discard(number)
            self.replan()

    def _probe(self, number: int) -> None:
        """The way to a tail that nothing crossed lately, or that was away."""
        tail, every = self.tails[number], self._every[number]
        if not tail.breaker.is_open and time.monotonic() - tail.last_used < every:
            self._next[number] = tail.last_used + every
            return
        try:
            tail.link.saw_probe(tail.probe())
            for splitter in self.splitters():
                try:
                    splitter.explore(number)
                except NotServed as error:
                    self.log("debug", "tail", why=error)
        except TailBusy as error:
            tail.breaker.failed(time.monotonic(), str(error), error.seconds)
        except (NetworkError, EdgeloopError) as error:
            tail.breaker.failed(time.monotonic(), str(error))
        else:
            tail.breaker.worked()
        self._next[number] = time.monotonic() + self._pace(number)

    def _pace(self, number: int) -> float:
        """Seconds to the next probe: longer and longer where the tail is far from being worth it."""
        worth = any(
            row.seconds < 2 * splitter.plan.expected
            for splitter in self.splitters()
            for row in splitter.plan.rows
            if row.way.tail == number and splitter.plan.expected
        )
        usual = self.settings.probe_seconds
        self._every[number] = min(2 * self._every[number], usual if worth else RARELY * usual)
        return self._every[number]

    def _tell(self, splitter: Splitter) -> None:
        way, name = str(splitter.plan.way), splitter.manifest.name
        if self._said.get(name) != way:
            self._said[name] = way
            if splitter.plan.way.tail < 0:  # perhaps by chance: look again soon
                soon = min(SOON_SECONDS, self.settings.probe_seconds)
                self._every = [soon] * len(self.tails)
                self._next = [min(due, time.monotonic() + soon) for due in self._next]
            self.log(
                "info", "split", model=name, way=way, expected_ms=round(splitter.plan.expected * 1e3, 2), why=splitter.plan.why
            )
        for tail in self.tails:
            state = tail.breaker.why if tail.breaker.is_open else "there"
            if self._said.get(tail.address, "there") != state:
                self._said[tail.address] = state
                self.log("warning" if tail.breaker.is_open else "info", "tail", address=tail.address, state=state)


def _bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"} if secret else {}
