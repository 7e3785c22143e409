"""From the device's answers to the labelling queue: real agents, a real hub, through commands and HTTP."""

from __future__ import annotations

import io
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from arrived import made, stored
from commands import HERE
from edgeloop_contract.errors import NetworkError
from edgeloop_hub.samples import label_queue, labelling, sample_store
from edgeloop_hub.samples.label_queue import FIRST_CHOSEN, spread
from edgeloop_hub.storage.schema import samples
from hubs import Hub, running_hub
from serving import eventually, serving, write_config

BUNDLE = HERE / "goldens" / "v0.2" / "exercise_watch-1.edgeloop"
RECORDING = BUNDLE.parent / "recording.csv"
LABELS = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        found.publish(BUNDLE)
        yield found


def settings(hub: Hub, samples: str = 'send = "samples"\nrandom_share = 0.05\nmax_per_hour = 100000') -> str:
    return (
        '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n'
        f'[updates]\nhub = "{hub.address}"\npoll_seconds = 0.4\n[samples]\n{samples}\n'
    )


def device(hub: Hub, folder: Path, name: str, text: str) -> None:
    (folder / "in").mkdir(parents=True)
    hub.enrol(write_config(folder, text, BUNDLE), name)


def recording(turned: bool = False, times: int = 1, silent: bool = False) -> str:
    values = np.loadtxt(RECORDING, delimiter=",", skiprows=1)
    if silent:
        values = values * [1, 1, 1, 0, 0, 0]
    if turned:
        values = values[:, [1, 2, 0, 4, 5, 3]]
    file = io.StringIO()
    np.savetxt(file, np.concatenate([values] * times), delimiter=",", fmt="%.6g")
    return file.getvalue()


def test_a_turned_sensor_is_noticed_and_named(hub: Hub, tmp_path: Path) -> None:
    text = settings(hub)
    device(hub, tmp_path, "turned", text)
    with serving(tmp_path, text, BUNDLE) as agent:
        for i in range(4):
            (tmp_path / "in" / f"{i}.csv").write_text(recording(turned=True))
        eventually(lambda: "what=" in agent.log and " drift " in agent.log)
        assert agent.metric("edgeloop_agent_drift_alarms_total") == 1
        mine = eventually(lambda: [d for d in drift_of(hub)["devices"] if (d["device"], d["cause"]) == ("turned", "miswired")])
        assert mine[0]["since"] <= time.time() and mine[0]["drifting"]
        eventually(lambda: any(e["kind"] == "drift" and e["source"] == "turned" for e in hub.get("/api/v1/events?limit=100")))
        eventually(lambda: hub.get("/api/v1/samples?model=exercise_watch"))
    # A sensor to be repaired is nothing to spend labels on.
    assert not [s for s in hub.get("/api/v1/queue?model=exercise_watch") if s["device"] == "turned"]


def test_what_is_off_is_told_over_the_fleet_and_while_the_device_is_idle(tmp_path: Path) -> None:
    """The gyroscope is silent. A hub of its own: every other device and feature is one more that may be off by chance."""
    with running_hub(tmp_path / "hub") as hub:
        hub.publish(BUNDLE)
        text = settings(hub, 'send = "statistics"')
        device(hub, tmp_path, "silent", text)
        with serving(tmp_path, text, BUNDLE) as agent:
            for i in range(4):
                (tmp_path / "in" / f"{i}.csv").write_text(recording(silent=True))
            eventually(lambda: len(agent.lines) == 192)
            eventually(lambda: sum(d["samples"] for d in drift_of(hub)["devices"]) == 192)
            time.sleep(1.5)  # reports of an idle time
        told = {s["feature"] for s in drift_of(hub)["shifts"]}
    assert {f"spread of channel {channel}" for channel in (3, 4, 5)} <= told
    assert not {f"spread of channel {channel}" for channel in (0, 1, 2)} & told


def fill_queue(hub: Hub, tmp_path: Path, name: str) -> None:
    """Samples of a device of that name wait for labels."""
    text = settings(hub, 'send = "samples"\nrandom_share = 0.2\nuncertain_share = 0.2\nmax_per_hour = 100000')
    device(hub, tmp_path, name, text)
    with serving(tmp_path, text, BUNDLE) as agent:
        for i in range(3):
            (tmp_path / "in" / f"{i}.csv").write_text(recording())
        eventually(lambda: len([s for s in hub.get("/api/v1/queue?model=exercise_watch") if s["device"] == name]) >= 3)
        assert agent.metric("edgeloop_agent_outbox_rows_total") >= 3
        eventually(lambda: not list((tmp_path / "in").iterdir()) or len(agent.lines) == 144)


def test_samples_reach_the_queue_and_labels_count(hub: Hub, tmp_path: Path) -> None:
    fill_queue(hub, tmp_path, "usual")
    first, second = [s for s in hub.get("/api/v1/queue?model=exercise_watch") if s["device"] == "usual"][:2]
    values = np.load(io.BytesIO(hub.http.get_bytes(f"/api/v1/samples/{first['device']}/{first['key']}/values")))
    assert values.shape == (100, 6) and values.dtype == np.int16
    assert first["guess"] in LABELS
    settled = hub.post("/api/v1/labels", {"who": "anna", "labels": [{"device": "usual", "key": first["key"], "label": "ROW"}]})
    assert settled["settled"] == first["alike"]
    assert first["key"] not in {s["key"] for s in hub.get("/api/v1/queue?model=exercise_watch&who=anna")}
    assert [s["label"] for s in hub.get("/api/v1/samples?which=labelled") if s["device"] == "usual"] == ["ROW"] * settled["settled"]
    told = {row["key"]: row["said"] for row in hub.packed("/api/v1/labelled?model=exercise_watch") if row["device"] == "usual"}
    assert len(told) == settled["settled"] and [key for key, said in told.items() if said] == [first["key"]]
    left = hub.packed("/api/v1/unlabelled?model=exercise_watch")
    assert not {row["key"] for row in left} & set(told) and [r["at"] for r in left] == sorted((r["at"] for r in left), reverse=True)
    with pytest.raises(NetworkError, match="knows no label"):
        hub.post("/api/v1/labels", {"labels": [{"device": "usual", "key": second["key"], "label": "<b>"}]})


@pytest.mark.long
def test_recordings_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Two sensors that write left.csv and right.csv again and again. A hub of its own: every sample goes to the queue."""
    with running_hub(tmp_path / "hub") as hub:
        hub.publish(BUNDLE)
        text = settings(hub, 'send = "samples"\nrandom_share = 1.0').replace("poll_seconds", 'after = "delete"\npoll_seconds', 1)
        device(hub, tmp_path, "again", text)
        with serving(tmp_path, text, BUNDLE) as agent:
            for i, name in enumerate(("left", "right", "right", "left")):
                (tmp_path / "in" / f"{name}.csv").write_text(recording())
                eventually(lambda i=i: len(agent.lines) == 48 * (i + 1) and not list((tmp_path / "in").iterdir()))
            eventually(lambda: len({s["recording"] for s in hub.get("/api/v1/samples")}) == 4)
        kept = hub.get("/api/v1/samples")
    assert len({(s["recording"], s["window"]) for s in kept}) == len(kept)


@pytest.mark.parametrize("kind", ["csv", "label-studio"])
def test_labels_are_made_elsewhere(hub: Hub, tmp_path: Path, kind: str) -> None:
    name = f"elsewhere-{kind}"
    fill_queue(hub, tmp_path, name)
    said = hub.edgeloop("labels", "export", tmp_path / "out", "--model", "exercise_watch", "--format", kind)
    file = Path(said.split(":")[0])
    text = file.read_text()
    mine = [s for s in hub.get("/api/v1/queue?model=exercise_watch&limit=1000") if s["device"] == name]
    assert mine
    assert all((tmp_path / "out" / "media" / f"{name}-{s['key']}.csv").exists() for s in mine)
    if kind == "csv":
        lines = text.splitlines()
        file.write_text("\n".join([lines[0], *(line + "ROW" for line in lines[1:] if name in line)]))
    else:
        tasks = [t for t in json.loads(text) if t["data"]["device"] == name]
        chosen = {"from_name": "label", "to_name": "sample", "type": "choices", "value": {"choices": ["ROW"]}}
        file.write_text(json.dumps([{**t, "annotations": [{"result": [chosen]}]} for t in tasks]))
    assert f"{len(mine)} labels" in hub.edgeloop("labels", "import", file, "--who", "studio")
    assert not [s for s in hub.get("/api/v1/queue?model=exercise_watch&limit=1000") if s["device"] == name]
    labelled = [s for s in hub.get("/api/v1/samples?which=labelled") if s["device"] == name]
    assert {s["label"] for s in labelled} == {"ROW"}
    assert any("studio" in s["people"] for s in labelled)
    again = hub.edgeloop("labels", "import", file, "--who", "studio")
    assert "labels" in again
    hub.edgeloop("labels", "export", tmp_path / "all", "--model", "nothing", code=3)
    hub.edgeloop(
        "labels", "export", tmp_path / "all", "--model", "exercise_watch", "--which", "labelled", "--format", "coco", code=3
    )


def test_statistics_alone_leave_a_device_that_says_so(hub: Hub, tmp_path: Path) -> None:
    text = settings(hub, 'send = "statistics"')
    device(hub, tmp_path, "private", text)
    with serving(tmp_path, text, BUNDLE):
        (tmp_path / "in" / "a.csv").write_text(recording(turned=True))
        eventually(lambda: any(d["device"] == "private" and d["samples"] for d in drift_of(hub)["devices"]))
        eventually(lambda: any(e["source"] == "private" and e["kind"] == "drift" for e in hub.get("/api/v1/events?limit=100")))
    assert not [s for s in hub.get("/api/v1/samples?model=exercise_watch") if s["device"] == "private"]


def test_a_person_labels_on_the_page(hub: Hub, tmp_path: Path) -> None:
    fill_queue(hub, tmp_path, "looked-at")
    ask = hub.signed_in("berta")
    page = ask("/queue")
    assert "<polyline" in page and 'aria-keyshortcuts="1"' in page and "/keys.js" in page
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    before = len(hub.get("/api/v1/samples?which=labelled"))
    ask("/queue", **{k: v for k, v in fields.items() if k != "model"}, label="PEN")
    after = hub.get("/api/v1/samples?which=labelled")
    assert len(after) > before and any("berta" in s["people"] for s in after)
    assert "looked-at" in ask("/drift")
    with pytest.raises(urllib.error.HTTPError):
        ask("/queue", device=fields["device"], key=fields["key"], label="PEN", csrf="wrong")


def drift_of(hub: Hub) -> Any:
    return hub.get("/api/v1/drift?model=exercise_watch")


def test_the_queue_spreads_over_recordings_and_guesses() -> None:
    """By value they would be: three of one recording, then those of the same guess."""
    rows = [
        Row("pi-1", "a", "ROW"), Row("pi-1", "a", "ROW"), Row("pi-1", "a", "SQT"), Row("pi-1", "b", "ROW"),
        Row("pi-1", "c", "SQT"), Row("pi-2", "a", "ROW"), Row("pi-2", "", "ROW", "k1"), Row("pi-2", "", "ROW", "k2"),
    ]  # fmt: skip
    order = [rows.index(row) for row in spread(rows)]  # type: ignore[arg-type]
    assert order == [0, 4, 5, 3, 6, 7, 1, 2]


def test_one_label_serves_a_recordings_like_windows(tmp_path: Path) -> None:
    sent = [
        made("a", "one", 0.0), made("b", "one", 0.5), made("c", "two", 0.5), made("d", "one", 1.4), made("e", "one", 0.2, "SQT"),
        made("f", "two", 0.45), made("g", "one", -0.5, random=True),
    ]  # fmt: skip
    database, _ = stored(tmp_path, sent)
    with database.reading() as connection:
        heads = {row.key: row.alike for row in connection.execute(select(samples.c.key, samples.c.alike))}
    groups = {key[4]: head.split("/")[1][4] for key, head in heads.items()}
    assert groups == {"a": "a", "b": "a", "c": "c", "d": "d", "e": "e", "f": "c", "g": "g"}


def test_more_of_the_queue_is_drawn_at_random_once_much_is_labelled(tmp_path: Path) -> None:
    sent = [made(f"{i:03}", f"r{i}", 10.0 * i, random=i >= 60) for i in range(120)]
    database, settings = stored(tmp_path, sent)
    with database.writing() as connection:
        first = label_queue.waiting(connection, "m", "anna", FIRST_CHOSEN)
        assert [row.random for row in first[:5]] == [0, 0, 1, 0, 0] and sum(row.random for row in first) == FIRST_CHOSEN / 5
        for row in first:
            labelling.label(connection, row.device, row.key, "anna", "ROW", settings)
        later = label_queue.waiting(connection, "m", "anna", 20)
        assert [row.random for row in later] == [0, 1] * 10
        drawn = [row.key for row in label_queue.waiting(connection, "m", "anna", 1000) if row.random]
        assert drawn != sorted(drawn), "of all times, not the oldest first"
        assert drawn == [row.key for row in label_queue.waiting(connection, "m", "berta", 1000) if row.random]
        assert len(label_queue.waiting(connection, "m", "anna", 1000)) == 120 - FIRST_CHOSEN


@pytest.mark.parametrize(("most_bytes", "pages"), [(1, 5), (10**9, 1)])
def test_a_page_of_samples_is_bounded_in_bytes_and_nothing_is_left_out(
    most_bytes: int, pages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, _ = stored(tmp_path, [made(f"{i:03}", f"r{i}", 10.0 * i) for i in range(5)])
    monkeypatch.setattr(sample_store, "PAGE_BYTES", most_bytes)
    before, found = (float("inf"), "", ""), []
    with database.reading() as connection:
        while page := sample_store.open_before(connection, "m", before, 100):
            found.append([row.key for row in page])
            before = (page[-1].at, page[-1].device, page[-1].key)
    assert len(found) == pages
    assert len({key for page in found for key in page}) == sum(map(len, found)) == 5


@dataclass(eq=False)
class Row:
    device: str
    recording: str
    guess: str
    key: str = "k"
