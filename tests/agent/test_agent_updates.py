"""The agent's own update on a device: installed, tried, started, kept, given back; what is refused; power cuts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import power_cuts
from agent_bench import PYTHON, AgentBench, needs_of, stand_in, wheelhouse
from commands import HERE, command
from edgeloop_agent import launcher
from edgeloop_agent.logs import Log
from edgeloop_agent.updates import environments
from edgeloop_agent.updates.journal import Journal
from edgeloop_contract.errors import StorageError
from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.wheelhouse import Wheel, WheelhouseManifest, write
from hubs import version
from programs import needs
from serving import GOLDEN, eventually
from wheels import wheel


@pytest.fixture
def device(tmp_path: Path) -> AgentBench:
    return AgentBench(tmp_path)


def offered(device: AgentBench, number: int) -> str:
    device.offer(number)
    device.repository.publish()
    return device.turn()


def taken(device: AgentBench, number: int) -> None:
    assert "is staged" in offered(device, number)
    assert device.running().version == number
    device.taken()


def left(device: AgentBench) -> set[str]:
    """Environments, downloads and what was not finished."""
    return {p.name for pattern in ("env-*", "*.partial", "slot-*") for p in device.journal.path.glob(pattern)}


def test_an_agent_is_installed_beside_started_on_trial_and_kept(device: AgentBench) -> None:
    assert device.running().version == 0
    taken(device, 2)
    assert "running already" in device.turn()
    taken(device, 3)
    assert device.running().version == 3 and left(device) == {"env-a", "env-b"}
    taken(device, 4)
    assert left(device) == {"env-a", "env-b"}  # two environments at most, and no download
    assert [e.kind for e in device.journal.load().events] == ["installed"] * 3


def test_three_starts_without_a_passed_trial_give_it_back(device: AgentBench) -> None:
    taken(device, 2)
    offered(device, 3)
    assert [device.running().version for _ in range(5)] == [3, 3, 3, 2, 2]
    assert [e.kind for e in device.journal.load().events] == ["installed", "installed", "rolled-back"]
    assert "is staged" not in device.turn() and left(device) == {"env-a"}  # what failed takes no room


def test_a_trusted_agent_that_never_becomes_ready_is_given_back_too(device: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(device, 2)
    launcher_folder = str(device.journal.path)
    monkeypatch.setenv(launcher.FOLDER, launcher_folder)
    launcher.started()
    assert [device.running().version for _ in range(7)] == [2] * 5 + [0, 0]
    assert "without becoming ready" in device.journal.load().events[-1].text


def test_a_packaged_agent_that_is_not_older_wins(device: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(device, 2)
    known = launcher.packaged()
    for later, runs in (("9.0.1", 2), ("9.0.2rc1", 2), ("9.0.2", 0), ("9.1", 0)):
        monkeypatch.setenv(launcher.LAUNCHER, json.dumps({**known, "version": later}))
        assert device.running().version == runs, later
    assert "the later one of them serves" in offered(device, 3)
    monkeypatch.delenv(launcher.LAUNCHER)
    assert device.running().version == 2


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.1.0", "0.2.0"), ("0.9", "0.10"), ("1.0rc1", "1.0"), ("1.0.dev3", "1.0a1"), ("1.0", "1.0.post1"), ("?", "0.0.1")],
)
def test_versions_are_told_apart(older: str, newer: str) -> None:
    assert launcher.is_newer(newer, older) and not launcher.is_newer(older, newer) and not launcher.is_newer(newer, newer)


@pytest.mark.parametrize("file", ["edgeloop_agent/cli.py", "edgeloop_agent/data.bin", "agent.json"])
def test_an_environment_that_is_not_whole_is_not_started(file: str, device: AgentBench) -> None:
    taken(device, 2)
    taken(device, 3)
    slot = device.journal.load().active
    path = device.journal.path / f"env-{slot}" / file
    path.write_bytes(path.read_bytes()[:-1])
    assert device.running().version == 0  # the packaged one
    assert "running already" not in device.turn()  # it is installed again, beside
    assert device.running().version == 3


def test_a_fleet_that_goes_back_takes_what_is_still_installed(device: AgentBench) -> None:
    taken(device, 2)
    taken(device, 3)
    device.repository.files = {n: f for n, f in device.repository.files.items() if "-pi-3" not in n}
    device.repository.publish()
    for file in (device.repository.folder / "targets").iterdir():
        file.unlink()  # nothing is downloaded for it
    assert "is staged" in device.turn()
    assert device.running().version == 2


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another Python": ({"python": "3.9"}, "this device has"),
    "another machine": ({"machine": "riscv64"}, "it is for riscv64"),
    "a later library": ({"glibc": "2.999"}, "it needs glibc 2.999"),
    "journals of a later format": ({"journal": 99}, "no way back"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_before_it_is_downloaded(what: str, device: AgentBench) -> None:
    changed, says = REFUSED[what]
    house = wheelhouse(device.bundles, 2)
    device.offer_house(house, 2, {**needs_of(house), **changed})
    device.repository.publish()
    for file in (device.repository.folder / "targets").iterdir():
        file.unlink()
    assert says in device.turn()
    assert [(e.kind, says in e.text) for e in device.journal.load().events] == [("failed", True)] and not left(device)


def house_of(folder: Path, wheels: list[Path], spoil: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """A wheelhouse that `pack-agent` would not make."""
    described = [
        Wheel(w.name, w.name.partition("-")[0], "1", w.stat().st_size, hashlib.sha256(w.read_bytes()).hexdigest()) for w in wheels
    ]
    fields: dict[str, Any] = {
        "version": "9.0.2", "python": PYTHON, "machine": "", "glibc": "", "reads": 3, "journal": 1, "unpacked_bytes": 100_000,
        "wheels": described,
    }  # fmt: skip
    spoil(fields)
    write(folder / "agent-pi-2.wheelhouse", WheelhouseManifest(**fields), wheels)
    return folder / "agent-pi-2.wheelhouse"


def linked(path: Path) -> Path:
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("edgeloop_agent/link.py")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return path


def digest_changed(fields: dict[str, Any]) -> None:
    fields["wheels"] = [msgspec.structs.replace(w, sha256="0" * 64) for w in fields["wheels"]]


HOSTILE: dict[str, tuple[str, dict[str, str | bytes], str]] = {  # its wheel's name, further files of it, what is said
    "out of the folder": ("edgeloop", {"../../evil.py": ""}, "unsafe file name"),
    "an absolute path": ("edgeloop", {"/etc/evil.py": ""}, "unsafe file name"),
    "out by data": ("edgeloop", {"x-1.data/purelib/../../evil.py": ""}, "unsafe file name"),
    "Python's own json": ("other", {"json.py": ""}, "the place of Python's own json"),
    "what Python runs": ("other", {"sitecustomize/__init__.py": ""}, "the place of Python's own sitecustomize"),
    "lines that Python runs": ("edgeloop", {"evil.pth": "import os"}, "would be run at each start"),
    "the agent's own package": ("other", {"edgeloop_agent/worker.py": ""}, "the agent's own edgeloop_agent"),
    "the list of files": ("other", {"agent.json": "{}"}, "the environment's own list"),
    "a bomb": ("edgeloop", {"big.bin": bytes(50_000_000)}, "more than the 100000 bytes that the manifest says"),
}


def refused(device: AgentBench, house: Path, says: str) -> None:
    """Refused with its sentence, once and for all; nothing stays of it, and the agent is the same."""
    before = device.running()
    device.offer_house(house, 2)
    device.repository.publish()
    kept = left(device)
    said = device.turn()
    assert says in said and "did not pass" in said, said
    assert device.running() == before and left(device) == kept
    assert said.rpartition("agent:pi: ")[2] not in device.turn()  # it is not tried again
    assert [e.kind for e in device.journal.load().events][-1:] == ["failed"]
    assert not list(device.journal.path.parent.parent.glob("**/evil*"))


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_wheel_is_refused_and_leaves_nothing(what: str, device: AgentBench, tmp_path: Path) -> None:
    project, more, says = HOSTILE[what]
    wheels = [wheel(tmp_path / "w", "edgeloop", "9.0.2", {**stand_in(2), **(more if project == "edgeloop" else {})})]
    if project != "edgeloop":
        wheels.append(wheel(tmp_path / "w", project, "1", more))
    if what == "a bomb":
        with zipfile.ZipFile(wheels[0], "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bigger.bin", bytes(50_000_000))
    refused(device, house_of(tmp_path, wheels), says)


SPOILED: dict[str, Callable[[Path], Path]] = {
    "a link": lambda folder: house_of(folder, [linked(wheel(folder / "w", "edgeloop", "9.0.2", stand_in(2)))]),
    "another digest": lambda folder: house_of(folder, [wheel(folder / "w", "edgeloop", "9.0.2", stand_in(2))], digest_changed),
    "a file twice": lambda folder: house_of(
        folder, [wheel(folder / "w", "edgeloop", "9.0.2", stand_in(2)), *(wheel(folder / "w", n, "1", {"m.py": ""}) for n in "ab")]
    ),
    "no zip": lambda folder: house_of(folder, [_written(folder / "edgeloop-9.0.2-py3-none-any.whl", b"PK nonsense")]),
    "another version": lambda folder: house_of(folder, [wheel(folder / "w", "edgeloop", "9.0.7", stand_in(7))]),
    "it refuses itself": lambda folder: house_of(folder, [wheel(folder / "w", "edgeloop", "9.0.2", stand_in(2, "no camera"))]),
    "it does not start": lambda folder: house_of(
        folder,
        [wheel(folder / "w", "edgeloop", "9.0.2", {**stand_in(2), "edgeloop_agent/updates/self_check.py": "import gone"})],
    ),
}
SAYS = {
    "a link": "is a link", "another digest": "not what the manifest says", "a file twice": "is in two wheels", "no zip": "not a zip",
    "another version": "agent 9.0.7 started in the place of 9.0.2", "it refuses itself": "no camera",
    "it does not start": "No module named 'gone'",
}  # fmt: skip


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_wheelhouse_is_refused_and_leaves_nothing(what: str, device: AgentBench, tmp_path: Path) -> None:
    refused(device, SPOILED[what](tmp_path), SAYS[what])


def test_too_many_files_are_refused(device: AgentBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "MAX_FILES", 3)
    refused(device, house_of(tmp_path, [wheel(tmp_path / "w", "edgeloop", "9.0.2", stand_in(2))]), "more than 3 files")


def test_what_is_in_the_file_must_be_what_was_signed(device: AgentBench, tmp_path: Path) -> None:
    house = wheelhouse(device.bundles, 2)
    device.offer_house(house, 2, {**needs_of(house), "version": "9.9.9"})
    device.repository.publish()
    assert "not what its signature says" in device.turn() and not left(device)


def test_a_device_without_room_says_so_and_keeps_what_it_has(device: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(device, 2)
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(StorageError, match="1,000 bytes are free, and the new agent needs"):
        offered(device, 3)
    assert device.journal.load().events[-1].kind == "no-room"
    assert device.running().version == 2 and left(device) == {"env-" + str(device.journal.load().active)}


def test_an_agent_that_is_followed_no_more_leaves_no_files(device: AgentBench) -> None:
    taken(device, 2)
    path = device.journal.path
    device.path.write_text(device.path.read_text().replace('agent = "pi"', 'agent = "other"'))
    device.config = launcher_config(device)
    assert device.running().version == 0
    device.turn()
    assert not list(path.glob("env-*"))


def launcher_config(device: AgentBench) -> Any:
    from edgeloop_agent.config import load

    return load(device.path)


NONSENSE: dict[str, str] = {
    "no JSON": "{",
    "a list": "[]",
    "a trial of nothing": '{"trial": "x"}',
    "a slot that is a number": '{"active": "a", "a": 3}',
    "a slot outside": '{"active": "../../a", "../../a": {"sha256": "x", "target": "t"}}',
    "a trial without boots": '{"trial": {"slot": "b", "boots": null}}',
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_journal_of_nonsense_starts_the_packaged_agent(
    what: str, device: AgentBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device.journal.path.mkdir(parents=True)
    (device.journal.path / "journal.json").write_text(NONSENSE[what])
    monkeypatch.delenv(launcher.AGENT, raising=False)
    launcher.launch(device.path)
    assert os.environ.pop(launcher.AGENT) == ""


def test_a_later_agents_journal_is_read_and_what_it_added_is_kept_by_the_launcher(device: AgentBench) -> None:
    taken(device, 2)
    offered(device, 3)
    path = device.journal.path / "journal.json"
    later = json.loads(path.read_bytes())
    later["trial"]["boots"], later["added"], later["a"]["added"] = 3, {"by": "a later agent"}, 1
    path.write_text(json.dumps(later))
    assert device.running().version == 2  # given back by the launcher, which is older
    assert json.loads(path.read_bytes())["added"] == {"by": "a later agent"}
    assert device.journal.load().active is not None  # this agent reads it
    earlier = {name: value for name, value in later.items() if name in ("active", "a", "b", "bad")}
    assert msgspec.json.decode(json.dumps(earlier), type=Journal).a is not None


def test_the_launcher_needs_nothing_that_an_update_brings() -> None:
    probe = "import sys; import edgeloop_agent.launcher; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    ours = {m for m in done.stdout.split() if m.startswith("edgeloop")}
    assert not {"msgspec", "numpy", "tuf"} & set(done.stdout.split())
    assert ours <= {
        "edgeloop_agent", "edgeloop_agent.launcher", "edgeloop_agent.plain_journal", "edgeloop_agent.state_folder",
        "edgeloop_agent.logs", "edgeloop_contract", "edgeloop_contract.errors", "edgeloop_contract.files",
    }  # fmt: skip


def test_a_wheel_says_what_its_agent_reads() -> None:
    said = json.loads((HERE.parent / "device_agent" / "edgeloop_agent" / "reads.json").read_text())
    assert said == {"reads": SCHEMA, "journal": environments.JOURNAL}


def checked(device: AgentBench) -> str:
    """What this agent finds when it checks itself on the device."""
    done = subprocess.run([sys.executable, "-m", "edgeloop_agent.updates.self_check", device.path], capture_output=True, check=True)
    return str(json.loads(done.stdout)["problem"])


def test_an_agent_that_checks_itself_reads_the_config_the_bundles_and_the_journals(device: AgentBench, tmp_path: Path) -> None:
    assert checked(device) == "" and not (device.folder.path / "self-check").exists()
    text = device.path.read_text()
    device.path.write_text(f"{text}[thermal]\nwarmth = 1\n")
    assert "thermal.warmth" in checked(device)
    device.path.write_text(text.replace(str(GOLDEN), str(version(tmp_path, 5, spoil=True))))
    assert checked(device).startswith("canary scores of tflite-int8")
    device.path.write_text(text)
    taken(device, 2)
    journal = device.journal.path / "journal.json"
    journal.write_text(journal.read_text().replace('"active":"a"', '"active":["a"]'))
    assert "this agent does not read it" in checked(device)


def test_the_commands_stage_an_agent_and_say_which_one_serves(device: AgentBench) -> None:
    device.offer(2)
    device.repository.publish()
    said = command("edgeloop-agent", "check", device.path).stdout
    assert "agent: follows pi; the packaged agent" in said
    assert "agent-pi-2.wheelhouse is staged" in command("edgeloop-agent", "update", device.path).stdout
    assert "9.0.2 (agent-pi-2.wheelhouse) serves in place of the packaged" in command("edgeloop-agent", "check", device.path).stdout


HANGS = """
import signal, sys, time
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
print("hangs", flush=True)
time.sleep(60)
"""
LAUNCH = """
import sys
from pathlib import Path
from edgeloop_agent import launcher, trial_guard
trial_guard.MARGIN_SECONDS, trial_guard.STOP_SECONDS = -309.0, 0.5
launcher.launch(Path(sys.argv[1]))
print("packaged", flush=True)
"""


def test_an_agent_that_hangs_in_its_trial_is_given_back_from_outside(device: AgentBench, tmp_path: Path) -> None:
    """It ignores every request, so it is killed; what starts the agent again starts the old one."""
    health = "health_seconds = 10.0"
    device.path.write_text(device.path.read_text().replace("[updates]\n", f"[updates]\n{health}\n"))
    device.config = launcher_config(device)
    files = {**stand_in(2), "edgeloop_agent/cli.py": HANGS}
    device.offer_house(house_of(tmp_path, [wheel(tmp_path / "w", "edgeloop", "9.0.2", files)]), 2)
    device.repository.publish()
    assert "is staged" in device.turn()
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LAUNCH, device.path], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL and "hangs" in done.stdout and time.monotonic() - began < 15
    eventually(lambda: device.journal.load().trial is None)
    assert "not healthy within 1 s" in device.journal.load().events[-1].text
    assert list(launcher.chosen(device.path, launcher._table(device.path), Log("error"))) == []


@pytest.mark.long
@needs("strace")
@pytest.mark.parametrize("about", power_cuts.AGENTS)
def test_killed_or_without_power_at_any_call_an_agent_serves(about: Any, tmp_path: Path) -> None:
    for what, points, _, wrong in power_cuts.cuts(tmp_path, 5, 10, [about]):
        assert not wrong, (what, wrong[:3])
        assert points > 5
