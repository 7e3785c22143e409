"""What answers that go somewhere cost inference: MQTT, tracks and the page on, beside the same loop without; a broker that is away.

A detector of squares of 160×96 pixels runs in the service's own loop, a frame every 8 ms, of which 5 ms are spent computing, as a
model of that size would. Ten viewers hold the page open and load each picture, in another process. The broker is a real Mosquitto.
No peer does this.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness import NotRun, Row, at_most, each, main

MODEL_SECONDS, PERIOD_SECONDS = 0.005, 0.008
VIEWERS = 10
VIEWER = """
import socket, sys, threading, time, urllib.request
def look(port):
    with socket.create_connection(("127.0.0.1", port)) as c:
        c.sendall(b"GET /page/events HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
        while c.recv(1 << 16):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/page/picture", timeout=5).read()
            except OSError:
                pass
for _ in range(int(sys.argv[2])):
    threading.Thread(target=look, args=(int(sys.argv[1]),), daemon=True).start()
print("ready", flush=True)
time.sleep(3600)
"""


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, frames, away)


def frames(quick: bool) -> Iterator[Row]:
    """Seconds of the frames' answers, everything off and everything on, in turns."""
    from brokers import Broker
    from moving import detector, passing

    with tempfile.TemporaryDirectory() as name:
        folder, broker = Path(name), Broker()
        bundle, pictures = detector(folder), passing()
        try:
            broker.start()
        except (OSError, AssertionError) as error:
            raise NotRun(f"no Mosquitto: {error}") from error
        try:
            with looping(folder / "plain", bundle, "") as plain, looping(folder / "all", bundle, everything(broker.port)) as busy:
                viewers = subprocess.Popen(
                    [sys.executable, "-c", VIEWER, str(busy.port), str(VIEWERS)], stdout=subprocess.PIPE
                )  # fmt: skip
                assert viewers.stdout is not None and viewers.stdout.readline()
                try:
                    spent = turns([plain, busy], pictures, 300 if quick else 3000)
                finally:
                    viewers.kill()
                    viewers.wait()
        finally:
            broker.stop()
    off, on = (np.sort(seconds) * 1e3 for seconds in spent)
    more = float(np.median(on) - np.median(off))
    yield at_most("MQTT, tracks and page on: more of a frame, half below", round(more, 3), "ms", 0.05 * MODEL_SECONDS * 1e3)
    p99 = float(np.percentile(on, 99) - np.percentile(off, 99))
    yield at_most(f"the same with {VIEWERS} viewers: more of a frame, 99 % below", round(p99, 3), "ms", 1.0)
    yield Row("a frame with everything off, half below", round(float(np.median(off)), 3), "ms")
    yield Row("a frame with everything off, 99 % below", round(float(np.percentile(off, 99)), 3), "ms")


def turns(loops: list[Any], pictures: list[Any], count: int) -> list[Any]:
    """Seconds of each frame by loop, fifty frames of each in turn, so that the machine's other work falls on all."""
    spent: list[list[float]] = [[] for _ in loops]
    for start in range(0, count, 50):
        for loop, seconds in zip(loops, spent, strict=True):
            for number in range(start, start + 50):
                due = time.perf_counter() + PERIOD_SECONDS
                seconds.append(loop.frame(f"frame {number}", pictures[number % len(pictures)]))
                time.sleep(max(0.0, due - time.perf_counter()))
    return [np.array(seconds[50:]) for seconds in spent]


class Looping:
    """The service's loop over one model, fed by hand, and its API's port."""

    def __init__(self, folder: Path, bundle: Path, text: str) -> None:
        from edgeloop_agent.chores import Chores
        from edgeloop_agent.config import load
        from edgeloop_agent.local_api.server import Api
        from edgeloop_agent.logs import Log
        from edgeloop_agent.loop import Loop
        from edgeloop_agent.metrics import Counts
        from edgeloop_agent.models import Models
        from edgeloop_agent.sensors import Board
        from edgeloop_agent.tracking.following import Following

        folder.mkdir()
        path = folder / "agent.toml"
        page = str(bool(text)).lower()
        head = f'bundles = ["{bundle}"]\nstate = "state"\n[source]\nkind = "watch"\nwhere = "."\n[runtime]\nthreads = 1\n'
        path.write_text(f"{head}[api]\nport = 0\npage = {page}\n{text}")
        config = load(path)
        if not text:
            config = msgspec.structs.replace(config, output=[msgspec.structs.replace(config.outputs[0], where="/dev/null")])
        counts, log = Counts(), Log("error")
        models = Models(config, counts, log)
        models.load_first()
        following = Following(config.tracking, models.state, log) if config.tracking.enabled else None
        counts.tracking = following
        api = Api(config.api, models, counts, log, lambda: True)
        self.server = api.serve()
        self.port = self.server.port
        chores = Chores(config, models, Board(), counts, log)
        self.loop = Loop(config, models, None, chores, counts, log, lambda: None, following=following, view=api.view)

    def frame(self, name: str, picture: Any) -> float:
        """Seconds from a frame to its answer, written; MODEL_SECONDS of them computing."""
        from edgeloop_agent.sources import Recording

        start = time.perf_counter()
        total = 0.0
        while time.perf_counter() - start < MODEL_SECONDS:  # numpy, as a runtime does, without the interpreter's lock for a part
            total += float(np.dot(ROWS, ROWS).sum())
        self.loop._answer(Recording(name, picture))
        return time.perf_counter() - start


ROWS = np.ones((64, 64), np.float32)


@contextmanager
def looping(folder: Path, bundle: Path, text: str) -> Iterator[Looping]:
    here = Looping(folder, bundle, text)
    try:
        yield here
    finally:
        here.loop.output.close(time.monotonic() + 5)
        here.server.shutdown()


def everything(port: int) -> str:
    return (
        f'[[output]]\nwhere = "/dev/null"\n[[output]]\nkind = "mqtt"\nwhere = "bench/device"\nport = {port}\n'
        "[tracking]\nenabled = true\n[[tracking.line]]\nname = 'door'\npoints = [[0.5, 0.0], [0.5, 1.0]]\n"
    )


def away(quick: bool) -> Iterator[Row]:
    """Ten answers a second for an hour, put at once, while there is no broker; then it comes back."""
    from brokers import Broker, settled
    from edgeloop_agent.answering import AnswerLine
    from edgeloop_agent.config import Config, Output
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.outputs.fan_out import Outputs
    from edgeloop_contract.archive import Bundle
    from serving import GOLDEN

    count = 2_000 if quick else 36_000
    with tempfile.TemporaryDirectory() as name, Bundle.open(GOLDEN) as bundle:
        broker, counts = Broker(), Counts()
        settings = Output(kind="mqtt", where="bench/device", port=broker.port, max_bytes=64 << 20)
        outputs = Outputs(Config(bundles=["x"], output=[settings]), bundle.manifest, Path(name), counts, Log("error"))
        start = time.perf_counter()
        for number in range(count):
            outputs.write([AnswerLine(f"frame {number}", 0, "walk", {"walk": 1.0})])
            if number % 1000 == 999:
                outputs.sync()
        put = time.perf_counter() - start
        try:
            broker.start()
            start = time.perf_counter()
            got = settled(lambda: len(broker.messages), 3.0)
            took = time.perf_counter() - start - 3.0
            ids = [msgspec.json.decode(body)["id"] for topic, body, _ in broker.messages if topic.endswith("/answers")]
        finally:
            outputs.close(time.monotonic() + 5)
            broker.stop()
    yield at_most(f"{count} answers while the broker was away: lost", count - len(set(ids)), "", 0)
    yield at_most(f"{count} answers while the broker was away: twice", len(ids) - len(set(ids)), "", 0)
    yield Row("… put to the disk, each", round(put / count * 1e6, 1), "µs")
    yield Row("… delivered after", round(got / max(took, 1e-9)), "answers/s")


if __name__ == "__main__":
    main(measure)
