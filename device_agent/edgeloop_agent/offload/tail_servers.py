"""The tails of this device, the threads that talk to them, and the rare probes that tell when one is worth using again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from edgeloop_agent.config import Config
from edgeloop_agent.offload.router import Router
from edgeloop_agent.offload.tails import CONNECTIONS, NotServed, Tail, TailBusy, read_token
from edgeloop_contract.errors import EdgeloopError, NetworkError

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts

DAY_SECONDS = 86400.0
MIN_PLAN_SECONDS = 0.03  # between plans, however much happens
IDLE_PLAN_SECONDS = 1.0  # between plans while nothing happens
FIRST_PROBE_SECONDS = 1.0  # until the first probe after a tail was left, doubled each time up to `probe_seconds`
MAX_PROBE_FACTOR = 6  # times `probe_seconds`: the longest between probes of a tail that is not worth it


class TailServers:
    """Started with the first model that may be split. Nothing here holds an answer up: a tail that fails is left alone."""

    def __init__(self, config: Config, credential: str, counts: Counts, log: Log) -> None:
        """`credential`: the device's own, for the hub it is enrolled at. Raises UsageError where a token cannot be read."""
        self.settings, self.counts, self.log = config.split, counts, log
        timeout = min(5.0, max(0.2, self.settings.deadline_ms * 1e-3))
        self.tails: list[Tail] = []
        for tail in self.settings.tails:
            secret = read_token(tail.token_file)
            self.tails.append(Tail(tail.address, _bearer(secret), tail.ca_file, timeout, config.network.use_proxies))
        if not self.tails and config.updates.hub:
            self.tails.append(
                Tail(config.updates.hub, _bearer(credential), config.updates.ca_file, timeout, config.network.use_proxies)
            )
        self._pool = ThreadPoolExecutor(CONNECTIONS * max(1, len(self.tails)), "split")
        self._probing: set[int] = set()
        self._flights = dict.fromkeys(range(len(self.tails)), 0)
        self._lock = threading.Lock()
        self._routers: list[Any] = []
        self._pending: list[Router] = []
        self._logged: dict[str, str] = {}
        self._next = [0.0] * len(self.tails)
        self._every = [min(FIRST_PROBE_SECONDS, self.settings.probe_seconds)] * len(self.tails)
        self._day, self._bytes = time.time() // DAY_SECONDS, 0
        self._stale = threading.Event()
        self._thread: threading.Thread | None = None

    def add_router(self, router: Router) -> None:
        """Look after it from now on; the one of the same model before it is forgotten."""
        with self._lock:
            self._routers = [s for s in self._routers if s.manifest.name != router.manifest.name] + [router]
            self._pending.append(router)
        if self._thread is None:
            self._thread = threading.Thread(target=self._planning_loop, name="split", daemon=True)
            self._thread.start()

    def routers(self) -> list[Router]:
        with self._lock:
            return list(self._routers)

    def submit(self, tail: Tail, work: Callable[[], Any]) -> Future[Any] | None:
        """Start in a thread; None where all of this tail's threads wait for it already."""
        number = self.tails.index(tail)
        with self._lock:
            if self._flights[number] >= CONNECTIONS:
                return None
            self._flights[number] += 1
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._finished(number))
        return future

    def _finished(self, number: int) -> None:
        with self._lock:
            self._flights[number] -= 1

    def busy(self, number: int) -> bool:
        """Does this tail work for a request?"""
        with self._lock:
            return self._flights[number] > 0

    def count_bytes(self, size: int) -> None:
        """Bytes of this day; counted anew after a restart."""
        with self._lock:
            today = time.time() // DAY_SECONDS
            if today != self._day:
                self._day, self._bytes = today, 0
            self._bytes += size

    def bytes_left(self) -> float:
        self.count_bytes(0)  # it may be another day by now
        ceiling = self.settings.max_bytes_per_day
        return ceiling - self._bytes if ceiling else float("inf")

    def replan(self) -> None:
        """Soon, in the background."""
        self._stale.set()

    def _planning_loop(self) -> None:
        while True:
            self._stale.wait(self._pause())
            self._stale.clear()
            try:
                self._measure()
                for number in range(len(self.tails)):
                    if number not in self._probing and time.monotonic() >= self._due(number):
                        self._probing.add(number)
                        threading.Thread(target=self._run_probe, args=(number,), name="probe", daemon=True).start()
                for router in self.routers():
                    router.replan_now()
                    self._log_changes(router)
                time.sleep(MIN_PLAN_SECONDS)
            except Exception as error:  # whatever it is, answers go on as planned last
                self.log("error", "split", why=f"{type(error).__name__}: {error}")
                time.sleep(1.0)

    def _due(self, number: int) -> float:
        breaker = self.tails[number].breaker
        return breaker.retry_at if breaker.is_open else self._next[number]

    def _pause(self) -> float:
        """Until something is due."""
        now = time.monotonic()
        free = set(range(len(self.tails))) - self._probing
        return max(0.0, min([IDLE_PLAN_SECONDS, *(self._due(number) - now for number in free)]))

    def _measure(self) -> None:
        while self._pending:
            router = self._pending.pop()
            try:
                router.measure()
            except EdgeloopError as error:
                self.log("warning", "heads cannot be measured: the model is not split", why=error)
                with self._lock:
                    self._routers.remove(router)

    def _run_probe(self, number: int) -> None:
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
        """Measure the link to a tail that was not used lately, or that failed."""
        tail, every = self.tails[number], self._every[number]
        if not tail.breaker.is_open and time.monotonic() - tail.last_used < every:
            self._next[number] = tail.last_used + every
            return
        try:
            tail.link.observe_probe(tail.probe())
            for router in self.routers():
                try:
                    router.explore(number)
                except NotServed as error:
                    self.log("debug", "tail", why=error)
        except TailBusy as error:
            tail.breaker.failed(time.monotonic(), str(error), error.seconds)
        except (NetworkError, EdgeloopError) as error:
            tail.breaker.failed(time.monotonic(), str(error))
        else:
            tail.breaker.succeeded()
        self._next[number] = time.monotonic() + self._next_interval(number)

    def _next_interval(self, number: int) -> float:
        """Seconds to the next probe: longer and longer where the tail is far from being worth it."""
        worth = any(
            row.seconds < 2 * router.plan.expected
            for router in self.routers()
            for row in router.plan.rows
            if row.route.tail == number and router.plan.expected
        )
        usual = self.settings.probe_seconds
        self._every[number] = min(2 * self._every[number], usual if worth else MAX_PROBE_FACTOR * usual)
        return self._every[number]

    def _log_changes(self, router: Router) -> None:
        route, name = str(router.plan.route), router.manifest.name
        if self._logged.get(name) != route:
            self._logged[name] = route
            if router.plan.route.tail < 0:  # perhaps by chance: look again soon
                soon = min(FIRST_PROBE_SECONDS, self.settings.probe_seconds)
                self._every = [soon] * len(self.tails)
                self._next = [min(due, time.monotonic() + soon) for due in self._next]
            self.log(
                "info", "split", model=name, route=route, expected_ms=round(router.plan.expected * 1e3, 2), why=router.plan.why
            )
        for tail in self.tails:
            state = tail.breaker.why if tail.breaker.is_open else "there"
            if self._logged.get(tail.address, "there") != state:
                self._logged[tail.address] = state
                self.log("warning" if tail.breaker.is_open else "info", "tail", address=tail.address, state=state)


def _bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"} if secret else {}
