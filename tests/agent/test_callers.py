"""The local API against foreign pages, clients that drip, bodies that swell, and what clients of the protocol expect of it."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from edgeloop_agent.local_api import access
from edgeloop_agent.local_api.connection import Refusal
from edgeloop_contract.inference import decode_request
from serving import Agent, serving
from test_api import INFER, MODEL, raw

VALUES = json.dumps({"inputs": [{"name": "input", "shape": [1, 100, 6], "datatype": "INT16", "data": [0] * 600}]}).encode()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with serving(tmp_path_factory.mktemp("callers"), '[api]\nport = 0\nnames = ["pi.example"]\n') as running:
        yield running


def ask(agent: Agent, head: str, *headers: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content."""
    lines = [f"{head} HTTP/1.1", *headers, *([f"Content-Length: {len(body)}"] if body else []), "Connection: close"]
    answer = raw(agent, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    top, _, content = answer.partition(b"\r\n\r\n")
    first, *rest = top.decode().split("\r\n")
    return int(first.split()[1]), {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}, content


OURS = [
    "127.0.0.1",
    "127.0.0.1:8600",
    "localhost",
    "LOCALHOST:1",
    "[::1]:8600",
    "192.168.1.7",
    "pi.example:80",
    "Pi.Example.",
    "a.localhost",
]
THEIRS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "127.0.0.1:80.evil.example",
    "",
    "x",
    "evil@127.0.0.1",
    "pi.example.evil",
]


@pytest.mark.parametrize("host", OURS + THEIRS)
def test_only_our_own_names_are_answered(host: str, agent: Agent) -> None:
    for head, body in (("GET /metrics", b""), (f"POST {INFER}", VALUES)):
        status, _, content = ask(agent, head, f"Host: {host}", body=body)
        assert status == (200 if host in OURS else 403), (host, content)
        assert host in OURS or "names" in json.loads(content)["error"]


PAGES: dict[str, tuple[list[str], int]] = {
    "a foreign page": (["Host: localhost:8600", "Origin: https://evil.example"], 403),
    "a sandboxed page": (["Host: localhost:8600", "Origin: null"], 403),
    "another port's page": (["Host: localhost:8600", "Origin: http://localhost:3000"], 403),
    "a page of its own": (["Host: localhost:8600", "Origin: http://localhost:8600"], 200),
    "an image of a foreign page": (["Host: localhost:8600", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"], 403),
    "a link on a foreign page": (["Host: localhost:8600", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"], 200),
    "typed by a person": (["Host: localhost:8600", "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"], 200),
    "two hosts": (["Host: localhost", "Host: evil.example"], 400),
    "the same host twice": (["Host: localhost", "Host: localhost"], 400),
    "no host": ([], 400),
    "two origins": (["Host: localhost", "Origin: http://localhost", "Origin: http://evil.example"], 400),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_in_somebodys_browser(name: str, agent: Agent) -> None:
    headers, status = PAGES[name]
    for head in ("GET /metrics", "GET /v2/health/ready", "HEAD /v2"):
        assert ask(agent, head, *headers)[0] == status
    if "link" not in name and "typed" not in name:
        assert ask(agent, f"POST {INFER}", *headers, body=VALUES)[0] == status
    preflight = ask(agent, f"OPTIONS {INFER}", *headers, "Access-Control-Request-Method: POST")
    assert preflight[0] in (405, status) and not any("access-control" in k for k in preflight[1])


METHODS = {
    "GET /v2": (200, ""), "HEAD /v2": (200, ""), "PUT /v2": (405, "GET, HEAD"), "POST /metrics": (405, "GET, HEAD"),
    f"GET {INFER}": (405, "POST"), f"HEAD {INFER}": (405, "POST"), f"DELETE {INFER}": (405, "POST"), "OPTIONS /v2/health/live": (405, "GET, HEAD"),
    f"POST /v2/models/{MODEL}": (405, "GET, HEAD"), "GET /v2/repository/index": (405, "POST"), "PATCH /nowhere": (404, ""), "GET /v2/models/x/infer": (404, ""),
    "BREW /v2": (501, ""),
}  # fmt: skip


@pytest.mark.parametrize("head", METHODS)
def test_methods(head: str, agent: Agent) -> None:
    status, allow = METHODS[head]
    found, headers, content = ask(agent, head, "Host: localhost")
    assert found == status and headers.get("allow", "") == allow
    assert (content == b"") == head.startswith("HEAD") and int(headers["content-length"]) > 0
    assert headers["content-type"] == "application/json"


def test_what_kserves_client_reads(agent: Agent) -> None:
    assert json.loads(agent.get("/v2/health/live")) == {"live": True}
    assert json.loads(agent.get("/v2/health/ready")) == {"ready": True}
    assert json.loads(agent.get(f"/v2/models/{MODEL}/ready")) == {"name": MODEL, "ready": True}
    nulls = VALUES.replace(b'{"inputs"', b'{"id": null, "parameters": null, "outputs": null, "inputs"')
    assert ask(agent, f"POST {INFER}", "Host: localhost", body=nulls)[0] == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_packed_bodies(coding: str, agent: Agent) -> None:
    client = triton.InferenceServerClient(agent.address.removeprefix("http://"))
    given = triton.InferInput("input", [1, 100, 6], "INT16")
    given.set_data_from_numpy(np.zeros((1, 100, 6), np.int16))
    found = client.infer(MODEL, [given], request_compression_algorithm=coding, response_compression_algorithm=coding)
    assert np.array_equal(found.as_numpy("scores"), client.infer(MODEL, [given]).as_numpy("scores"))
    client.close()


def test_bodies_that_are_packed_badly() -> None:
    for body, coding, status in (
        (VALUES, "br", 415), (VALUES, "gzip, gzip", 415), (VALUES, "gzip", 400), (gzip.compress(VALUES)[:-3], "gzip", 400),
        (gzip.compress(VALUES) + b"x", "gzip", 400), (zlib.compress(bytes(10**6)), "deflate", 413),
    ):  # fmt: skip
        with pytest.raises(Refusal) as refused:
            access.unpacked(body, coding, 10**5)
        assert refused.value.status == status
    assert access.unpacked(gzip.compress(VALUES), "GZIP", 10**5) == VALUES and access.unpacked(VALUES, "identity", 1) == VALUES


def test_a_body_is_held_against_the_shape_before_it_is_read(agent: Agent) -> None:
    most = 64 * 64 * 600 + (64 << 10)
    status, _, content = ask(agent, f"POST {INFER}", "Host: localhost", f"Content-Length: {64 << 20}")
    assert status == 413 and f"at most {most} are read here" in json.loads(content)["error"]
    with pytest.raises(Exception, match="wants 600 values, data has 1000000"):
        decode_request(VALUES.replace(b"[" + b"0, " * 599 + b"0]", b"[" + b"0," * 999_999 + b"0]"), None)
    nested = {"inputs": [{"name": "input", "shape": [2, 3], "datatype": "INT16", "data": [[1, 2, 3], [4, 5, 6]]}]}
    assert decode_request(json.dumps(nested, indent=8).encode(), None).inputs["input"].tolist() == [[1, 2, 3], [4, 5, 6]]
    empty = {"inputs": [{"name": "input", "shape": [0, 3], "datatype": "INT16", "data": []}]}
    assert decode_request(json.dumps(empty).encode(), None).inputs["input"].shape == (0, 3)


def test_counters_are_there_before_their_first_event(tmp_path: Path) -> None:
    with serving(tmp_path) as agent:
        text = agent.get("/metrics")
        for line in (
            'edgeloop_agent_refused_total{reason="unreadable"} 0.0', 'edgeloop_agent_dropped_total{reason="queue_full"} 0.0', 'edgeloop_agent_samples_answered_total 0.0',
            'edgeloop_agent_files_total{action="kept",outcome="refused"} 0.0', 'edgeloop_agent_api_requests_total{status="503"} 0.0',
            'edgeloop_agent_inferences_skipped_total{reason="near_duplicate"} 0.0', 'edgeloop_agent_inference_duration_seconds_count{model="exercise_watch"} 0.0',
        ):  # fmt: skip
            assert re.search(re.escape(line), text), line


def test_an_answer_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    from test_variants import spoiled

    with serving(tmp_path, '[runtime]\nvariant = "onnx-float32"\n', spoiled(tmp_path, {"onnx-float32": of_nan()})) as agent:
        status, _, content = ask(agent, f"POST {INFER}", "Host: localhost", body=VALUES)
        assert status == 500 and "answered with NaN or infinity" in json.loads(content)["error"]


def of_nan() -> bytes:
    """Seven scores that are 0 / 0."""
    from onnx import TensorProto, helper, numpy_helper

    ends = [
        helper.make_tensor_value_info("x", TensorProto.INT16, [1, 100, 6]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 7]),
    ]
    zero = numpy_helper.from_array(np.zeros((1, 7), np.float32), "zero")
    sums = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("ReduceSum", ["f"], ["s"], keepdims=0),
        helper.make_node("Mul", ["s", "zero"], ["z"]), helper.make_node("Div", ["z", "zero"], ["y"]),
    ]  # fmt: skip
    made = helper.make_graph(sums, "nan", ends[:1], ends[1:], [zero])
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def drip(agent: Agent, count: int, stop: threading.Event) -> list[socket.socket]:
    """Clients that send a byte of a request every while."""
    host, port = agent.address.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(count)]
    request = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n".encode()

    def feed() -> None:
        for i in range(10**6):
            for connection in held:
                try:
                    connection.send(request[i : i + 1] or b"x")
                except OSError:
                    continue
            if stop.wait(0.2):
                return

    threading.Thread(target=feed, daemon=True).start()
    return held


def test_clients_that_drip_leave_room_and_do_not_last(tmp_path: Path) -> None:
    stop = threading.Event()
    with serving(tmp_path, "[api]\nport = 0\ntimeout_seconds = 3.0\nconnections = 8\n") as agent:
        held = drip(agent, 8, stop)
        time.sleep(0.2)
        assert json.loads(agent.get("/v2/health/ready")) == {"ready": True} and "edgeloop" in agent.get("/metrics")  # at once
        status, headers, content = ask(agent, f"POST {INFER}", "Host: localhost", body=VALUES)
        assert status == 503 and headers["retry-after"] == "1" and "try again later" in json.loads(content)["error"]
        time.sleep(1.2)
        for _ in range(3):  # those who let us wait longest give their places
            assert ask(agent, f"POST {INFER}", "Host: localhost", body=VALUES)[0] == 200
        start = time.monotonic()
        for connection in held:  # the others are ended by their deadline, though a byte came every while
            connection.settimeout(10)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(100) == b""
            connection.close()
        assert time.monotonic() - start < 5
        stop.set()


def test_large_bodies_side_by_side_stay_within_their_room(tmp_path: Path) -> None:
    """Each is as large as the shape allows; several of them wait for each other."""
    with serving(tmp_path, "[api]\nport = 0\nmax_batch = 4096\nmax_body_bytes = 30000000\n") as agent:
        rows = 4000
        body = (
            b'{"inputs": [{"name": "input", "shape": [%d, 100, 6], "datatype": "INT16", "data": [' % (rows + 1000)
            + b"1.5," * (rows * 600)
            + b"1]}]}"
        )
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(ask(agent, f"POST {INFER}", "Host: localhost", body=body)[0]))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found) <= {400, 503} and 400 in found
        status = Path(f"/proc/{agent.worker()}/status").read_text()
        peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])
        assert peak < 450_000, peak
        assert json.loads(agent.get("/v2/health/ready"))["ready"]
