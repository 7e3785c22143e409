"""The agent with few open files, little memory, without /proc, with a strict umask, without rights, and with a clock at 1970."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from commands import BIN, HERE, command, sentence
from edgeloop_contract import archive
from edgeloop_contract.archive import Bundle
from hubs import running_hub
from places import MOUNTS, in_namespaces, no_zone, wrong_clock
from programs import needs
from service import QUICK, WATCH, WINDOWS, arrive
from serving import eventually, serving, write_config

DRIFTS = HERE / "goldens" / "v0.2" / "exercise_watch-1.edgeloop"
HUB = '[updates]\nhub = "http://127.0.0.1:9"\npoll_seconds = 1\n[samples]\nsend = "samples"\nrandom_share = 1.0\n'
PLACES = {
    "open files": ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh"),
    "memory": ("sh", "-c", 'ulimit -v 1200000; exec "$@"', "sh"),
    "umask": ("sh", "-c", 'umask 077; exec "$@"', "sh"),
    "no /proc": (*MOUNTS, 'mount -t tmpfs none /proc; exec "$@"', "sh"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(name, marks=in_namespaces if "unshare" in PLACES[name] else ()) for name in PLACES])
def test_a_strict_place(name: str, inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH + QUICK + HUB, DRIFTS, inside=PLACES[name]) as agent:
        arrive(inbox, "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS and 'updates result="' in agent.log)
        assert agent.metric("edgeloop_agent_samples_answered_total") == WINDOWS
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0 and "Traceback" not in agent.log
        assert agent.log.count("memory_bytes is not watched") == (name == "no /proc")


@pytest.mark.long
@pytest.mark.parametrize("files", [64, 40])
def test_callers_take_no_files_from_the_source(files: int, inbox: Path, tmp_path: Path) -> None:
    """A hundred connections, and a low limit of open files: the source is read, and the agent does not run in circles."""
    with serving(tmp_path, WATCH + QUICK + HUB, DRIFTS, inside=("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")) as agent:
        arrive(inbox, "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)
        assert "fewer connections to the API" in agent.log
        port, used = int(agent.address.rpartition(":")[2]), processor_ticks(agent.worker())
        with ExitStack() as stack:
            for _ in range(100):
                callers = socket.socket()
                callers.setblocking(False)
                callers.connect_ex(("127.0.0.1", port))
                stack.callback(callers.close)
            arrive(inbox, "b.csv")
            time.sleep(3)
            assert len(agent.lines) == 2 * WINDOWS and "Too many open files" not in agent.log
            assert processor_ticks(agent.worker()) - used < 150
        eventually(lambda: "ready" in agent.get("/v2/health/ready"))
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.skipif(bool(os.geteuid()), reason="needs root, to make a folder that is another user's")
def test_a_state_folder_of_another_user(tmp_path: Path) -> None:
    """One sentence, and the end: its updates would not be seen."""
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 65534, 65534)
    config = write_config(tmp_path, HUB)
    for word in ("serve", "check"):
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", BIN / "edgeloop-agent", word, config]
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=20, check=False)
        assert f"{tmp_path}/state: user 0 may not read and write it" in sentence(done, 2)


@in_namespaces
@needs("gcc", "libc6-dev")
@pytest.mark.long
def test_a_clock_at_1970_that_jumps_to_now(inbox: Path, tmp_path: Path) -> None:
    """Enrolment, signed metadata, samples and a rollout work in 1970, and after the jump; the hub takes no time from 1970."""
    behind, began = tmp_path / "behind", time.time()
    behind.write_text(str(int(began)))
    clock = wrong_clock(behind)
    with Bundle.open(DRIFTS) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        manifest = bundle.manifest
    with running_hub(tmp_path / "hub") as hub:
        settings = WATCH + QUICK + f'[updates]\nhub = "{hub.address}"\npoll_seconds = 1\nhealth_seconds = 1\n'
        settings += '[samples]\nsend = "samples"\nrandom_share = 1.0\n'
        words = ("enrol", write_config(tmp_path, settings, DRIFTS), "--name", "pi", "--token", hub.run("token", "enrol", "pi"))
        assert command("edgeloop-agent", *words, **clock).returncode == 0
        with serving(tmp_path, settings, DRIFTS, inside=no_zone(), **clock) as agent:
            for number in (2, 3):
                archive.write(tmp_path / f"m-{number}.edgeloop", msgspec.structs.replace(manifest, version=number), files)
                arrive(inbox, f"{number}.csv")
                hub.edgeloop("rollout", "start", hub.publish(tmp_path / f"m-{number}.edgeloop"), "--steps", "100%")
                eventually(lambda: agent.log.count("update committed") == number - 1)  # noqa: B023
                eventually(lambda: agent.log.count("48 rows of the outbox sent") == number - 1)  # noqa: B023
                eventually(lambda: hub.get("/api/v1/devices")[0]["version"] == number)  # noqa: B023
                hub.edgeloop("rollout", "abort", str(number - 1))
                behind.write_text("0")
            assert agent.log.splitlines()[1].startswith("1970-01-01T00:00") and "Traceback" not in agent.log
            assert agent.metric("edgeloop_agent_worker_restarts_total") == agent.metric("edgeloop_agent_drift_alarms_total") == 0
        (device,) = json.loads(json.dumps(hub.get("/api/v1/devices")))
        assert device["version"] == 3 and device["last_seen"] >= began
        assert all(row["at"] >= began - 1 for row in hub.get("/api/v1/events"))
