"""A hub and an agent with two bundles: each has its own rollouts, and a bad one comes back alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hubs import Hub, running_hub, version
from serving import GOLDEN, RECORDING, eventually, serving, write_config

SETTINGS = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n[limits]\nrestart_seconds = 0.1\n'


def rollout(hub: Hub, path: Path) -> str:
    target = hub.publish(path)
    return hub.edgeloop("rollout", "start", target, "--steps", "pi-2, 100%", "--soak-minutes", "0.001").split()[1]


@pytest.mark.long
def test_each_bundle_of_a_device_has_its_own_rollouts(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with running_hub(tmp_path / "hub") as hub:
        text = f'{SETTINGS}[updates]\nhub = "{hub.address}"\npoll_seconds = 0.4\nhealth_seconds = 1.0\n'
        bundles = (GOLDEN, version(tmp_path, 1, name="second"))
        hub.enrol(write_config(tmp_path, text, *bundles), "pi-2")

        def others() -> list[tuple[str, int]]:
            return [(o["model"], o["version"]) for o in hub.get("/api/v1/devices")[0]["others"]]

        with serving(tmp_path, text, *bundles) as agent:
            eventually(lambda: others() == [("second", 1)])
            good = rollout(hub, version(tmp_path, 2, name="second"))
            eventually(lambda: "update committed target=second-2" in agent.log.replace('"', ""))
            eventually(lambda: others() == [("second", 2)])
            shutil.copy(RECORDING, tmp_path / "in" / "a.csv")  # the first bundle answers on
            eventually(lambda: len(agent.lines) == 48)
            assert '"versions":["1"]' in agent.get("/v2/models/exercise_watch")
            assert '"versions":["2"]' in agent.get("/v2/models/second")
            status = hub.edgeloop("rollout", "status", good)
            assert "1 devices in the cohort" in status and "0 failed" in status
            hub.edgeloop("rollout", "abort", good)
            bad = rollout(hub, version(tmp_path, 3, name="second", spoil=True))
            first = rollout(hub, version(tmp_path, 4))  # of the first bundle, at the same time
            eventually(lambda: "update committed target=exercise_watch-4" in agent.log.replace('"', ""))
            eventually(lambda: "1 failed" in hub.edgeloop("rollout", "status", bad))
            assert "0 failed" in hub.edgeloop("rollout", "status", first)
            assert '"versions":["4"]' in agent.get("/v2/models/exercise_watch")
        with serving(tmp_path, text, *bundles) as agent:  # a new start runs what was taken of each
            eventually(lambda: '"versions":["4"]' in agent.get("/v2/models/exercise_watch"))
            assert '"versions":["2"]' in agent.get("/v2/models/second")
        kinds = [e["kind"] for e in hub.get("/api/v1/events") if e["source"] == "pi-2" and e["target"].startswith("second")]
        assert kinds.count("committed") == 1 and kinds.count("failed") == 1
