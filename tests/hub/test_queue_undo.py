"""Undo in the queue: an answer that is taken back leaves nothing behind, for the sample, for those alike, for its recording."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asking import bring, enrolled, sample
from hubs import Hub, running_hub

Asked = Callable[..., str]
LIKE = {"features": [0.0, 1.0, 2.0]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Asked, str]]:
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        secret = enrolled(hub, "pi-1")
        yield hub, hub.signed_in("ada"), secret


def open_keys(hub: Hub) -> set[str]:
    return {s["key"] for s in hub.get("/api/v1/samples?which=open")}


def fields(page: str, action: str) -> dict[str, str]:
    inside = page.split(f'action="{action}"', 1)[1].split("</form>", 1)[0]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', inside))


@pytest.mark.parametrize(
    "answer", [{"label": "walk"}, {"label": "walk", "whole": "on"}, {"label": ""}], ids=["label", "whole", "skip"]
)
def test_an_answer_is_taken_back(running: tuple[Hub, Asked, str], answer: dict[str, str], request: Any) -> None:
    hub, ask, secret = running
    name = request.node.callspec.id
    rows = [
        sample(f"{name}-{i:08}", recording=f"r-{name}", guess="walk", confidence=0.6, window=i, **(LIKE if i < 2 else {}))
        for i in range(3)
    ]
    assert bring(hub, secret, *rows).status == 200
    before = open_keys(hub)
    csrf = fields(ask("/queue"), "/queue")["csrf"]
    page = ask("/queue", csrf=csrf, device="pi-1", key=f"{name}-{0:08}", **answer)
    undo = fields(page, "/queue/undo")
    assert undo["key"] == f"{name}-{0:08}"
    if answer["label"]:
        assert len(before - open_keys(hub)) == {"label": 2, "whole": 3}[name], "the sample, those alike, those of the recording"
    again = ask("/queue/undo", **undo)
    assert f'value="{name}-{0:08}"' in again, "the sample is asked about again"
    assert open_keys(hub) == before
    assert hub.get("/api/v1/recordings?model=m") == []
    assert re.search(r"0 of \d+ samples are settled; you answered 0", again)


def test_what_another_person_said_stays(running: tuple[Hub, Asked, str]) -> None:
    hub, ask, secret = running
    assert bring(hub, secret, sample("shared-00001", recording="")).status == 200
    hub.post("/api/v1/labels", {"who": "bea", "labels": [{"device": "pi-1", "key": "shared-00001", "label": "run"}]})
    csrf = fields(ask("/queue"), "/queue")["csrf"]
    undo = fields(ask("/queue", csrf=csrf, device="pi-1", key="shared-00001", label="run"), "/queue/undo")
    ask("/queue/undo", **undo)
    mine = next(s for s in hub.get("/api/v1/samples?which=labelled") if s["key"] == "shared-00001")
    assert mine["people"] == ["bea"] and mine["label"] == "run"
