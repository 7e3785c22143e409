"""Agents that a device refuses: what does not fit it, what is hostile, what is spoiled, and where there is no room."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_bench import AgentBench, house_of, left, needs_of, offered, stand_in, taken, wheelhouse
from edgeloop_agent.updates import environments
from edgeloop_contract.errors import StorageError
from wheels import wheel


@pytest.fixture
def device(tmp_path: Path) -> AgentBench:
    return AgentBench(tmp_path)


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
    assert device.journal.load().events[-1].kind == "no-room" and "make room" in device.journal.load().events[-1].text
    assert device.running().version == 2 and left(device) == {"env-" + str(device.journal.load().active)}
