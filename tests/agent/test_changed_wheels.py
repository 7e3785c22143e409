"""An agent's update brings the wheels that the device does not have: how many bytes, and what happens where one does not fit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_bench import STEADY, AgentBench, left, manifest_of, needs_of, offered, taken, wheelhouse
from edgeloop_agent.hub_client import HubClient, NotFound
from edgeloop_agent.updates.origins import FolderOrigin
from edgeloop_contract.errors import NetworkError, StorageError
from edgeloop_contract.wheelhouse import MANIFEST_BEGINS, opened, places
from update_bench import served


@pytest.fixture
def device(tmp_path: Path) -> AgentBench:
    return AgentBench(tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of targets that came, chunk by chunk."""
    sizes: list[int] = []
    for name in ("target", "part"):
        original = getattr(FolderOrigin, name)

        def counted(self: Any, *words: Any, original: Any = original, name: str = name) -> Any:
            def chunks(found: Iterator[bytes]) -> Iterator[bytes]:
                for chunk in found:
                    sizes.append(len(chunk))
                    yield chunk

            if name == "part":
                return chunks(original(self, *words))
            begins, found = original(self, *words)
            return begins, chunks(found)

        monkeypatch.setattr(FolderOrigin, name, counted)
    return sizes


def slot_of(device: AgentBench) -> Path:
    return device.journal.path / f"env-{device.journal.load().active}"


def test_only_the_changed_wheel_and_the_list_are_fetched_and_the_environment_is_whole(device: AgentBench, read: list[int]) -> None:
    taken(device, 2)
    whole = (device.bundles / "agent-pi-2.wheelhouse").stat().st_size
    assert sum(read) == whole
    read.clear()
    said = offered(device, 3)
    with opened(device.bundles / "agent-pi-3.wheelhouse", whole) as house:
        mine = next(w for w in house.manifest.wheels if w.project == "edgeloop")
        assert sum(read) == len(house.manifest_bytes) + mine.bytes < whole / 3
    assert "agent-pi-3.wheelhouse is staged" in said
    assert "by 1 of 2 wheels" in device.journal.load().events[-1].text
    before = slot_of(device)
    assert device.running().version == 3
    device.taken()
    assert left(device) == {"env-a", "env-b"}
    for name, content in STEADY.items():
        assert (slot_of(device) / name).read_bytes() == (content if isinstance(content, bytes) else content.encode())
        assert (slot_of(device) / name).samefile(before / name)  # one file, where the disk can
    assert {p.name for p in slot_of(device).rglob("*.pyc")} == {p.name for p in before.rglob("*.pyc")}
    taken(device, 4)  # the agent before is removed, and what both had stays
    assert device.running().version == 4 and (slot_of(device) / "steady/data.bin").read_bytes() == STEADY["steady/data.bin"]


def test_room_is_asked_for_what_comes_and_not_for_the_whole(device: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between what the changed wheels need and what all of them would; without links all files need room."""
    taken(device, 2)
    with opened(device.bundles / "agent-pi-2.wheelhouse", 1 << 30) as house:
        unpacked = house.manifest.unpacked_bytes
    free = (1 << 20) + unpacked * 3 // 2  # without room for the wheels themselves
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 0, free))
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
        with pytest.raises(StorageError, match="bytes are free, and the new agent needs"):
            offered(device, 3)
    taken(device, 3)
    assert device.running().version == 3
    free = 1 << 20
    with pytest.raises(StorageError, match="1,048,576 bytes are free, and the new agent needs"):
        offered(device, 4)
    assert left(device) == {slot_of(device).name}  # what came goes, to make room


def test_a_disk_without_links_gets_copies(device: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    taken(device, 2)
    before = slot_of(device)
    taken(device, 3)
    assert (slot_of(device) / "steady/data.bin").read_bytes() == (before / "steady/data.bin").read_bytes()


def test_what_is_damaged_here_is_fetched_again(device: AgentBench, read: list[int]) -> None:
    taken(device, 2)
    file = slot_of(device) / "steady/data.bin"
    file.write_bytes(bytes(len(file.read_bytes())))
    read.clear()
    taken(device, 3)
    assert (slot_of(device) / "steady/data.bin").read_bytes() == STEADY["steady/data.bin"]
    assert sum(read) > 25_000


def test_an_environment_of_before_says_no_wheels_so_the_whole_comes(device: AgentBench) -> None:
    taken(device, 2)
    (slot_of(device) / "wheels.json").unlink()
    taken(device, 3)
    assert device.journal.load().events[-1].text == "" and device.running().version == 3


def test_an_update_that_is_cut_off_goes_on_with_the_wheels_that_came(
    device: AgentBench, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(device, 2)
    original = FolderOrigin.part

    def breaks(self: Any, name: str, begins: int, size: int) -> Iterator[bytes]:
        for chunk in original(self, name, begins, size):
            if begins != MANIFEST_BEGINS:
                yield chunk[:1000]
                raise NetworkError("away")
            yield chunk

    device.offer(3)
    device.repository.publish()
    with monkeypatch.context() as patch:
        patch.setattr(FolderOrigin, "part", breaks)
        with pytest.raises(NetworkError, match="away"):
            device.turn()
    read.clear()
    assert "is staged" in device.turn()
    with opened(device.bundles / "agent-pi-3.wheelhouse", 1 << 20) as house:
        assert sum(read) == next(w for w in house.manifest.wheels if w.project == "edgeloop").bytes - 1000
    assert device.running().version == 3 and left(device) == {"env-a", "env-b"}


def signed_wrongly(device: AgentBench, house: Path, what: str) -> None:
    manifest = manifest_of(house)
    manifest |= {
        "another list": {"sha256": "0" * 64},
        "another size": {"bytes": manifest["bytes"] - 1},
        "a path": {"sha256": "../x"},
    }[what]
    device.repository.add(house, 3, "agent:pi", kind="agent", agent=needs_of(house), manifest=manifest)


@pytest.mark.parametrize("what", ["another list", "another size", "a path"])
def test_what_was_not_signed_so_is_fetched_whole(what: str, device: AgentBench) -> None:
    taken(device, 2)
    signed_wrongly(device, wheelhouse(device.bundles, 3), what)
    device.repository.publish()
    assert "is staged" in device.turn()
    assert ("whole, as its wheels did not do" in device.journal.load().events[-1].text) == (what != "a path")
    assert device.running().version == 3


def test_a_wheel_of_other_bytes_is_never_installed(device: AgentBench) -> None:
    """The whole is not what was signed either: nothing changes."""
    taken(device, 2)
    house = wheelhouse(device.bundles, 3)
    name = device.offer_house(house, 3)
    file = next((device.repository.folder / "targets").glob(f"*.{name}"))
    with opened(house, 1 << 20) as found:
        begins = places(found.manifest, len(found.manifest_bytes))["edgeloop-9.0.3-py3-none-any.whl"]
    content = bytearray(file.read_bytes())
    content[begins + 100] ^= 1
    file.write_bytes(content)
    device.repository.publish()
    with pytest.raises(NetworkError, match="not those that were signed"):
        device.turn()
    assert device.running().version == 2 and not list(device.journal.path.glob("*.partial"))


def test_a_file_in_two_wheels_is_refused_also_where_one_of_them_stays(device: AgentBench) -> None:
    from agent_bench import house_of, stand_in
    from wheels import wheel

    taken(device, 2)
    shutil.copy(next((device.bundles / "wheels-2").glob("steady*")), device.bundles)
    other = wheel(device.bundles / "w", "edgeloop", "9.0.3", {**stand_in(3), "steady/data.bin": bytes(4)})
    house = house_of(device.bundles / "w", [other, next(device.bundles.glob("steady*"))])
    device.offer_house(house, 3)
    device.repository.publish()
    assert "is in two wheels" in device.turn() and device.running().version == 2


def test_parts_of_a_file_from_a_hub_and_from_one_that_gives_none(device: AgentBench) -> None:
    content, asked = bytes(range(256)) * 40, list[str]()
    file = device.repository.folder / "targets" / "f"
    file.write_bytes(content)

    def answers(handler: Any, body: bytes) -> None:
        text = handler.headers["Range"]
        asked.append(text)
        begins, _, last = text.removeprefix("bytes=").partition("-")
        part = body[int(begins) : int(last) + 1] if parts else body
        handler.send_response(206 if parts else 200)
        handler.send_header("Content-Length", str(len(part)))
        if parts:
            handler.send_header("Content-Range", f"bytes {begins}-{last}/{len(body)}")
        handler.end_headers()
        handler.wfile.write(part)

    with served(device.repository.folder, answers) as address:
        hub, parts = HubClient(address, "x", "", 5.0), True
        assert b"".join(hub.part("f", 0, 10)) == content[:10]
        assert b"".join(hub.part("f", 300, 500)) == content[300:800]
        parts = False
        with pytest.raises(NotFound, match="gives no parts"):
            hub.part("f", 300, 500)
    assert asked == ["bytes=0-9", "bytes=300-799", "bytes=300-799"]


def test_what_an_agent_before_reads_of_an_environment_is_as_it_was(device: AgentBench) -> None:
    taken(device, 2)
    assert set(json.loads((slot_of(device) / "agent.json").read_bytes())) == {
        "version", "python", "machine", "sha256", "trial_seconds", "files",
    }  # fmt: skip
