"""Answers of the hub: one form of error a room, one content type each, and a document that says what may come."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient

from edgeloop_hub import health
from edgeloop_hub.app import SECURITY_HEADERS, build
from edgeloop_hub.auth import accounts
from edgeloop_hub.rollouts import service
from edgeloop_hub.updates import registry, uploads
from edgeloop_pipeline.fleet import tuf_keys as workstation
from hub_parts import Parts, parts
from hubs import version

pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.base_exceptions.LitestarDeprecationWarning")
logging.getLogger("httpx").setLevel(logging.WARNING)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def client(hub: Parts) -> Iterator[TestClient[Any]]:
    with TestClient(build(hub.hub), raise_server_exceptions=False) as found:
        yield found


@pytest.fixture(scope="module")
def token(hub: Parts) -> dict[str, str]:
    with hub.hub.database.writing() as database:
        return {"Authorization": f"Bearer {accounts.make_token(database, 'api', 'tests', [], None)}"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/x", 401), ("POST", "/v2/models/x/infer", 401), ("GET", "/v2/nothing", 404), ("PUT", "/v2/models/x", 405),
        ("GET", "/v2/models/x/stats", 401),
    ],
)  # fmt: skip
def test_tails_answer_errors_as_the_protocol_has_them(client: TestClient[Any], method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status and list(answer.json()) == ["error"] and answer.json()["error"]
    if status == 405:
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"inputs": []}', b"\xff", b'{"inputs": 5}'])
def test_tails_answer_wrong_bodies_so_too(client: TestClient[Any], token: dict[str, str], body: bytes) -> None:
    answer = client.post("/v2/models/x/infer", content=body, headers=token)
    assert answer.status_code in (400, 404) and list(answer.json()) == ["error"]
    assert client.get("/v2/models/x.y.z/ready", headers=token).json()["error"]
    assert client.get("/v2/health/live").json() == {"live": True} and client.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize(
    ("path", "status"), [("/api/v1/devices", 401), ("/nothing", 404), ("/api/v1/rollouts/5", 400), ("/api/v1/rollouts/x", 404)]
)
def test_the_others_answer_errors_in_their_form(client: TestClient[Any], token: dict[str, str], path: str, status: int) -> None:
    answer = client.get(path, headers={} if status == 401 else token)
    assert answer.status_code == status and answer.json()["status_code"] == status and answer.json()["detail"]


def test_a_mistake_of_the_hub_has_the_form_of_its_room(
    client: TestClient[Any], token: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "summaries", lambda _: 1 / 0)
    answer = client.get("/api/v1/rollouts", headers=token)
    assert answer.status_code == 500 and answer.json() == {
        "status_code": 500,
        "detail": "the hub made a mistake; its log says which",
    }


def test_every_answer_has_one_content_type_and_says_what_browsers_may_not_do(
    client: TestClient[Any], token: dict[str, str]
) -> None:
    document = client.get("/schema/openapi.json").json()
    paths = [path for path, operations in document["paths"].items() if "get" in operations]
    for path in [
        *paths,
        "/",
        "/sign-in",
        "/style.css",
        "/keys.js",
        "/nothing",
        "/schema/openapi.json",
        "/tuf/metadata/timestamp.json",
        "/api/v1/labelled?model=m",
    ]:
        for headers in ({}, token):
            answer = client.get(path.replace("{", "").replace("}", ""), headers=headers, follow_redirects=False)
            names = [name.lower() for name, _ in answer.headers.multi_items()]
            assert len(names) == len(set(names)), (path, names)
            assert all(name.lower() in names for name in SECURITY_HEADERS), path


def test_the_document_says_what_may_come(client: TestClient[Any]) -> None:
    document = client.get("/schema/openapi.json").json()
    free = {"/healthz", "/v2", "/v2/health/live", "/v2/health/ready"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            said = set(operation["responses"])
            assert path in free or "401" in said, (method, path)
            assert "{" not in path or "404" in said, (method, path)
            assert method not in ("post", "put") or {"400", "413"} <= said, (method, path)


def test_what_the_document_says_of_names_is_what_every_language_reads(hub: Parts, client: TestClient[Any]) -> None:
    """ECMA-262 has no \\Z; Python's $ is not the end."""
    import re

    patterns: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            patterns.update([value["pattern"]] if isinstance(value.get("pattern"), str) else [])
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            collect(each)

    collect(client.get("/schema/openapi.json").json())
    assert len(patterns) >= 3
    for pattern in patterns:
        assert r"\Z" not in pattern and pattern.startswith("^") and pattern.endswith("$")
        assert not any(re.search(pattern, text + "\n") for text in ("pi-1", "a" * 64, "x.edgeloop", "pause")), pattern
    assert Path(hub.hub.settings.data).exists()


def test_nobody_waits_for_a_bundle_that_is_put_together(
    hub: Parts, client: TestClient[Any], token: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write meanwhile: parts and the check of a bundle are no part of a transaction."""
    path = version(tmp_path, 5)
    name, target = workstation.target_of(path, "stable")
    sha256, content, written = target.hashes["sha256"], path.read_bytes(), []

    def write(*_: Any) -> None:
        with hub.hub.database.writing() as database:
            health.keep(database, "written", 1.0, {})
            written.append(1)

    summarize, put = registry.summary_of, hub.hub.blobs.put
    monkeypatch.setattr(registry, "summary_of", lambda bundle: (write(), summarize(bundle))[1])
    monkeypatch.setattr(type(hub.hub.blobs), "put", lambda _, *words: (write(), put(*words))[1])
    half = len(content) // 2
    for begins, part in ((0, content[:half]), (0, content[:half]), (half, content[half:])):
        answer = client.put(f"/api/v1/uploads/{sha256}/{begins}", content=part, headers=token)
        assert answer.status_code == 200, answer.text
    told = client.get("/api/v1/signed", headers=token).json()
    targets = workstation.current_targets(hub.keys, told["targets"])
    targets.targets, targets.version = {name: target}, targets.version + 1
    body = workstation.signed_targets(hub.keys, targets).decode()
    assert client.post("/api/v1/signed", json={"targets": body}, headers=token).status_code == 200
    assert len(written) == 3
    assert [row["target"] for row in client.get("/api/v1/bundles", headers=token).json()] == [name]
    with hub.hub.database.reading() as database:
        assert uploads.received(database, sha256) == 0  # its parts are gone
    again = client.post("/api/v1/signed", json={"targets": body}, headers=token)
    assert again.status_code == 400 and "the hub has" in again.json()["detail"]
