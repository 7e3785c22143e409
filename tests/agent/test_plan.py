"""The plan, what it learns of links and tails, the queue of a tail, the cascade's threshold: the rules by themselves."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from edgeloop_agent import config
from edgeloop_agent.metrics import Counts
from edgeloop_agent.offload.exploration import RouteObservations
from edgeloop_agent.offload.link import Breaker, Link
from edgeloop_agent.offload.planning import DEVICE, Crossing, Route, RoutePlan, RoutePolicy, TailState, plan_route
from edgeloop_agent.offload.servers import device_weight
from edgeloop_agent.sensors import Reading
from edgeloop_contract.arrays import Array
from edgeloop_hub.tails.batching import Batcher, Busy
from edgeloop_pipeline.offload import cascade_threshold

# ---------------------------------------------------------------- the plan


CROSSINGS = [
    Crossing("input", "raw", 0.0, 100_000),
    Crossing("input", "jpeg", 0.001, 10_000, agreement=0.9),
    Crossing("cut-1", "raw", 0.010, 20_000),
    Crossing("cut-2", "raw", 0.060, 1_000),
    Crossing("cut-1-narrow", "raw", 0.012, 2_000, agreement=0.85, bottleneck=True),
]
TAIL = TailState("here", round_trip=0.01, rate=1e6, seconds={"input": 0.005, "cut-1": 0.004, "cut-2": 0.001})
KNOWS_JPEG = replace(TAIL, codings=frozenset({"raw", "deflate", "jpeg"}))
NARROW = replace(TAIL, seconds={**TAIL.seconds, "cut-1-narrow": 0.004})
POLICY = RoutePolicy(deadline=1.0)


@pytest.mark.parametrize(
    ("why", "device", "tail", "policy", "wanted"),
    [
        ("a fast device needs nobody", 0.02, TAIL, POLICY, "device"),
        ("a middling link takes the cut with few bytes and little work", 0.1, TAIL, POLICY, "cut-1/raw"),
        ("a fast link takes it all", 0.1, replace(TAIL, rate=1e8), POLICY, "input/raw"),
        ("a slow link takes the smallest boundary", 0.1, replace(TAIL, rate=1e5), POLICY, "cut-2/raw"),
        ("a very slow link takes nothing", 0.1, replace(TAIL, rate=1e4), POLICY, "device"),
        ("a picture that changes answers is not sent unasked", 0.1, KNOWS_JPEG, POLICY, "cut-1/raw"),
        ("nor by asking for the input", 0.1, KNOWS_JPEG, replace(POLICY, only="input"), "input/raw"),
        ("lossy where that is allowed", 0.1, KNOWS_JPEG, replace(POLICY, min_agreement=0.9), "input/jpeg"),
        ("a tail that is away is not used", 0.1, replace(TAIL, unavailable="away"), POLICY, "device"),
        ("a link that was not measured is not used", 0.1, replace(TAIL, rate=None), POLICY, "device"),
        ("inputs stay here if so asked", 0.1, replace(TAIL, rate=1e8), replace(POLICY, may_send_input=False), "cut-1/raw"),
        ("what would miss the deadline is not begun", 0.1, TAIL, replace(POLICY, deadline=0.04), "device"),
        ("a busy tail is left alone", 0.1, replace(TAIL, waiting_seconds=1.0), POLICY, "device"),
        ("bytes may cost more than they bring", 0.1, TAIL, replace(POLICY, seconds_per_mb=10.0), "cut-2/raw"),
        ("the day's bytes are a ceiling", 0.1, TAIL, replace(POLICY, bytes_left=5000), "cut-2/raw"),
        ("a hot device gives work away", 0.03, TAIL, replace(POLICY, device_weight=3.0), "cut-1/raw"),
        ("one route is asked for", 0.001, TAIL, replace(POLICY, only="cut-2"), "cut-2/raw"),
        ("a learned bottleneck is lossy", 0.1, NARROW, POLICY, "cut-1/raw"),
        ("and taken where its answers are good enough", 0.1, NARROW, replace(POLICY, min_agreement=0.8), "cut-1-narrow/raw"),
        ("and not where they are not", 0.1, NARROW, replace(POLICY, min_agreement=0.9), "cut-1/raw"),
        ("unless it is asked for", 0.1, NARROW, replace(POLICY, only="cut-1-narrow"), "cut-1-narrow/raw"),
        ("also a lossy one", 0.001, KNOWS_JPEG, replace(POLICY, only="input/jpeg"), "input/jpeg"),
    ],
)
def test_plan(why: str, device: float, tail: TailState, policy: RoutePolicy, wanted: str) -> None:
    found = plan_route(device, CROSSINGS, [tail], policy, {})
    assert str(found.route) == wanted, found.rows
    assert len(found.rows) == 1 + len(CROSSINGS)


def test_an_early_answer_spares_the_rest_of_the_work_here_and_there() -> None:
    crossings = [Crossing("cut-1", "raw", 0.010, 20_000, continue_share=0.3)]
    alone = plan_route(0.1, crossings, [], POLICY, {})
    assert (str(alone.route), alone.expected) == ("cut-1/here", pytest.approx(0.010 + 0.3 * 0.1))
    behind = plan_route(0.1, crossings, [replace(TAIL, rate=1e7)], POLICY, {})
    assert str(behind.route) == "cut-1/raw"
    row = next(row for row in behind.rows if row.route == behind.route)
    assert row.weight == pytest.approx(0.010 + 0.3 * (0.01 + 0.002 + 0.004))
    assert row.seconds == pytest.approx(0.010 + 0.01 + 0.002 + 0.004), "the deadline is that of those that go on"
    assert str(plan_route(0.012, crossings, [], POLICY, {}).route) == "device"
    assert str(plan_route(0.012, crossings, [], replace(POLICY, only="cut-1/here"), {}).route) == "cut-1/here"


@pytest.mark.parametrize(
    ("thermal", "battery", "weight"), [("cool", None, 1), ("hot", None, 2), ("cool", 0.1, 3), ("hot", 0.1, 3), ("warm", 0.5, 1)]
)
def test_heat_and_an_empty_battery_make_the_devices_work_dear(thermal: str, battery: float | None, weight: float) -> None:
    counts = Counts(thermal=thermal, reading=Reading(None, None, None, None, battery))
    assert device_weight(config.Split(low_battery_weight=3.0), counts) == weight


def test_the_nearer_of_two_tails_is_taken_and_a_plan_does_not_flap() -> None:
    far, near = replace(TAIL, round_trip=0.05), replace(TAIL, address="lan", rate=2e6)
    found = plan_route(0.1, CROSSINGS, [far, near], POLICY, {})
    assert found.route.tail == 1
    a_little_better = replace(near, round_trip=0.0095)
    stays = plan_route(0.1, CROSSINGS, [a_little_better, near], POLICY, {}, found.route)
    assert stays.route == found.route
    observed = plan_route(0.1, CROSSINGS, [far, near], POLICY, {found.route: 3.0}, found.route)
    assert observed.route != found.route, "what was seen to take three times as long is left"
    assert plan_route(0.1, [], [], POLICY, {}).route == DEVICE


@pytest.mark.parametrize("tries", [True, False])
def test_a_way_that_was_slow_once_is_found_again_while_another_is_used(tries: bool) -> None:
    """Sending the input takes 20 ms, 25 as expected, 35 after one slow transfer; the cut 26. A plan after each request."""
    observed, now, found, taken = RouteObservations(), 0.0, RoutePlan(DEVICE), []
    observed.observe(Route("input", "raw", 0), 3.0, 1.0, now)
    for _ in range(3000):
        found = plan_route(0.1, CROSSINGS, [replace(TAIL, rate=1e7)], POLICY, observed.corrections(now), found.route)
        observed.consider(found, now)
        route = observed.next_route(found, now) if tries else found.route
        row = next(row for row in found.rows if row.route == route)
        took = {"input/raw": 0.020, "cut-1/raw": 0.026}.get(str(route), row.seconds)
        now += took
        taken.append((str(route), took))
        observed.observe(route, took, row.seconds, now)
    routes, seconds = zip(*taken[-2000:], strict=True)
    assert taken[0] == ("cut-1/raw", 0.026)
    if not tries:
        assert set(routes) == {"cut-1/raw"}, "it would never be known"
        return
    assert Counter(routes).most_common(1)[0][0] == "input/raw"
    assert len(set(routes)) > 1, "trying goes on"
    assert sum(seconds) < 1.015 * 0.020 * len(seconds), "for a hundredth of the time"


def test_a_link_is_learned_from_transfers_alone() -> None:
    rng, link = np.random.default_rng(0), Link()
    for i, size in enumerate(rng.integers(500, 100_000, 60)):
        link.observe(int(size), 0.02 + size / 1e6 + float(rng.exponential(0.0005)), 0.1 * i)
    expected = link.expected(50_000)
    assert expected == pytest.approx(0.07, rel=0.1)
    link.observe(50_000, 0.02 + 50_000 / 1e5, 6.0)
    assert link.expected(50_000) < 0.3, "one alone may be chance"
    for i in range(5):
        link.observe(50_000, 0.02 + 50_000 / 1e5, 6.5 + 0.1 * i)
    assert link.expected(50_000) == pytest.approx(0.52, rel=0.15), "a link that became slow is seen at once"
    link.observe(50_000, 0.07, 20.0)
    assert link.expected(50_000) == pytest.approx(0.07, rel=0.15), "after a while one transfer says how it is now"


def test_a_breaker_opens_waits_longer_and_closes() -> None:
    breaker = Breaker()
    breaker.failed(0.0, "away")
    assert not breaker.is_open
    pauses = []
    for _ in range(12):
        breaker.failed(100.0, "away")
        pauses.append(breaker.retry_at - 100.0)
    assert breaker.is_open
    assert pauses[0] < 1 < pauses[4]
    assert max(pauses) <= 36
    breaker.succeeded()
    assert not breaker.is_open
    breaker.failed(0.0, "busy", pause=5.0)
    assert breaker.is_open
    assert breaker.retry_at >= 5


# ---------------------------------------------------------------- the queue of a tail


def test_rows_of_many_run_together_and_one_too_many_is_told_to_come_again() -> None:
    sizes: list[int] = []

    def slow(rows: Array) -> Array:
        sizes.append(len(rows))
        time.sleep(0.02)
        return rows * 2

    async def scene() -> None:
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(slow, pool, max_rows=4, delay_seconds=0.01, max_waiting_rows=8, max_wait_seconds=1.0)
            tasks = [asyncio.create_task(batcher.submit(np.full((1, 2), i, np.float32), 5.0)) for i in range(9)]
            done = await asyncio.gather(*tasks, return_exceptions=True)
            refused = [d for d in done if isinstance(d, Busy)]
            assert len(refused) == 1, "eight wait at most"
            for i, ran in enumerate(done):
                if not isinstance(ran, BaseException):
                    assert (ran.scores == 2 * i).all()
            assert max(sizes) == 4
            late = asyncio.create_task(batcher.submit(np.zeros((1, 2), np.float32), 5.0))
            await asyncio.sleep(0.015)  # it runs by now
            with pytest.raises(Busy, match="over"):
                await batcher.submit(np.zeros((1, 2), np.float32), 0.005)
            await late

    asyncio.run(scene())


# ---------------------------------------------------------------- the cascade's threshold


def test_a_threshold_is_one_that_the_data_can_show() -> None:
    rng = np.random.default_rng(0)

    def scores(n: int, accuracy: float, labels: Array) -> Array:
        """Ten classes; wrong answers are the less sure ones."""
        made = rng.normal(size=(n, 10)) * 0.1
        wrong = rng.random(n) > accuracy
        made[np.arange(n), np.where(wrong, (labels + 1) % 10, labels)] += np.where(wrong, 1.0, 1.0 + 3 * rng.random(n))
        return made

    for n in (200, 20_000):
        labels = rng.integers(0, 10, n)
        small, large = scores(n, 0.9, labels), scores(n, 0.99, labels)
        points = cascade_threshold.curve(small, large, labels)
        assert points[0].accuracy == (small.argmax(1) == labels).mean()
        assert points[-1].accuracy == (large.argmax(1) == labels).mean()
        for point in points[:: max(1, len(points) // 20)]:
            again = cascade_threshold.at(point.threshold, small, large, labels)
            assert (again.share, again.accuracy) == pytest.approx((point.share, point.accuracy))
        found = cascade_threshold.chosen(points, max_loss=0.01, max_share=0.5)
        fresh = rng.integers(0, 10, 20_000)
        small, large = scores(20_000, 0.9, fresh), scores(20_000, 0.99, fresh)
        tested, alone = cascade_threshold.at(found.threshold, small, large, fresh), (large.argmax(1) == fresh).mean()
        assert tested.accuracy >= alone - 0.015
        if n == 200:
            assert found.share > 0.3, "so few cannot show it: what may be sent is used up"
        else:
            assert found.share < 0.45
