"""Rules and small parts of the agent, without its processes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import numpy as np
import pytest

from commands import HERE, command
from edgeloop_agent import hardware
from edgeloop_agent.answering import Answering
from edgeloop_agent.answers import interpret, softmax
from edgeloop_agent.caches import GraphCache, Pool, ResultCache
from edgeloop_agent.chores import Chores
from edgeloop_agent.config import Api, Config, Output, Source, Thermal
from edgeloop_agent.config import Runtime as RuntimeSettings
from edgeloop_agent.engine import Scored
from edgeloop_agent.feed import Feed
from edgeloop_agent.logs import Log
from edgeloop_agent.loop import Loop
from edgeloop_agent.metrics import Counts
from edgeloop_agent.models import Models
from edgeloop_agent.runtimes import RuntimeOptions, onnx
from edgeloop_agent.sensors import Reading
from edgeloop_agent.sources import Recording
from edgeloop_contract.archive import Bundle
from edgeloop_contract.manifest import Classification
from serving import GOLDEN, eventually, serving, write_config


class Thermometer:
    celsius: float | None = None

    def read(self) -> Reading:
        return Reading(self.celsius, None, None, None)


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def loop_of(tmp_path: Path, stream: io.StringIO, **changes: Any) -> Loop:
    config = Config(
        bundles=[str(GOLDEN)], state=str(tmp_path / "state"), output=Output(where="none"), api=Api(enabled=False),
        runtime=RuntimeSettings(variant="onnx-int8", threads=1), **changes,
    )  # fmt: skip
    counts, log = Counts(), Log("info", stream)
    models = Models(config, counts, log)
    return Loop(config, models, None, Chores(config, models, Thermometer(), counts, log), counts, log, lambda: None)


def test_a_hot_board_gets_the_smaller_variant_until_it_has_cooled(tmp_path: Path) -> None:
    said = io.StringIO()
    loop = loop_of(tmp_path, said, thermal=Thermal(hot_variant="tflite-int8", poll_seconds=0.001))
    seen = []
    for celsius in (40, 90, 81, 78, 60):
        loop.chores.sensor.celsius = celsius  # type: ignore[attr-defined]
        loop.chores.look()
        loop.chores.tick()
        seen.append((loop.counts.thermal, loop.models.get(loop.models.first).choice.variant))
    assert seen == [
        ("cool", "onnx-int8"), ("hot", "tflite-int8"), ("hot", "tflite-int8"), ("warm", "onnx-int8"), ("cool", "onnx-int8"),
    ]  # fmt: skip
    assert said.getvalue().count("thermal state") == 3 and "state=hot celsius=90" in said.getvalue()


def test_a_report_tells_how_sure_the_devices_own_model_is(tmp_path: Path) -> None:
    """Not the larger model that was asked, nor early answers, which are the sure ones by choice: rollouts are judged by it."""
    models = loop_of(tmp_path, io.StringIO()).models
    model, counts = models.get(models.first), Counts()
    width = len(models.manifests[models.first].task.labels)
    own, sure = np.zeros((1, width), np.float32), np.full((1, width), -9, np.float32)
    sure[0, 0] = 9
    given = iter([Scored(own), Scored(sure, "exit cut-1", for_drift=False), Scored(sure, "large@there", own)])
    model.scored = lambda sample: next(given)  # type: ignore[method-assign]
    recording = Recording("three windows", np.zeros((200, 6), np.int16))
    lines = list(Answering(model.manifest, lambda: model, counts).lines(recording))
    assert [line.place for line in lines] == [None, "exit cut-1", "large@there"]
    assert not {"confidence", "scores", "sample"} & set(lines[0].__struct_fields__)
    beat = counts.heartbeat("m", 1, "", "", "")
    assert beat.answered == 3 and beat.confidence.count == 2
    assert beat.confidence.mean == pytest.approx(1 / width, abs=1e-4)
    assert counts.heartbeat("m", 1, "", "", "").confidence.count == 0


def test_memory_over_its_ceiling_ends_the_worker(tmp_path: Path) -> None:
    said = io.StringIO()
    loop = loop_of(tmp_path, said, limits=msgspec.structs.replace(Config(bundles=["a"]).limits, memory_bytes=1))
    loop.run(Event())
    assert loop.worn_out and "over memory_bytes" in said.getvalue()


def test_log_lines_can_be_parsed() -> None:
    stream = io.StringIO()
    log = Log("info", stream)
    log("debug", "not shown")
    log("info", "model loaded", name="a b", empty="", quote='say "x"\n', number=0.123456789, path="/x=y")
    (line,) = stream.getvalue().splitlines()
    assert line.split(" ", 1)[1] == 'info    model loaded name="a b" empty="" quote="say \\"x\\"\\n" number=0.123457 path="/x=y"'
    Log("info", Full())("error", "a full disk is survived")


def test_results_are_kept_within_their_bytes() -> None:
    cache, scores = ResultCache(1000), np.zeros(10, np.float32)
    keys = [cache.key("m", np.full((1, 4), i)) for i in range(9)]
    assert len(set(keys)) == 9 and cache.key("other", np.full((1, 4), 0)) != keys[0]
    assert cache.key("m", np.zeros((1, 4), np.int8)) != cache.key("m", np.zeros((1, 2), np.int16))
    for key in keys:
        cache.put(key, scores)
    assert cache.used_bytes <= 1000 and cache.get(keys[0]) is None and cache.get(keys[8]) is scores
    assert (cache.counts.hits, cache.counts.misses, cache.counts.evictions) == (1, 1, 5)
    cache.put(keys[0], np.zeros(10_000))  # more than the whole cache
    assert cache.get(keys[0]) is None
    off = ResultCache(0)
    off.put(keys[0], scores)
    assert off.used_bytes == 0


def test_graphs_are_kept_within_their_bytes(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path / "graphs", 300)
    for i in range(4):
        cache.put(bytes([i]) * 100, str(i))
    assert cache.get("0") is None and cache.get("3") == b"\x03" * 100
    assert sum(p.stat().st_size for p in cache.folder.iterdir()) <= 300
    cache.put(b"x" * 1000, "large")
    assert cache.get("large") is None
    assert GraphCache(tmp_path / "none", 0).get("0") is None and not (tmp_path / "none").exists()


def test_models_share_a_budget() -> None:
    class Held:
        memory_bytes = 60

    loads: list[str] = []
    pool: Pool[Held] = Pool(130, lambda name: loads.append(name) or Held())  # type: ignore[func-returns-value]
    for name in ("a", "b", "a", "c", "a", "b"):
        pool.get(name)
    assert loads == ["a", "b", "c", "b"]  # b went when c came, as a had been used since
    assert pool.counts.evictions == 2 and pool.used_bytes == 120


def test_two_bundles_under_one_budget(tiny_run: dict, tmp_path: Path) -> None:
    import tritonclient.http as triton

    with serving(tmp_path, "[cache]\nmodels_bytes = 1\n", GOLDEN, Path(tiny_run["bundle"])) as agent:
        client = triton.InferenceServerClient(agent.address.removeprefix("http://"))
        for name, shape in (("exercise_watch", [1, 100, 6]), ("tiny", [1, 32, 2]), ("exercise_watch", [1, 100, 6])):
            given = triton.InferInput("input", shape, "INT16")
            given.set_data_from_numpy(np.zeros(shape, np.int16))
            assert client.infer(name, [given]).as_numpy("scores").shape[0] == 1
        client.close()
        assert 'edgeloop_agent_cache_events_total{cache="models",event="evictions"} 2.0' in agent.get("/metrics")


def test_a_microphone_that_is_pulled_out_and_put_in(tmp_path: Path) -> None:
    source = '[source]\nkind = "microphone"\nrate_hz = 8000\nseconds = 0.1\npoll_seconds = 0.1\n'
    with serving(tmp_path, source, PYTHONPATH=str(HERE / "support" / "fakes")) as agent:
        eventually(lambda: len(agent.lines) >= 6)  # opened twice at least
        assert all("1 channels" in x["refused"] for x in agent.lines)  # a model for motion


def test_what_a_source_lets_go_by_itself_is_counted_and_said() -> None:
    class Fast:
        lost = 0

        def recordings(self, stop: object, away: object) -> Iterator[Recording]:
            for number in range(3):
                self.lost += number
                yield Recording(f"message {number}", None, "x")

    counts, stream = Counts(), io.StringIO()
    feed = Feed(Fast(), Source(kind="mqtt"), counts, Log("info", stream))
    feed.start()
    eventually(lambda: not feed._thread.is_alive())
    assert counts.dropped["queue_full"] == 3 and stream.getvalue().count("recordings are dropped") == 1


@pytest.mark.parametrize("when_full", ["block", "drop-oldest"])
def test_a_few_large_recordings_fill_the_queue(when_full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloop_agent.feed.MAX_WAITING_BYTES", 2500)

    class Large:
        def recordings(self, stop: object, away: object) -> Iterator[Recording]:
            yield from (Recording(f"picture {number}", np.zeros(1000, np.uint8)) for number in range(5))
            yield Recording("larger than all", np.zeros(9000, np.uint8))

    counts = Counts()
    feed = Feed(Large(), Source(kind="mqtt", when_full=when_full), counts, Log("error", io.StringIO()))  # type: ignore[arg-type]
    feed.start()
    found = []
    if when_full == "drop-oldest":
        eventually(lambda: not feed._thread.is_alive())
    while not feed.done:
        assert counts.queue <= 2
        if (taken := feed.take(0.1)) is not None:
            found.append(taken.name)
    names = [*(f"picture {number}" for number in range(5)), "larger than all"]
    assert found == (names if when_full == "block" else names[-1:])
    assert counts.dropped["queue_full"] == (0 if when_full == "block" else 5)


def test_a_topic_that_is_no_utf8_is_a_name() -> None:
    from edgeloop_agent.sources.mqtt import _topic

    class Message:
        @property
        def topic(self) -> str:
            return b"caf\xe9/1".decode()

    assert _topic(Message()) == "caf\\xe9/1"


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "fakes").mkdir()
    for name in ("sounddevice", "cv2"):
        (tmp_path / "fakes" / f"{name}.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "fakes" / "paho").mkdir()
    (tmp_path / "fakes" / "paho" / "__init__.py").write_text("raise ImportError('not here')\n")
    for kind, extra in {"microphone": "sound", "camera": "camera", "mqtt": "mqtt"}.items():
        config = write_config(tmp_path, f'[source]\nkind = "{kind}"\nwhere = "0"\n')
        done = command("edgeloop-agent", "check", config, PYTHONPATH=str(tmp_path / "fakes"))
        assert done.returncode == 6 and f"edgeloop[{extra}]" in done.stderr, done.stderr


def test_of_many_classes_the_five_most_probable_are_named() -> None:
    rng = np.random.default_rng(0)
    for classes in (3, 20, 21, 1000):
        task = Classification(labels=[f"class {i}" for i in range(classes)])
        scores = rng.normal(0, 3, (1, classes)).astype(np.float32)
        meaning, shares = interpret(task, scores, scores), softmax(scores[0])
        best = np.argsort(-shares)
        assert meaning.label == f"class {best[0]}"
        expected = best[: 5 if classes > 20 else classes]
        assert sorted(meaning.probabilities or {}) == sorted(f"class {i}" for i in expected)
        assert all(abs((meaning.probabilities or {})[f"class {i}"] - shares[i]) < 1e-4 for i in expected)


def quantized(shared: bool) -> bytes:
    """Two convolutions of uint8 by int8, in QuantizeLinear and DequantizeLinear; `shared`: their weights share zero points."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants = {"s": np.float32(1), "big": np.float32(2048), "z": np.uint8(0), "ws": np.ones(4, np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q0"]),
        helper.make_node("DequantizeLinear", ["q0", "s", "z"], ["x0"]),
    ]
    for i in (0, 1):
        constants[f"w{i}"] = rng.integers(90, 128, (4, 4, 3, 3)).astype(np.int8) * rng.choice([-1, 1], (4, 1, 1, 1)).astype(np.int8)
        constants[f"wz{0 if shared else i}"] = np.zeros(4, np.int8)
        nodes += [
            helper.make_node("DequantizeLinear", [f"w{i}", "ws", f"wz{0 if shared else i}"], [f"d{i}"], axis=0),
            helper.make_node("Conv", [f"x{i}", f"d{i}"], [f"c{i}"]),
            helper.make_node("QuantizeLinear", [f"c{i}", "big", "z"], [f"q{i + 1}"]),
            helper.make_node("DequantizeLinear", [f"q{i + 1}", "big", "z"], [f"x{i + 1}" if i == 0 else "scores"]),
        ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 4, 9, 9))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("saturating", [None, True])
def test_int8_sums_are_exact_on_every_cpu(
    shared: bool, saturating: bool | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Products of 255 and 127, whose pairs do not fit 16 bits: as with no optimisation at all. `saturating`: as if without VNNI."""
    import onnxruntime

    if saturating:
        monkeypatch.setattr(onnx, "int8_may_saturate", lambda: True)
    model, x = quantized(shared), np.full((1, 4, 9, 9), 255, np.float32)
    x[0, :, ::3] = 200
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]
    with Bundle.open(GOLDEN) as bundle:
        variant = bundle.manifest.variant("onnx-int8")
    graphs = GraphCache(tmp_path, 1 << 20)
    for kept in (None, graphs, graphs):  # without a cache of graphs, into it, and from it
        runtime = onnx.load(variant, model, 1, RuntimeOptions(graphs=kept))
        assert np.array_equal(runtime.raw(x), expected) and len(np.unique(expected)) > 1
        assert ("computed in floats" in runtime.description) == (shared and (bool(saturating) or hardware.int8_may_saturate()))
    assert graphs.counts.hits == 1
