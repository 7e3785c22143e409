"""Offloading when something is wrong: servers that go, answer nonsense or have another version; configs."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from commands import command, sentence
from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract import archive, inference
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from hubs import Hub, running_hub
from matrix import cases
from offloading import canary, device, infer
from serving import eventually, serving, write_config


@pytest.mark.long
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
