"""A device that asks without a pause has a share of a worker, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import urllib3

from asking import ask, enrolled
from edgeloop_hub.api import fair_share
from edgeloop_hub.api.fair_share import BURST_BYTES, BURST_REQUESTS, FEW_BYTES, MAX_WATCHED, Buckets
from hubs import running_hub


def test_a_bucket_fills_by_so_much_a_second() -> None:
    now = 0.0
    buckets = Buckets(10.0, 1e6, lambda: now)
    assert [buckets.take("a", 0) for _ in range(int(BURST_REQUESTS))] == [0.0] * int(BURST_REQUESTS)
    assert buckets.take("a", 0) > 0 and buckets.take("b", 0) == 0.0
    now = 0.1
    assert buckets.take("a", 0) == 0.0 and buckets.take("a", 0) > 0
    now = 1e6
    assert buckets.take("a", 1 << 40) == 0.0  # larger than any burst: once
    assert buckets.take("a", 5 * 10**6) == pytest.approx(5.0)
    assert buckets.take("a", FEW_BYTES) == 0.0  # a report is let through meanwhile
    now += BURST_BYTES / 1e6
    assert buckets.take("a", int(BURST_BYTES)) == 0.0


def test_what_is_refused_counts_for_many() -> None:
    now = 0.0
    buckets = Buckets(10.0, 1e6, lambda: now)
    for _ in range(300):
        buckets.take("a", 10**6)
        buckets.charge("a", 10**6)
    assert buckets.take("a", 10**6) > BURST_BYTES / 1e6 and 0 < buckets.take("a", 0) <= (1 + BURST_REQUESTS) / 10
    now += (1 + BURST_REQUESTS) / 10
    assert buckets.take("a", 0) == 0.0 and buckets.take("a", 10**6) > 0
    now += 2 * BURST_BYTES / 1e6
    assert buckets.take("a", 10**6) == 0.0


def test_what_is_kept_of_devices_is_bounded() -> None:
    buckets = Buckets(10.0, 1000.0, lambda: 0.0)
    for i in range(MAX_WATCHED + 100):
        buckets.take(str(i), 0)
    assert len(buckets._left) == MAX_WATCHED


def test_a_device_without_a_pause_is_refused_and_others_are_not(tmp_path: Path) -> None:
    serve = ("--set", "device_requests_per_second=1", "--set", "device_bytes_per_second=1000")
    with running_hub(tmp_path, serve=serve) as hub:
        good, mad = enrolled(hub, "pi-1"), enrolled(hub, "mad-1")
        for secret in (good, mad):
            assert ask(hub, "POST", "/api/v1/report", secret, {"key": "first-one", "at": 1.0}).status == 200
        with urllib3.PoolManager(retries=False) as http:
            headers = {"Authorization": f"Bearer {mad}"}
            asked = (http.request("GET", f"{hub.address}/api/v1/update", headers=headers) for _ in range(2 * int(BURST_REQUESTS)))
            refused = next(answer for answer in asked if answer.status != 200)
        assert refused.status == 429
        assert refused.json() == {"status_code": 429, "detail": fair_share.WORDS} and int(refused.headers["Retry-After"]) >= 1
        assert ask(hub, "GET", "/api/v1/update", good).status == 200
        assert ask(hub, "GET", "/api/v1/devices", hub.token).status == 200
