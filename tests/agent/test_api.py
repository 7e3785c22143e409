"""The local API: Triton's own client drives it unchanged; what is malformed is refused in words, and nothing stops."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import DataError
from edgeloop_contract.inference import HEADER_LENGTH, decode_request
from serving import GOLDEN, Agent, serving

MODEL = "exercise_watch"
FUZZED = 3000


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with serving(tmp_path_factory.mktemp("api"), "[cache]\nresults_bytes = 100000\n") as running:
        yield running


@pytest.fixture
def client(agent: Agent) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(agent.address.removeprefix("http://"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def canary() -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and what the same file answers in the bare runtime."""
    with Bundle.open(GOLDEN) as bundle:
        inputs = bundle.array(bundle.manifest.canary.input)
        variant = bundle.manifest.variant("tflite-int8")
        return inputs, open_runtime(variant, bundle.read(variant.file)).run(inputs)


def infer(client: triton.InferenceServerClient, values: np.ndarray, binary_in: bool = True, binary_out: bool = True) -> np.ndarray:
    given = triton.InferInput("input", list(values.shape), "INT16")
    given.set_data_from_numpy(values, binary_data=binary_in)
    wanted = [triton.InferRequestedOutput("scores", binary_data=binary_out)]
    found: np.ndarray = client.infer(MODEL, [given], outputs=wanted, request_id="7").as_numpy("scores")
    return found


def test_what_it_says_of_itself(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.get_server_metadata()["name"] == "edgeloop-agent"
    metadata = client.get_model_metadata(MODEL)
    assert metadata["inputs"] == [{"name": "input", "datatype": "INT16", "shape": [-1, 100, 6]}]
    assert client.get_model_metadata(MODEL, "1")["versions"] == ["1"]
    assert client.get_model_config(MODEL)["max_batch_size"] == 64
    assert client.get_model_repository_index()[0]["name"] == MODEL
    assert client.get_inference_statistics(MODEL)["model_stats"][0]["name"] == MODEL
    assert not client.is_model_ready("nothing") and not client.is_model_ready(MODEL, "2")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritons_client_gets_the_runtimes_scores(
    binary_in: bool, binary_out: bool, client: triton.InferenceServerClient, canary: tuple[np.ndarray, np.ndarray]
) -> None:
    inputs, scores = canary
    assert np.array_equal(infer(client, inputs, binary_in, binary_out), scores)


def test_many_clients_at_once(agent: Agent, canary: tuple[np.ndarray, np.ndarray]) -> None:
    inputs, scores = canary
    found: dict[int, np.ndarray] = {}

    def one(i: int) -> None:
        client = triton.InferenceServerClient(agent.address.removeprefix("http://"))
        found[i] = np.concatenate([infer(client, inputs[j : j + 1]) for j in range(len(inputs))])
        client.close()

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(np.array_equal(found[i], scores) for i in range(4))
    assert agent.metric("edgeloop_agent_cache_events_total") > 0


def test_equal_inputs_are_answered_from_the_cache(
    agent: Agent, client: triton.InferenceServerClient, canary: tuple[np.ndarray, np.ndarray]
) -> None:
    infer(client, canary[0][:1])
    before = agent.metric("edgeloop_agent_inference_duration_seconds_count")
    infer(client, canary[0][:1])
    assert agent.metric("edgeloop_agent_inference_duration_seconds_count") == before


REFUSED: dict[str, Any] = {
    "another type": (np.zeros((1, 100, 6), np.float32), "FP32", None),
    "another shape": (np.zeros((1, 99, 6), np.int16), "INT16", "the model takes (100, 6)"),
    "no batch": (np.zeros((0, 100, 6), np.int16), "INT16", "send 1 to 64 samples"),
    "too large a batch": (np.zeros((65, 100, 6), np.int16), "INT16", "send 1 to 64 samples"),
    "out of range": (np.full((1, 100, 6), 40000, np.int32), "INT32", "not int16 counts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tensors_that_do_not_fit(name: str, client: triton.InferenceServerClient) -> None:
    values, datatype, said = REFUSED[name]
    given = triton.InferInput("input", list(values.shape), datatype)
    given.set_data_from_numpy(values)
    if said is None:  # whole numbers in another type are still the sensor's counts
        assert client.infer(MODEL, [given]).as_numpy("scores").shape == (1, 7)
        return
    with pytest.raises(InferenceServerException, match=said.replace("(", r"\(").replace(")", r"\)")):
        client.infer(MODEL, [given])


def raw(agent: Agent, data: bytes) -> bytes:
    """What comes back for these bytes; b"" when the connection just ends."""
    host, port = agent.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            found = b""
            while part := connection.recv(65536):
                found += part
            return found
        except OSError:
            return b""


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


INFER = f"/v2/models/{MODEL}/infer"
MALFORMED: dict[str, tuple[bytes, int]] = {
    "not HTTP": (b"\x00\x01\x02\r\n\r\n", 400),
    "an unknown method": (b"BREW /v2 HTTP/1.1\r\n\r\n", 501),
    "nowhere": (b"GET /etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    "up and out": (b"GET /v2/models/..%2f..%2fetc HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    "not JSON": (post(INFER, b"{"), 400),
    "no inputs": (post(INFER, b'{"inputs": []}'), 400),
    "deep nesting": (post(INFER, b'{"inputs": ' + b"[" * 20000), 400),
    "a header that is too long": (post(INFER, b"{}", f"{HEADER_LENGTH}: 99"), 400),
    "a header that is not a number": (post(INFER, b"{}", f"{HEADER_LENGTH}: x"), 400),
    "a body that is too large": (f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n".encode(), 413),
    "a length that is not a number": (f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".encode(), 411),
    "chunked": (f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(), 411),
    "a shape that overflows": (
        post(INFER, b'{"inputs": [{"name": "input", "shape": [9223372036854775807, 100, 6], "datatype": "INT16", "data": []}]}'), 400),
    "a negative shape": (post(INFER, b'{"inputs": [{"name": "input", "shape": [-1], "datatype": "INT16", "data": [1]}]}'), 400),
    "words as data": (post(INFER, b'{"inputs": [{"name": "input", "shape": [1], "datatype": "INT16", "data": ["a"]}]}'), 400),
    "another output": (
        post(INFER, json.dumps({"inputs": [{"name": "input", "shape": [1, 100, 6], "datatype": "INT16", "data": [0] * 600}],
                                "outputs": [{"name": "x"}]}).encode()), 400),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests(name: str, agent: Agent) -> None:
    data, status = MALFORMED[name]
    answer = raw(agent, data)
    assert f" {status} ".encode() in answer.partition(b"\r\n")[0] or f"Error code: {status}".encode() in answer
    assert b"Traceback" not in answer


def test_a_word_for_true_is_refused(agent: Agent) -> None:
    tensor = {"name": "input", "shape": [1, 100, 6], "datatype": "INT16", "data": [0] * 600}
    for boxes, wanted in (("yes", b"the parameter boxes is 'yes'; send true or false"), (False, b'"outputs"')):
        answer = raw(agent, post(INFER, json.dumps({"inputs": [tensor], "parameters": {"boxes": boxes}}).encode()))
        assert answer.startswith(b"HTTP/1.1 400" if boxes else b"HTTP/1.1 200") and wanted in answer


def test_a_body_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, "[api]\nport = 0\ntimeout_seconds = 0.5\nconnections = 2\n") as agent:
        host, port = agent.address.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(2)]
        for connection in held:
            connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode())
        with socket.create_connection((host, int(port)), timeout=10) as third:  # no place is left
            third.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert third.recv(100).startswith(b"HTTP/1.1 503")
        for connection in held:
            assert connection.recv(100) == b""  # given up after half a second
            connection.close()
        assert '"edgeloop-agent"' in agent.get("/v2")


def test_fuzzed_requests_stop_nothing(agent: Agent, canary: tuple[np.ndarray, np.ndarray]) -> None:
    """Bytes turned over, cut and repeated in requests that were right. benchmarks/agent.py does it 100,000 times."""
    rng = random.Random(0)
    text = json.dumps(
        {"inputs": [{"name": "input", "shape": [1, 100, 6], "datatype": "INT16", "parameters": {"binary_data_size": 1200}}]}
    )
    right = post(INFER, text.encode() + bytes(1200), f"{HEADER_LENGTH}: {len(text)}")
    assert raw(agent, right).startswith(b"HTTP/1.1 200")
    for _ in range(FUZZED // 20):
        raw(agent, spoiled(right, rng))
    for _ in range(FUZZED):  # the same without a network between
        body = spoiled(text.encode() + bytes(1200), rng)
        try:
            decode_request(body, rng.choice([None, len(text), rng.randrange(2000)]))
        except DataError:
            continue
    client = triton.InferenceServerClient(agent.address.removeprefix("http://"))
    assert np.array_equal(infer(client, canary[0]), canary[1])
    client.close()
    assert agent.metric("edgeloop_agent_worker_restarts_total") == 0 and "level=error" not in agent.log


def spoiled(data: bytes, rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(made))
        what = rng.randrange(4)
        if what == 0:
            made[at] = rng.randrange(256)
        elif what == 1:
            del made[at : at + rng.randrange(1, 40)]
        elif what == 2:
            made[at:at] = made[at : at + rng.randrange(1, 40)]
        else:
            made[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        if not made:
            return b"\n"
    return bytes(made)


@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(-5, 400)))
def test_any_bytes_are_a_request_or_refused(body: bytes, length: int | None) -> None:
    with contextlib.suppress(DataError):
        decode_request(body, length)
