"""Upgrades in any order: today's bundles, state folders and messages with the last agent of schema 1, and its with today's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest

from commands import HERE, command, sentence
from edgeloop_contract import archive
from edgeloop_contract.archive import Bundle
from edgeloop_contract.manifest import SCHEMA, Manifest
from edgeloop_contract.messages import READS_HEADER, Assignment, Heartbeat, Report, encode
from hubs import Hub, running_hub
from serving import GOLDEN, RECORDING

REPOSITORY = HERE.parent
SCHEMA_1 = ("log", "-1", "--format=%H^", "-SSCHEMA = 1", "--", "contract/edgeloop_contract/manifest.py")


def git(*words: str) -> bytes:
    return subprocess.run(("git", "-C", str(REPOSITORY), *words), capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def last_of_schema_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contract and the agent as they were at the last commit that read schema 1 alone."""
    folder = tmp_path_factory.mktemp("schema-1")
    try:
        commit = git(*SCHEMA_1).decode().strip()
        packed = git("archive", commit, "contract", "device_agent", "exporters", "hub")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the repository's history is not here: clone it whole")
    subprocess.run(("tar", "-x", "-C", str(folder)), input=packed, check=True)
    return folder


AGENT = "import sys; from edgeloop_agent.cli import main; sys.exit(main())"
HUB = "import sys; from edgeloop_hub.cli import run_command; sys.exit(run_command())"


def earlier(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command of the earlier agent, or with -c a program on the earlier packages."""
    full = words if words[0] == "-c" else ("-c", AGENT, *words)
    paths = os.pathsep.join(str(folder / part) for part in ("contract", "device_agent", "exporters", "hub"))
    return subprocess.run(
        [sys.executable, *map(str, full)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def rewritten(path: Path, **changes: Any) -> Manifest:
    """The golden bundle, written by today's code with changes."""
    with Bundle.open(GOLDEN) as bundle:
        manifest = msgspec.structs.replace(bundle.manifest, **changes)
        archive.write(path, manifest, {name: bundle.read(name) for name in manifest.files})
    with Bundle.open(path) as bundle:
        return bundle.manifest


def test_a_bundle_that_needs_nothing_new_runs_on_the_earlier_agent(last_of_schema_1: Path, tmp_path: Path) -> None:
    assert rewritten(tmp_path / "same.edgeloop", version=7).schema == 1
    told = earlier(last_of_schema_1, "run", tmp_path / "same.edgeloop", "--source", RECORDING, "--state", tmp_path / "s")
    here = command("edgeloop-agent", "run", tmp_path / "same.edgeloop", "--source", RECORDING, "--state", tmp_path / "t")
    assert told.returncode == here.returncode == 0, told.stderr
    assert answers(told.stdout) == answers(here.stdout) and answers(here.stdout)


def answers(text: str) -> list[dict[str, Any]]:
    """Lines without what differs from run to run."""
    rows = [msgspec.json.decode(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if k != "milliseconds"} for row in rows]


def test_a_bundle_of_the_new_schema_is_refused_there_in_one_sentence(last_of_schema_1: Path, tmp_path: Path) -> None:
    manifest = rewritten(tmp_path / "new.edgeloop", provenance=None)
    assert (manifest.schema, manifest.requires) == (2, ["unknown origin"])
    told = earlier(last_of_schema_1, "inspect", tmp_path / "new.edgeloop")
    assert "manifest schema 2; this edgeloop reads 1: update edgeloop here" in sentence(told, 5)
    told = earlier(last_of_schema_1, "run", tmp_path / "new.edgeloop", "--source", RECORDING, "--state", tmp_path / "s")
    assert "update edgeloop here" in sentence(told, 5)


def test_state_folders_serve_both(last_of_schema_1: Path, tmp_path: Path) -> None:
    """Upgraded, rolled back and upgraded again, with one state folder."""
    lines = []
    for run in (earlier, None, earlier, None):
        words = ("run", GOLDEN, "--source", RECORDING, "--state", tmp_path / "s")
        done = command("edgeloop-agent", *words) if run is None else run(last_of_schema_1, *words)
        assert done.returncode == 0 and "cannot be read" not in done.stderr, done.stderr
        lines.append(answers(done.stdout))
    assert all(each == lines[0] for each in lines)


READ = (
    "import sys; from edgeloop_contract import messages as m; print(m.decode(sys.argv[1].encode(), getattr(m, sys.argv[2]), 'x'))"
)


def test_messages_go_both_ways(last_of_schema_1: Path) -> None:
    beat = Heartbeat(model="m", version=3, reads=SCHEMA)
    for message in (Report(key="0123456789", at=1.0, heartbeat=beat), Assignment(needs_upgrade="m-4.edgeloop")):
        told = earlier(last_of_schema_1, "-c", READ, encode(message).decode(), type(message).__name__)
        assert told.returncode == 0, told.stderr
    old = earlier(
        last_of_schema_1, "-c", "from edgeloop_contract.messages import *; print(encode(Heartbeat(model='m', version=3)).decode())"
    )
    assert msgspec.json.decode(old.stdout, type=Heartbeat) == Heartbeat(model="m", version=3)


def test_a_hubs_database_serves_both(last_of_schema_1: Path, tmp_path: Path) -> None:
    for number in range(2):  # upgraded, rolled back, and upgraded again
        words = ("--data", tmp_path / "data", "token", "enrol")
        told = earlier(last_of_schema_1, "-c", HUB, *words, f"old-{number}")
        here = command("edgeloop-hub", *words, f"new-{number}")
        assert told.returncode == here.returncode == 0 and told.stdout.strip() and here.stdout.strip(), told.stderr + here.stderr


def enrolled(hub: Hub, name: str, reads: int) -> dict[str, str]:
    """A device that runs version 1: the headers of its polls."""
    credential = hub.post("/api/v1/enrol", {"token": hub.run("token", "enrol", name), "device": name})["credential"]
    headers = {"Authorization": f"Bearer {credential}", "Content-Type": "application/json"}
    beat = Heartbeat(model="exercise_watch", version=1, reads=reads)
    report = encode(Report(key=f"report-{name}", at=time.time(), heartbeat=beat))
    urllib.request.urlopen(urllib.request.Request(f"{hub.address}/api/v1/report", report, headers), timeout=20).close()
    return headers


def polled(hub: Hub, headers: dict[str, str], reads: int) -> Assignment:
    asked = urllib.request.Request(
        f"{hub.address}/api/v1/update", headers={**headers, **({READS_HEADER: str(reads)} if reads > 1 else {})}
    )
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return msgspec.json.decode(answer.read(), type=Assignment)


def test_the_hub_offers_a_bundle_to_those_that_read_it(tmp_path: Path) -> None:
    rewritten(tmp_path / "exercise_watch-2.edgeloop", version=2, provenance=None)
    with running_hub(tmp_path / "hub") as hub:
        old, new = enrolled(hub, "pi-old", 1), enrolled(hub, "pi-new", 2)
        target = hub.publish(tmp_path / "exercise_watch-2.edgeloop")
        hub.edgeloop("rollout", "start", target, "--steps", "100%")
        assert polled(hub, new, 2).target == target
        waits = polled(hub, old, 1)
        assert (waits.target, waits.needs_upgrade) == ("", target)
        shown = hub.edgeloop("rollout", "status", "1")
        assert "1 devices in the cohort" in shown and "1 devices wait for an upgrade of their agent" in shown
        assert polled(hub, old, 2).target == target  # its agent was upgraded; it need not report first
