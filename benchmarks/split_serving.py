"""What splitting costs where it is not used, and how fast a hub serves tails. No link is shaped for these."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import urllib3

from edgeloop_contract import inference
from edgeloop_contract.archive import Bundle
from edgeloop_contract.splitting import served_name
from harness import Row, at_least, at_most
from shaped import hub_with


def overhead(bundle: Path, quick: bool) -> Iterator[Row]:
    """What a request costs more when splitting is on, and the plan is to do all of it here. In one process, no server."""
    from edgeloop_agent.config import Config, Split, Tail
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.models import Models
    from edgeloop_agent.offload.tail_servers import TailServers

    with Bundle.open(bundle) as opened:
        sample = opened.array(opened.manifest.canary.input)[:1]
    took: dict[bool, list[float]] = defaultdict(list)
    models = {}
    with tempfile.TemporaryDirectory() as scratch:
        for on in (False, True):
            split = Split(enabled=on, tails=[Tail(address="http://127.0.0.1:9")], probe_seconds=3600)
            config = Config(bundles=[str(bundle)], state=scratch, split=split)
            tail_servers = TailServers(config, "", Counts(), Log("error")) if on else None
            made = Models(config, Counts(), Log("error"), tail_servers)
            found = models[on] = made.get(made.first)
            found._run = lambda sample: sample  # type: ignore[method-assign]  # the runtime's own time would drown it
            if found.router is not None:
                time.sleep(1)
                found.router._whole = found._run
    for _ in range(20 if quick else 60):
        for on, model in models.items():
            start = time.perf_counter()
            for _ in range(2000):
                model.scored(sample)
            took[on].append((time.perf_counter() - start) / 2000 * 1e6)
    yield at_most("splitting on, and not used", min(took[True]) - min(took[False]), "µs", 20)


def tails(bundle: Path, quick: bool) -> Iterator[Row]:
    """The hub's rate with and without batching, and how long the slowest of 100 waits at 80 % of it."""
    seconds = 3.0 if quick else 10.0
    rates = {}
    with Bundle.open(bundle) as opened:
        split, model, sha256 = opened.manifest.split, opened.manifest.name, opened.sha256
        assert split is not None
        cut = split.cuts[-1]
    rows = np.random.default_rng(0).integers(0, 255, (1, *cut.boundary.shape)).astype(np.uint8)
    body, length = inference.encode_request(cut.tensor, rows, {})
    name = served_name(model, sha256, cut.name)
    quota = ("--set", "tail_requests_per_second=1000000", "--set", "tail_burst=1000000", "--set", "tail_waiting_rows=100000")
    for batch in (1, 16):
        batches = ("--set", f"tail_batch={batch}")
        with tempfile.TemporaryDirectory() as scratch, hub_with([bundle], Path(scratch), *quota, *batches) as (port, token):
            address = f"http://127.0.0.1:{port}/v2/models/{name}"
            headers = {"Authorization": f"Bearer {token}", inference.HEADER_LENGTH: str(length)}
            urllib3.request("GET", f"{address}/ready", headers=headers, timeout=60)
            taken = _load(address, body, headers, seconds, None)
            rates[batch] = len(taken) / seconds
            if batch == 16:
                paced = sorted(_load(address, body, headers, seconds, 0.8 * rates[16]))
    yield at_least(f"tail of {cut.name}: requests/s, batches of 16", rates[16], "1/s", rates[1], rates[1])
    yield Row("  p99 at 80 % of that", paced[int(0.99 * len(paced))] * 1e3, "ms")


def _load(address: str, body: bytes, headers: dict[str, str], seconds: float, rate: float | None) -> list[float]:
    """Seconds of each request of 16 clients, as fast as they go or at `rate` a second together."""
    taken: list[float] = []
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        http = urllib3.HTTPConnectionPool("127.0.0.1", int(address.split(":")[2].split("/")[0]), maxsize=1, retries=False)
        path = "/" + address.split("/", 3)[3] + "/infer"
        due = time.monotonic() + (number / rate if rate else 0.0)
        while time.monotonic() < until:
            if rate:
                time.sleep(max(0.0, due - time.monotonic()))
            start = due if rate else time.monotonic()
            if http.request("POST", path, body=body, headers=headers).status == 200:
                taken.append(time.monotonic() - start)
            due += 16 / rate if rate else 0.0

    threads = [threading.Thread(target=client, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken
