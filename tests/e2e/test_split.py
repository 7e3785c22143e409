"""Work split between device and server: the bundle, tails on the hub, deadlines, the cascade; through the commands."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
import urllib3

from commands import TINY, command, sentence
from edgeloop_agent import config
from edgeloop_agent.answers import softmax
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.offload.router import FULL_RUN_EVERY, Router
from edgeloop_agent.offload.tail_servers import TailServers
from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract import archive, inference
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import Split
from edgeloop_contract.splitting import nibbles, served_name
from edgeloop_exporters import cutting
from hubs import Hub, running_hub
from matrix import cases
from serving import Agent, eventually, serving, write_config


@pytest.fixture(scope="module")
def built(tiny_run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny project with cuts and a cascade: its bundle, and the large one."""
    folder = tmp_path_factory.mktemp("split")
    runs = Path(shutil.copytree(tiny_run["runs"], folder / "runs"))
    changes = (
        "--set",
        "split.max_cuts=3",
        "--set",
        "split.four_bits=true",
        "--set",
        "split.bottleneck=0.5",
        "--set",
        "split.bottleneck_steps=20",
        "--set",
        "split.exits=0.3",
        "--set",
        "split.seconds=0.02",
        "--set",
        "cascade.max_share=0.5",
    )
    done = command("edgeloop", "run", TINY, "--runs", runs, *changes)
    assert done.returncode == 0, done.stderr
    paths = {line.split(": ")[0]: Path(line.split(": ")[1]) for line in done.stdout.splitlines() if "bundle: " in line}
    return {"small": paths["bundle"], "large": paths["large bundle"]}


def test_the_bundle_knows_its_cuts_and_each_part_fits(built: dict[str, Path]) -> None:
    with Bundle.open(built["small"]) as bundle:
        split, cascade = bundle.manifest.split, bundle.manifest.cascade
        assert split is not None
        assert cascade is not None
        whole = bundle.read(bundle.manifest.variant(split.variant).file)
        x = bundle.array(bundle.manifest.canary.inputs)
        assert split.cuts[0].name == "input"
        assert len(split.cuts) > 1
        sizes = [cut.packed[0].bytes for cut in split.cuts if not cut.decoder]
        assert sizes == sorted(sizes, reverse=True)
        scores = session_of(whole).run(None, {"input": x})[0]
        for cut in split.cuts[1:]:
            crossing = session_of(bundle.read(cut.file)).run(None, {"input": x})[0]
            assert (str(crossing.dtype), list(crossing.shape[1:])) == (cut.boundary.dtype, cut.boundary.shape)
            decoder = bundle.read(cut.decoder) if cut.decoder else b""
            again = session_of(cutting.tail(whole, cut.tensor, decoder)).run(None, {cut.tensor: crossing})[0]
            if decoder:
                assert cut.packed[0].bytes < split.cut(cut.name.removesuffix("-narrow")).packed[0].bytes
                assert (again.argmax(1) == scores.argmax(1)).mean() > 0.6
            else:
                assert (again == scores).all()
        assert next(cut.name for cut in split.cuts if cut.decoder) == "cut-1-narrow"
    with Bundle.open(built["large"]) as large:
        assert (cascade.model, cascade.sha256) == (large.manifest.name, large.sha256)
        assert 0 <= cascade.share <= 0.5
        assert cascade.accuracy >= cascade.small


def test_triton_gets_models_that_it_can_read(built: dict[str, Path], tmp_path: Path) -> None:
    done = command("edgeloop", "export-triton", built["small"], tmp_path / "repository")
    assert done.returncode == 0, done.stderr
    config_class = _triton_config()
    from google.protobuf import text_format

    with Bundle.open(built["small"]) as bundle:
        assert bundle.manifest.split is not None
        names = {served_name("tiny", bundle.sha256, cut.name) for cut in bundle.manifest.split.cuts}
    assert {p.name for p in (tmp_path / "repository").iterdir()} == names
    for folder in (tmp_path / "repository").iterdir():
        config = text_format.Parse((folder / "config.pbtxt").read_text(), config_class())
        assert config.name == folder.name
        session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
        (given,), (answer,) = session.get_inputs(), session.get_outputs()
        assert config.input[0].name == given.name
        assert list(config.input[0].dims) == given.shape[1:]
        assert config.output[0].name == answer.name
        assert {"tensor(uint8)": 2, "tensor(int16)": 7, "tensor(float)": 11}[given.type] == config.input[0].data_type
    again = command("edgeloop", "export-triton", built["small"], tmp_path / "repository")
    assert again.returncode == 0


def _triton_config() -> Any:
    """tritonclient's own description of the format, without its gRPC client."""
    found = importlib.util.find_spec("tritonclient")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


# ---------------------------------------------------------------- tails on a real hub


@pytest.fixture(scope="module")
def hub(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub"), serve=("--set", "tail_burst=2000", "--set", "tail_batch=8")) as found:
        found.publish(built["small"])
        found.publish(built["large"])
        yield found


def first_cut(path: Path) -> tuple[Split, str, Array, Array]:
    """The split, the name of its first inner tail, boundaries of the canary, and the scores that belong to them."""
    with Bundle.open(path) as bundle:
        split = bundle.manifest.split
        assert split is not None
        x = bundle.array(bundle.manifest.canary.inputs)
        whole = bundle.read(bundle.manifest.variant(split.variant).file)
        scores = session_of(whole).run(None, {"input": x})[0]
        crossing = session_of(bundle.read(split.cuts[1].file)).run(None, {"input": x})[0]
        return split, served_name("tiny", bundle.sha256, "cut-1"), crossing, scores


def test_the_public_client_drives_a_tail(hub: Hub, built: dict[str, Path]) -> None:
    import tritonclient.http as triton

    split, name, crossing, scores = first_cut(built["small"])
    client = triton.InferenceServerClient(hub.address.removeprefix("http://"))
    headers = {"Authorization": f"Bearer {hub.token}"}
    try:
        assert client.is_server_ready()
        described = client.get_model_metadata(name, headers=headers)
        assert described["inputs"][0]["name"] == split.cuts[1].tensor
        given = triton.InferInput(split.cuts[1].tensor, list(crossing.shape), "UINT8")
        given.set_data_from_numpy(crossing, binary_data=True)
        for compressed in (None, "deflate"):
            answer = client.infer(
                name, [given], headers=headers, request_compression_algorithm=compressed, response_compression_algorithm=compressed
            )
            assert (answer.as_numpy("scores") == scores).all()
    finally:
        client.close()


def ask(hub: Hub, name: str, body: bytes, length: int | None, **headers: str) -> urllib3.BaseHTTPResponse:
    sent = {"Authorization": f"Bearer {hub.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if length is not None:
        sent[inference.HEADER_LENGTH] = str(length)
    return urllib3.request("POST", f"{hub.address}/v2/models/{name}/infer", body=body, headers=sent, timeout=20, retries=False)


def test_a_tail_refuses_what_is_not_for_it(hub: Hub, built: dict[str, Path]) -> None:
    split, name, crossing, scores = first_cut(built["small"])
    tensor = split.cuts[1].tensor
    body, length = inference.encode_request(tensor, crossing, {})
    other = name.replace(name.split(".")[1], "0" * 16)
    wrong_shape = inference.encode_request(tensor, crossing[:, :1], {})
    many = inference.encode_request(tensor, np.repeat(crossing, 5, axis=0), {})
    for why, status, answer in (
        ("another version's digest", 404, ask(hub, other, body, length)),
        ("no such cut", 404, ask(hub, name.replace("cut-1", "cut-9"), body, length)),
        ("a path as a name", 404, ask(hub, "..%2F..%2Fetc", body, length)),
        ("no credential", 401, ask(hub, name, body, length, Authorization="")),
        ("a wrong credential", 401, ask(hub, name, body, length, Authorization="Bearer nobody")),
        ("another shape", 400, ask(hub, name, *wrong_shape)),
        ("more rows than a batch", 400, ask(hub, name, *many)),
        ("another tensor", 400, ask(hub, name, *inference.encode_request("other", crossing, {}))),
        ("no request at all", 400, ask(hub, name, b"\x00" * 100, None)),
        ("not deflated", 400, ask(hub, name, body, length, Content_Encoding="deflate")),
        ("a length that is none", 400, ask(hub, name, body, None, Inference_Header_Content_Length="x")),
        ("no rows of pictures", 400, ask(hub, name, *inference.encode_request(f"{tensor}.4bit", np.zeros((0, 3), np.uint8), {}))),
        (
            "4 bits of another size",
            400,
            ask(hub, name, *inference.encode_request(f"{tensor}.4bit", np.zeros((1, 3), np.uint8), {})),
        ),
    ):
        assert answer.status == status, (why, answer.status, answer.data)
    answer = ask(hub, name, body, length)
    outputs, said = inference.decode_response(answer.data, int(answer.headers[inference.HEADER_LENGTH]))
    assert (outputs["scores"] == scores).all()
    assert said["compute_us"] > 0
    few = np.concatenate([nibbles(crossing[i : i + 1]) for i in range(len(crossing))])
    assert ask(hub, name, *inference.encode_request(f"{tensor}.4bit", few, {})).status == 200
    assert "Traceback" not in hub.log


def test_who_asks_too_often_is_told_when_to_come_again(built: dict[str, Path], tmp_path: Path) -> None:
    with running_hub(tmp_path, serve=("--set", "tail_burst=3", "--set", "tail_requests_per_second=0.5")) as hub:
        hub.publish(built["small"])
        split, name, crossing, _ = first_cut(built["small"])
        body = inference.encode_request(split.cuts[1].tensor, crossing[:1], {})
        answers = [ask(hub, name, *body) for _ in range(5)]
        assert [a.status for a in answers[:3]] == [200] * 3
        assert answers[-1].status == 429
        assert int(answers[-1].headers["Retry-After"]) >= 1
        with Bundle.open(built["small"]) as bundle:
            target = f"tiny-{bundle.manifest.version}-{bundle.sha256[:8]}.edgeloop"
        hub.edgeloop("withdraw", target)
        with running_hub(tmp_path / "again", keys=False) as other:
            assert ask(other, name, *body).status == 404, "a hub that has not the bundle has not its tail"


# ---------------------------------------------------------------- a real agent


def agent_text(hub: Hub, more: str, extra: str = "") -> str:
    more = more if "exits" in more else f"{more}\nexits = false"
    return (
        f'[updates]\nhub = "{hub.address}"\npoll_seconds = 1000\n[runtime]\nvariant = "onnx-int8"\nthreads = 1\n{extra}\n'
        f"[split]\nenabled = true\nprobe_seconds = 0.5\n{more}\n"
    )


def infer(agent: Agent, samples: Array) -> tuple[Array, str]:
    body, length = inference.encode_request("input", samples, {})
    answer = urllib3.request(
        "POST", f"{agent.address}/v2/models/tiny/infer", body=body, headers={inference.HEADER_LENGTH: str(length)}, timeout=20
    )
    assert answer.status == 200, answer.data
    outputs, said = inference.decode_response(answer.data, int(answer.headers[inference.HEADER_LENGTH]))
    return outputs["scores"], str(said.get("place"))


def canary(path: Path) -> tuple[Array, Array]:
    """Samples, and the scores of the variant that is cut."""
    with Bundle.open(path) as bundle:
        x = bundle.array(bundle.manifest.canary.inputs)
        whole = bundle.read(bundle.manifest.variant("onnx-int8").file)
        return x, session_of(whole).run(None, {"input": x})[0]


@contextmanager
def device(folder: Path, hub: Hub, bundle: Path, more: str, extra: str = "") -> Iterator[Agent]:
    text = agent_text(hub, more, extra)
    folder.mkdir(parents=True, exist_ok=True)
    hub.enrol(write_config(folder, text, bundle), f"device-{abs(hash(str(folder))) % 10**9}")
    with serving(folder, text, bundle) as agent:
        yield agent


@pytest.mark.parametrize("way", cases(("input", "cut-1", "cut-2", "device"), ("input", "cut-1")))
def test_the_answer_is_the_same_wherever_it_is_computed(hub: Hub, built: dict[str, Path], tmp_path: Path, way: str) -> None:
    x, scores = canary(built["small"])
    with device(tmp_path, hub, built["small"], f'route = "{way}"\ncascade = false\ndeadline_ms = 5000') as agent:
        eventually(lambda: infer(agent, x[:1])[1].startswith(way))
        found, place = infer(agent, x)
        assert (found == scores).all(), "bit for bit"
        assert place.startswith(way)
        assert f'edgeloop_agent_answers_total{{place="{way}' in agent.get("/metrics")
        port = agent.address.rsplit(":", 1)[1]
        explained = command("edgeloop-agent", "explain", tmp_path / "agent.toml", "--port", port)
        assert explained.returncode == 0, explained.stderr
        assert way in explained.stdout.splitlines()[0]
        assert "not asked for" in explained.stdout


def test_explorations_give_way_to_requests_and_neither_is_learned_from(hub: Hub, built: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(hub.token)
    (tmp_path / "agent.toml").write_text(
        f'bundles = ["{built["small"]}"]\nstate = "state"\n[api]\nport = 1\n[split]\nenabled = true\nexits = false\ncascade = false\nroute = "input/raw"\n'
        f'deadline_ms = 9000\nmax_bytes_per_day = 9000000\n[[split.tails]]\naddress = "{hub.address}"\ntoken_file = "token"\n'
    )
    servers = TailServers(config.load(tmp_path / "agent.toml"), "", Counts(), Log())
    with Bundle.open(built["small"]) as bundle:
        assert bundle.manifest.split is not None
        session = session_of(bundle.read(bundle.manifest.variant(bundle.manifest.split.variant).file))
        router = Router(servers, bundle, lambda sample: session.run(None, {"input": sample})[0])
    router.measure()
    tail, done, x = servers.tails[0], threading.Event(), canary(built["small"])[0][:1]

    def known() -> tuple[float, float | None, float | None]:
        return servers.bytes_left(), tail.link.round_trip, tail.link.rate

    tail.link.observe_probe(tail.probe())
    before = known()
    request = servers.submit(tail, done.wait)
    assert request is not None
    router.explore(0)
    assert known() == before, "a request has the link: not a byte of exploration"
    done.set()
    request.result(9)
    eventually(lambda: not servers.busy(0))
    router.explore(0)
    explored = known()
    assert explored[0] < before[0]
    assert explored[2] is not None
    router.replan_now()
    tail.exploring = True  # as if another model's exploration were on its way
    assert router.scored(x).place == f"input/raw@{tail.address}"
    beside = known()
    assert beside[0] < explored[0]
    assert beside[1:] == explored[1:], "what shared the link says nothing of it"
    tail.exploring = False
    assert router.scored(x).place == f"input/raw@{tail.address}"
    assert known()[1:] != explored[1:]


def test_a_learned_bottleneck_serves_where_it_is_allowed(hub: Hub, built: dict[str, Path], tmp_path: Path) -> None:
    x, scores = canary(built["small"])
    for more, way in (
        ('route = "cut-1-narrow"\nsend = "boundary"', "cut-1-narrow"),
        ('route = "cut-1"\nmin_agreement = 0.5', "cut-1/"),
    ):
        with device(tmp_path / way.strip("/"), hub, built["small"], f"{more}\ncascade = false\ndeadline_ms = 5000") as agent:
            eventually(lambda agent=agent, way=way: infer(agent, x[:1])[1].startswith(way))
            found, _ = infer(agent, x)
            assert (found.argmax(1) == scores.argmax(1)).mean() > 0.6


def test_sure_samples_are_answered_early(hub: Hub, built: dict[str, Path], tmp_path: Path) -> None:
    x, scores = canary(built["small"])
    with Bundle.open(built["small"]) as bundle:
        assert bundle.manifest.split is not None
        cut = next(cut for cut in bundle.manifest.split.cuts if cut.exit)
        assert cut.exit is not None
        assert cut.exit.share <= 0.9
        assert cut.exit.accuracy >= cut.exit.whole - 0.3
        early = session_of(bundle.read(cut.file)).run(None, {"input": x})[1]
    sure = softmax(early).max(axis=1) >= cut.exit.threshold
    sure[::FULL_RUN_EVERY] = False  # these go through the whole network in any case
    assert sure.any()
    for way, elsewhere in ((f"{cut.name}/raw", f"{cut.name}/raw@"), (f"{cut.name}/here", "device")):
        more = f'route = "{way}"\nexits = true\ncascade = false\ndeadline_ms = 5000'
        with device(tmp_path / way, hub, built["small"], more) as agent:
            eventually(lambda agent=agent, way=way: json.loads(agent.get("/split"))[0]["route"] == way)
            for i in range(len(x)):
                found, place = infer(agent, x[i : i + 1])
                assert np.allclose(found[0], early[i] if sure[i] else scores[i], atol=1e-5)
                assert place.startswith(f"exit {cut.name}" if sure[i] else elsewhere)


def test_every_output_line_says_where_it_comes_from(hub: Hub, built: dict[str, Path], tmp_path: Path) -> None:
    source = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n'
    (tmp_path / "in").mkdir()
    samples = command("edgeloop", "samples", TINY, tmp_path / "samples", "--limit", 3)
    assert samples.returncode == 0, samples.stderr
    with device(tmp_path, hub, built["small"], 'route = "cut-1"\ncascade = false\ndeadline_ms = 5000', source) as agent:
        eventually(lambda: infer(agent, canary(built["small"])[0][:1])[1].startswith("cut-1"))
        for path in sorted((tmp_path / "samples").iterdir()):
            shutil.copy(path, tmp_path / "in" / f".{path.name}")
            (tmp_path / "in" / f".{path.name}").rename(tmp_path / "in" / path.name)
        lines = eventually(lambda: len(agent.lines) >= 3 and agent.lines)
        assert all(line["place"].startswith("cut-1/") and line["place"].endswith(hub.address) for line in lines if "label" in line)


def test_the_server_goes_and_comes_back_and_every_answer_is_in_time(built: dict[str, Path], tmp_path: Path) -> None:
    x, scores = canary(built["small"])
    with running_hub(tmp_path / "hub") as hub:
        hub.publish(built["small"])
        with device(tmp_path / "agent", hub, built["small"], 'route = "cut-1"\ncascade = false\ndeadline_ms = 400') as agent:
            eventually(lambda: infer(agent, x[:1])[1].startswith("cut-1"))
            hub.process.send_signal(signal.SIGSTOP)  # connections stay, answers do not come
            places, longest = [], 0.0
            for i in range(20):
                start = time.monotonic()
                found, place = infer(agent, x[i % len(x)][None])
                longest = max(longest, time.monotonic() - start)
                assert (found == scores[i % len(x)]).all()
                places.append(place)
            assert longest < 0.4 + 0.5, "the deadline, and what a busy machine may add"
            assert all(place.startswith("device") for place in places)
            assert places[0] == "device: no answer in time"
            eventually(lambda: infer(agent, x[:1])[1] == "device")  # a tail that hangs is soon left alone
            hub.process.send_signal(signal.SIGCONT)
            eventually(lambda: infer(agent, x[:1])[1].startswith("cut-1"))
            eventually(lambda: "state=there" in agent.log)


@contextmanager
def odd_server(answer: bytes) -> Iterator[str]:
    """Takes every request, and says this; /v2 and health are answered well, so that it looks like a tail."""
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        server.settimeout(0.2)
        while not stop.is_set():
            try:
                wire, _ = server.accept()
            except OSError:
                continue
            threading.Thread(target=one, args=(wire,), daemon=True).start()

    def one(wire: socket.socket) -> None:
        with wire:
            wire.settimeout(5)
            try:
                while data := wire.recv(1 << 16):
                    wire.sendall(answer if data.startswith(b"POST") else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        stop.set()
        server.close()


def spoken(scores: Array) -> bytes:
    request = inference.Request("", {}, {}, True)
    body, length = inference.encode_response("m", "1", request, {"scores": scores})
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{inference.HEADER_LENGTH}: {length}\r\n\r\n".encode() + body


NONSENSE = {
    "no http": b"\x00\x01\x02 not HTTP\r\n\r\n",
    "no json": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "endless": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    "not deflated": b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 5\r\n\r\nhello",
    "another shape": spoken(np.zeros((1, 999), np.float32)),
    "nan": spoken(np.full((1, 3), np.nan, np.float32)),
}


@pytest.mark.parametrize("name", cases(NONSENSE, ("no http", "endless", "nan")))
def test_a_server_that_answers_nonsense_costs_no_answer(built: dict[str, Path], tmp_path: Path, name: str) -> None:
    x, scores = canary(built["small"])
    with odd_server(NONSENSE[name]) as address:
        text = (
            '[runtime]\nvariant = "onnx-int8"\nthreads = 1\n[split]\nenabled = true\nprobe_seconds = 0.2\ndeadline_ms = 500\n'
            f'cascade = false\nexits = false\n[[split.tails]]\naddress = "{address}"\n'
        )
        with serving(tmp_path, text, built["small"]) as agent:
            for i in range(30):
                found, place = infer(agent, x[i % len(x)][None])
                assert (found == scores[i % len(x)]).all()
                assert place.startswith("device")
                time.sleep(0.02)
            assert agent.log.count("Traceback") == 0


def with_threshold(path: Path, folder: Path, threshold: float) -> Path:
    """The small bundle with another threshold of its cascade."""
    with Bundle.open(path) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        assert bundle.manifest.cascade is not None
        cascade = msgspec.structs.replace(bundle.manifest.cascade, threshold=threshold)
        made = msgspec.structs.replace(bundle.manifest, cascade=cascade)
    folder.mkdir(exist_ok=True)
    archive.write(folder / "cascade.edgeloop", made, files)
    return folder / "cascade.edgeloop"


def test_unsure_answers_come_from_the_large_model_while_it_is_there(built: dict[str, Path], tmp_path: Path) -> None:
    x, scores = canary(built["small"])
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    sure = (shares / shares.sum(axis=1, keepdims=True)).max(axis=1)
    threshold = float(np.median(sure))
    small = with_threshold(built["small"], tmp_path / "bundle", threshold)
    with Bundle.open(built["large"]) as bundle:
        large = session_of(bundle.read("models/onnx-float32.onnx")).run(None, {"input": x})[0]
    with running_hub(tmp_path / "hub") as hub:
        hub.publish(built["large"])
        with device(tmp_path / "agent", hub, small, "deadline_ms = 2000") as agent:
            unsure = int(sure.argmin())
            eventually(lambda: infer(agent, x[unsure][None])[1].startswith("large"))
            for i in range(len(x)):
                found, place = infer(agent, x[i][None])
                if sure[i] >= threshold:
                    assert place == "device"
                    assert (found == scores[i]).all()
                else:
                    assert place == f"large@{hub.address}"
                    assert np.allclose(found, large[i], atol=1e-4)
            hub.process.kill()
            found, place = infer(agent, x[unsure][None])
            assert (found == scores[unsure]).all(), "the small model's answer is kept"
            assert place.startswith("device: ")
            hub.process.wait()


def test_a_head_never_meets_another_versions_tail(hub: Hub, built: dict[str, Path], tmp_path: Path) -> None:
    x, scores = canary(built["small"])
    other = with_threshold(built["small"], tmp_path / "other", 0.123)  # the same models, in a bundle that nobody published
    with device(tmp_path / "agent", hub, other, 'route = "cut-1"\ncascade = false') as agent:
        eventually(lambda: "not have this version" in agent.get("/split"))
        found, place = infer(agent, x)
        assert (found == scores).all()
        assert place == "device"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[split]\nenabled = true\n", "there is no server; name one"),
        ("[split]\nenabled = true\ndeadline = 5\n", "did you mean deadline_ms"),
        ("[split]\nsend = 'all'\n", "split.send"),
        ("[[split.tails]]\naddress = 'edge.lan'\n", "is not an address"),
        ("[[split.tails]]\naddress = ''\n", "split.tails"),
    ],
)
def test_a_wrong_config_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, text)
    assert said in sentence(command("edgeloop-agent", "check", config), 2)


def test_explain_without_an_agent_says_so(tmp_path: Path) -> None:
    config = write_config(tmp_path, "[split]\nenabled = true\n[[split.tails]]\naddress = 'http://127.0.0.1:1'\n")
    assert "does not answer" in sentence(command("edgeloop-agent", "explain", config, "--port", 1), 8)
    config = write_config(tmp_path, "")
    assert "not split here" in sentence(command("edgeloop-agent", "explain", config), 2)
