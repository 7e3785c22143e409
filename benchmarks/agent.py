"""The agent against the bare runtime in one run: time, memory, start, size, the local API; and its fault table.

Bundles: the golden one of exercise_watch (some microseconds) and photos (some milliseconds, 5 MB), which `edgeloop run photos`
makes in runs/. With --quick the golden one alone, seconds instead of minutes, and a tenth of the faults.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent_api import api, parts_of
from agent_beside import beside
from agent_faults import clock_jumps, faults, spoiled_sources
from harness import Row, at_most, each, edgeloop, main
from serving import GOLDEN, eventually, serving

RUNS = Path("runs")
BARE = """
import sys, time, resource
start = time.perf_counter()
import numpy as np
model, kind, shape, dtype = sys.argv[1:5]
x = np.zeros([1, *map(int, shape.split(","))], dtype)
if kind == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(open(model, "rb").read(), providers=["CPUExecutionProvider"])
    run = lambda: session.run(None, {"input": x})
else:
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(model_content=open(model, "rb").read(), num_threads=1)
    interpreter.allocate_tensors()
    i, o = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    def run():
        interpreter.set_tensor(i, x); interpreter.invoke(); return interpreter.get_tensor(o)
run()
took = time.perf_counter() - start
for _ in range(200): run()
print(took, int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize())
"""


def measure(quick: bool) -> Iterator[Row]:
    def exercise_watch(_: bool) -> Iterator[Row]:
        yield from answering("exercise_watch", GOLDEN.parent.parent / "v0.2" / GOLDEN.name)  # with a drift reference

    def photos(_: bool) -> Iterator[Row]:
        run: Any = edgeloop("run", "photos", "--runs", RUNS)
        yield from answering("photos", Path(run["bundle"]))

    def load(quick: bool) -> Iterator[Row]:
        yield size()
        yield from sustained(20 if quick else 600)

    def clocks(_: bool) -> Iterator[Row]:
        yield from clock_jumps()

    def sources(quick: bool) -> Iterator[Row]:
        yield from spoiled_sources(10_000 if quick else 100_000)

    yield from each(quick, exercise_watch, *(() if quick else (photos,)), api, beside, load, faults, clocks, sources)


def answering(name: str, bundle: Path) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("onnx", "tflite"):
            yield from overhead(f"{name}, {kind}", bundle, f"{kind}-int8", Path(folder))
            yield from process(f"{name}, {kind}", bundle, f"{kind}-int8", Path(tempfile.mkdtemp(dir=folder)), name == "photos")


def loop_of(bundle: Path, variant: str, folder: Path, cleaning: bool = False) -> Any:
    """The service's loop without its processes, writing its answers to nowhere."""
    import msgspec

    from edgeloop_agent.chores import Chores
    from edgeloop_agent.config import Api, Config, Output, Runtime
    from edgeloop_agent.logs import Log
    from edgeloop_agent.loop import Loop
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.models import Models
    from edgeloop_agent.sensors import Board
    from edgeloop_contract.cleaning import Clamp, FillMissing

    config = Config(
        bundles=[str(bundle)], state=str(folder / "state"), output=Output(where="/dev/null"), api=Api(enabled=False),
        runtime=Runtime(variant=variant, threads=1),
    )  # fmt: skip
    counts, log = Counts(), Log("error")
    models = Models(config, counts, log)
    if cleaning:
        steps = [FillMissing(max_gap=3), Clamp(low=-(2.0**15), high=2.0**15)]
        models.manifests[models.first] = msgspec.structs.replace(models.manifests[models.first], cleaning=steps)
    return Loop(config, models, None, Chores(config, models, Board(), counts, log), counts, log, lambda: None)


def overhead(name: str, bundle: Path, variant: str, folder: Path) -> Iterator[Row]:
    """One prepared sample through the service's loop, answer written, against the runtime's own call; turn by turn."""
    from edgeloop_agent.observers import SampleObserver
    from edgeloop_agent.sources import Recording

    described, _, inputs = parts_of(bundle, variant)
    loop, cleaned, watched = (loop_of(bundle, variant, folder, cleaning=number == 1) for number in range(3))
    watched.answering.observer = SampleObserver(watched.config, watched.models, watched.counts, watched.log)
    sample = np.ascontiguousarray(inputs[:1])
    recording = Recording("a", inputs[0])
    call = bare_call(loop.models.get(loop.models.first).runtime, described, sample)
    turns = [lambda side=side: side.output.write(list(side.answering.lines(recording))) for side in (loop, cleaned, watched)]
    bare, ours, with_cleaning, with_drift = by_turns([call, *turns])
    yield at_most(f"{name}: overhead of an inference", round(ours - bare, 1), "µs", 30)
    if bare >= 1000:
        yield at_most(f"{name}: overhead, share of {bare / 1000:.1f} ms", round(100 * (ours / bare - 1), 2), "%", 5)
    yield Row(f"{name}: overhead with two cleaning steps", round(with_cleaning - bare, 1), "µs")
    yield Row(f"{name}: overhead with drift watched", round(with_drift - bare, 1), "µs")


def bare_call(runtime: Any, variant: Any, sample: Any) -> Callable[[], Any]:
    """What a user without us would call in a loop."""
    if variant.runtime == "onnx":
        session, feed = runtime._session, {runtime._input: sample}
        return lambda: session.run(None, feed)
    interpreter, i, o = runtime._interpreter, runtime._input, runtime._output
    x = (sample ^ 0x80).view(np.int8) if variant.input.dtype == "int8" else sample

    def call() -> Any:
        interpreter.set_tensor(i, x)
        interpreter.invoke()
        return interpreter.get_tensor(o)

    return call


def by_turns(calls: list[Callable[[], Any]], seconds: float = 4.0) -> list[float]:
    """Median microseconds of each, called one after the other so that all see the same machine."""
    taken: list[list[float]] = [[] for _ in calls]
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return [1e6 * statistics.median(times[len(times) // 10 :]) for times in taken]


def process(name: str, bundle: Path, variant: str, folder: Path, large: bool) -> Iterator[Row]:
    """Start to first inference, and resident memory, each in processes of its own, best of five."""
    described, model, inputs = parts_of(bundle, variant)
    (folder / "model").write_bytes(model)
    shape, dtype = ",".join(map(str, inputs.shape[1:])), described.input.dtype
    words = [sys.executable, "-c", BARE, str(folder / "model"), described.runtime, shape, dtype]
    np.save(folder / "sample.npy", inputs[0])
    (folder / "config.toml").write_text(
        f'bundles = ["{bundle}"]\nstate = "state"\n[source]\nkind = "file"\nwhere = "sample.npy"\n[output]\nwhere = "none"\n'
        f'[api]\nenabled = false\n[runtime]\nvariant = "{variant}"\nthreads = 1\n'
    )
    bare = [wall(words) for _ in range(5)]
    worker = [sys.executable, "-m", "edgeloop_agent.worker", str(folder / "config.toml"), "1"]
    wall([sys.executable, "-c", "import edgeloop_agent.worker, edgeloop_agent.observers"])
    cold = math.inf
    for _ in range(5):
        shutil.rmtree(folder / "state", ignore_errors=True)
        cold = min(cold, wall(worker))
    warm = [wall(worker) for _ in range(5)]
    base = min(bare)
    yield at_most(f"{name}: start to first inference, cold", round(cold / base, 2), "× the bare runtime's", 1.5)
    if large and described.runtime == "onnx":
        yield at_most(f"{name}: with a warm graph cache", round(min(warm) / base, 2), "× the bare runtime's", 1.0)
    plain = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[1])
    (folder / "serve").mkdir()
    text = f'[runtime]\nvariant = "{variant}"\nthreads = 1\n[source]\nkind = "file"\nwhere = "../sample.npy"\n'
    with serving(folder / "serve", text, bundle) as agent:
        eventually(lambda: agent.lines)
        ours, supervisor = resident(agent.worker()), resident(agent.process.pid)
        scraped = agent.metric("edgeloop_agent_resident_memory_bytes")
    yield at_most(f"{name}: resident memory over the bare runtime", round((ours - plain) / 1e6, 1), "MB", 15)
    yield Row(f"{name}: the same once /metrics was read", round((scraped - plain) / 1e6, 1), "MB")
    yield Row(f"{name}: the supervisor, a process beside it", round(supervisor / 1e6, 1), "MB")


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def wall(words: list[str]) -> float:
    """Seconds of a process. Modules are compiled already, as those of an installed package are."""
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=compiled)
    return time.perf_counter() - start


def size() -> Row:
    """What the device's installation adds to numpy and a runtime."""
    here = str(Path(__file__).resolve().parent.parent)
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pip", "install", "-q", "--target", folder, "--no-deps"]
        subprocess.run([*words, here, "msgspec", "prometheus-client"], check=True, capture_output=True)
        total = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    return at_most("installed beyond numpy and the runtime", round(total / 1e6, 1), "MB", 15)


def sustained(seconds: float) -> Iterator[Row]:
    """1,000 recordings a second through a FIFO, and what that does to memory."""
    point = json.dumps([0.1] * 6).encode() + b"\n"
    recording = point * 100
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(Path(folder) / "pipe")
        source = '[source]\nkind = "lines"\nwhere = "pipe"\npoints = 100\nhop = 10\nqueue = 256\n[output]\nwhere = "none"\n'
        with serving(Path(folder), source) as agent, (Path(folder) / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(recording)
            start, sent, first = time.perf_counter(), 0, 0.0
            while (now := time.perf_counter() - start) < seconds:
                due = int(now * 1000) - sent
                for _ in range(max(0, due)):
                    pipe.write(point * 10)
                    sent += 1
                if not first and now > seconds / 10:
                    first = agent.metric("edgeloop_agent_resident_memory_bytes")
                time.sleep(0.002)
            eventually(lambda: agent.metric("edgeloop_agent_queue_length") == 0)
            answered, dropped = agent.metric("edgeloop_agent_samples_answered_total"), agent.metric("edgeloop_agent_dropped_total")
            grown = agent.metric("edgeloop_agent_resident_memory_bytes") - first
    yield Row(f"sustained for {seconds:.0f} s: answered", answered / seconds, "/s", None, None, "≥ 990", answered / seconds >= 990)
    yield at_most("sustained: dropped", dropped, "recordings", 0)
    yield at_most("sustained: memory grown after the first tenth", round(grown / 1e6, 2), "MB", 1)


if __name__ == "__main__":
    main(measure)
