"""From the device's answers to the labelling queue: real agents, a real hub, through commands and HTTP."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import HERE
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


def settings(hub: Hub, samples: str = 'send = "samples"\nrandom_share = 0.05\nper_hour = 100000') -> str:
    return (
        '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n'
        f'[updates]\nhub = "{hub.address}"\npoll_seconds = 0.4\n[samples]\n{samples}\n'
    )


def device(hub: Hub, folder: Path, name: str, text: str) -> None:
    (folder / "in").mkdir(parents=True)
    hub.enrol(write_config(folder, text, BUNDLE), name)


def recording(turned: bool = False, times: int = 1) -> str:
    values = np.loadtxt(RECORDING, delimiter=",", skiprows=1)
    if turned:
        values = values[:, [1, 2, 0, 4, 5, 3]]
    file = io.StringIO()
    np.savetxt(file, np.concatenate([values] * times), delimiter=",", fmt="%.6g")
    return file.getvalue()


def test_a_turned_sensor_is_noticed_and_its_samples_reach_the_queue(hub: Hub, tmp_path: Path) -> None:
    text = settings(hub)
    device(hub, tmp_path, "turned", text)
    with serving(tmp_path, text, BUNDLE) as agent:
        for i in range(4):
            (tmp_path / "in" / f"{i}.csv").write_text(recording(turned=True))
        eventually(lambda: "what=" in agent.log and " drift " in agent.log)
        eventually(lambda: hub.get("/api/v1/queue?model=exercise_watch"))
        assert agent.metric("edgeloop_drift_alarms_total") == 1
        assert agent.metric("edgeloop_kept_total") >= 2
        told = eventually(lambda: next((d for d in drift_of(hub)["devices"] if d["device"] == "turned" and d["drifting"]), None))
        assert told["cause"] in ("miswired", "population") and told["since"] <= time.time()
        eventually(lambda: any(e["kind"] == "drift" and e["source"] == "turned" for e in hub.get("/api/v1/events?limit=100")))
    first = hub.get("/api/v1/queue?model=exercise_watch")[0]
    values = np.load(io.BytesIO(hub.http.raw(f"/api/v1/samples/{first['device']}/{first['key']}/values")))
    assert values.shape == (100, 6) and values.dtype == np.int16
    assert first["guess"] in LABELS and first["kind"] in ("uncertain", "drifted")
    settled = hub.post("/api/v1/labels", {"who": "anna", "labels": [{"device": "turned", "key": first["key"], "label": "ROW"}]})
    assert settled["settled"] == first["alike"]
    assert first["key"] not in {s["key"] for s in hub.get("/api/v1/queue?model=exercise_watch&who=anna")}
    assert [s["label"] for s in hub.get("/api/v1/samples?which=labelled")] == ["ROW"] * settled["settled"]


def drift_of(hub: Hub) -> Any:
    return hub.get("/api/v1/drift?model=exercise_watch")
