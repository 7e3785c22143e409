"""A hub, a workstation and an agent: a new version comes to a device as a delta, also over a stick and after a restore."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import command
from hubs import running_hub, version
from serving import eventually, serving, write_config


@pytest.mark.long
def test_a_new_version_comes_as_a_delta(tmp_path: Path) -> None:
    with running_hub(tmp_path / "hub") as hub:
        text = f'[updates]\nhub = "{hub.address}"\npoll_seconds = 0.4\nhealth_seconds = 0.5\n'
        hub.enrol(write_config(tmp_path, text), "pi-3")
        with serving(tmp_path, text) as agent:
            eventually(lambda: hub.get("/api/v1/devices")[0]["version"] == 1)
            for number in (2, 3, 4):
                target = hub.publish(version(tmp_path, number))
                hub.edgeloop(
                    "rollout", "start", target, "--steps", "pi-3, 100%", "--soak-minutes", "0.001", "--gate", "min_reported=0"
                )
                eventually(lambda n=number: f"update committed target=exercise_watch-{n}" in agent.log.replace('"', ""))
                eventually(lambda n=number: hub.get("/api/v1/devices")[0]["version"] == n)
                eventually(lambda: "done" in hub.run("tick") or hub.get("/api/v1/rollouts")[0]["state"] != "running")
        installed = [e["text"] for e in hub.get("/api/v1/events") if e["kind"] == "installed"]
        assert ["by a delta" in text for text in reversed(installed)] == [False, True, True]
        said = hub.edgeloop("export-updates", tmp_path / "stick")
        assert "4 files" in said  # three versions, and the newest one's delta
        assert len(list((tmp_path / "stick" / "targets").glob("*.delta"))) == 1
        hub.run("backup", tmp_path / "kept.tar.gz")
        hub.edgeloop("withdraw", target)
        assert ".delta" not in hub.get("/api/v1/signed")["targets"]
    restored = command("edgeloop-hub", "--data", tmp_path / "new", "restore", tmp_path / "kept.tar.gz")
    assert restored.returncode == 0, restored.stderr
    digest = next((tmp_path / "stick" / "targets").glob("*.delta")).name.partition(".")[0]
    assert list((tmp_path / "new").rglob(digest)), "the delta's bytes are kept too"
