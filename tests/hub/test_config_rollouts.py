"""A hub and an agent: a config comes by a rollout, is checked by the device's own loader, tried, kept or given back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import edgeloop_here, sentence
from hubs import Hub, running_hub
from matrix import cases
from serving import GOLDEN, RECORDING, eventually, serving, write_config

WINDOWS = 48


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


def text_for(hub: Hub, name: str, source: str = 'kind = "watch"\nwhere = "in"\npoll_seconds = 0.1', more: str = "") -> str:
    updates = f'[updates]\nhub = "{hub.address}"\nconfig = "{name}"\npoll_seconds = 0.4\nhealth_seconds = 1.0\n'
    return f"[source]\n{source}\n[limits]\nrestart_seconds = 0.1\n{updates}{more}"


def written(folder: Path, text: str, *bundles: Path) -> Path:
    """A config to publish, beside the device's own."""
    folder.mkdir(exist_ok=True)
    return write_config(folder, text, *bundles).rename(folder / "new.toml")


def roll_out(hub: Hub, file: Path, name: str, device: str) -> str:
    target = hub.edgeloop("publish", file, "--config", name).split(":")[0]
    said = hub.edgeloop("rollout", "start", target, "--steps", f"{device}, 100%", "--soak-minutes", "0.001")
    return said.split()[1]


def test_a_config_is_taken_and_kept_after_its_trial(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "other").mkdir()
    text = text_for(hub, "kitchen")
    hub.enrol(write_config(tmp_path, text), "pi-1")
    new = text_for(hub, "kitchen", 'kind = "watch"\nwhere = "other"\npoll_seconds = 0.1')
    with serving(tmp_path, text) as agent:
        eventually(lambda: hub.get("/api/v1/devices")[0]["others"])
        number = roll_out(hub, written(tmp_path / "p", new), "kitchen", "pi-1")
        eventually(lambda: "config committed" in agent.log)
        shutil.copy(RECORDING, tmp_path / "other" / "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)  # its relative paths are the device's
        other = hub.get("/api/v1/devices")[0]["others"][0]
        assert (other["model"], other["version"]) == ("config:kitchen", 1)
        assert "0 failed" in hub.edgeloop("rollout", "status", number)
    with serving(tmp_path, text) as agent:  # a new start
        shutil.copy(RECORDING, tmp_path / "other" / "b.csv")
        eventually(lambda: len(agent.lines) >= 2 * WINDOWS)
        assert "config rolled back" not in agent.log
        eventually(lambda: hub.run("tick") is not None and "done" in hub.edgeloop("rollout", "status", number))
        back = hub.edgeloop("publish", "--config", "kitchen", "--shipped").split(":")[0]
        hub.edgeloop("rollout", "start", back, "--steps", "100%")
        eventually(lambda: "config committed" in agent.log)
        shutil.copy(RECORDING, tmp_path / "in" / "c.csv")
        eventually(lambda: len(agent.lines) >= 3 * WINDOWS)  # its own folder again
        eventually(lambda: hub.get("/api/v1/devices")[0]["others"][0]["version"] == 2)
        # The last one is told by the report after it.
        eventually(lambda: told(hub) == ["committed", "committed", "installed", "installed"])


def told(hub: Hub) -> list[str]:
    """What the device did with configs."""
    return sorted(e["kind"] for e in hub.get("/api/v1/events") if e["source"] == "pi-1" and "config" in e["target"])


def test_a_way_back_is_published_where_there_is_one(hub: Hub, tmp_path: Path) -> None:
    for words, says in (
        (("--shipped",), "give --agent NAME or --config NAME"),
        ((GOLDEN, "--agent", "pi", "--shipped"), "devices have it already"),
        (("--agent", "nobody", "--shipped"), "nothing is published under this name"),
        (("--agent", "No Name", "--shipped"), "names no agent"),
        ((), "name a bundle, a config or a wheelhouse"),
    ):
        where = ("--hub", hub.address, "--keys", hub.folder / "keys")
        assert says in sentence(edgeloop_here("publish", *words, *where, EDGELOOP_HUB_TOKEN=hub.token), 2)


REFUSED = {  # more of the config, its bundle, what is said
    "a file that is not there": (
        '[output]\nkind = "http"\nwhere = "https://example.org"\ntoken_file = "t"\n',
        GOLDEN,
        "t cannot be read",
    ),
    "a bundle that is not there": ("", Path("missing.edgeloop"), "missing.edgeloop"),
    "tracks of a model without boxes": ("[tracking]\nenabled = true\n", GOLDEN, "boxes"),
}


@pytest.mark.parametrize("what", cases(REFUSED, ["tracks of a model without boxes"]))
def test_a_config_that_the_device_cannot_run_is_refused_with_its_sentence(what: str, hub: Hub, tmp_path: Path) -> None:
    name = re.sub("[^a-z]+", "-", what)[:30]
    more, bundle, says = REFUSED[what]
    (tmp_path / "in").mkdir()
    text = text_for(hub, name)
    hub.enrol(write_config(tmp_path, text), name)
    new = text_for(hub, name, more=more)
    with serving(tmp_path, text) as agent:
        eventually(lambda: any(d["others"] for d in hub.get("/api/v1/devices") if d["name"] == name))
        number = roll_out(hub, written(tmp_path / "p", new, bundle), name, name)
        eventually(lambda: "1 failed" in hub.edgeloop("rollout", "status", number))
        failed = [e["text"] for e in hub.get("/api/v1/events") if e["source"] == name and e["kind"] == "failed"]
        assert len(failed) == 1 and says in failed[0]
        assert agent.log.count(" ready ") == 1  # the worker never stopped


@pytest.mark.long
def test_a_config_under_which_the_source_is_gone_is_given_back(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = text_for(hub, "garden")
    hub.enrol(write_config(tmp_path, text), "garden-1")
    new = text_for(hub, "garden", 'kind = "lines"\nwhere = "/dev/no-such-port"\npoll_seconds = 0.1')
    with serving(tmp_path, text) as agent:
        eventually(lambda: any(d["others"] for d in hub.get("/api/v1/devices") if d["name"] == "garden-1"))
        number = roll_out(hub, written(tmp_path / "p", new), "garden", "garden-1")
        eventually(lambda: "config rolled back" in agent.log and agent.log.count(" ready ") == 3)
        assert "the source is not available" in agent.log
        shutil.copy(RECORDING, tmp_path / "in" / "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)  # under the old one
        eventually(lambda: "1 failed" in hub.edgeloop("rollout", "status", number))


@pytest.mark.long
def test_a_config_under_which_the_worker_dies_is_given_back(hub: Hub, tmp_path: Path) -> None:
    """Its check passes; at work the memory that it allows does not suffice."""
    (tmp_path / "in").mkdir()
    text = text_for(hub, "attic")
    hub.enrol(write_config(tmp_path, text), "attic-1")
    new = text_for(hub, "attic", more="[thermal]\npoll_seconds = 0.1\n").replace("[limits]", "[limits]\nmemory_bytes = 1000000")
    with serving(tmp_path, text) as agent:
        eventually(lambda: any(d["others"] for d in hub.get("/api/v1/devices") if d["name"] == "attic-1"))
        roll_out(hub, written(tmp_path / "p", new.replace("health_seconds = 1.0", "health_seconds = 60.0")), "attic", "attic-1")
        eventually(lambda: "started 3 times without passing its trial" in agent.log)
        shutil.copy(RECORDING, tmp_path / "in" / "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)


WRONG = {
    "an unknown source": ('kind = "camra"', "", "unknown source 'camra'; did you mean"),
    "an unknown setting": ('kind = "none"', "[api]\nprot = 1\n", "prot"),
    "another name": ('kind = "none"', "", "updates.config"),
    "a password in an address": ('kind = "camera"\nwhere = "rtsp://ada:secret@cam/1"', "", "password"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_workstation_publishes_no_config_that_no_device_can_run(what: str, hub: Hub, tmp_path: Path) -> None:
    source, more, says = WRONG[what]
    text = text_for(hub, "other" if what == "another name" else "shed", source, more)
    error = hub.edgeloop("publish", written(tmp_path, text), "--config", "shed", code=2)
    assert says in error and "secret@" not in error
    assert not any("shed" in b["target"] for b in hub.get("/api/v1/bundles"))
