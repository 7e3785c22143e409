"""The device's updater against a repository that lies, disks that fill, and death at every file operation."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from edgeloop_agent.updates.journal import Running
from edgeloop_agent.updates.origins import FolderOrigin
from edgeloop_agent.updates.taking import STRUCTURE_ONLY
from edgeloop_contract import archive
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import NetworkError, StorageError
from fakes.repository import now
from hubs import version
from programs import needs
from update_bench import Bench


def test_the_newest_signed_version_is_staged_and_then_runs(bench: Bench) -> None:
    bench.offer(2)
    bench.offer(3)
    bench.repository.publish()
    assert "is staged" in bench.turn()
    assert bench.running().version == 3
    bench.taken()
    assert bench.turn() == "it is running already" and bench.running().version == 3


def test_a_bundle_without_a_canary_is_staged_by_its_structure_and_says_so(bench: Bench) -> None:
    """To the person at the device, and to the hub as an event."""
    with Bundle.open(version(bench.bundles, 2)) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files if not name.startswith("canary/")}
        manifest = msgspec.structs.replace(bundle.manifest, canary=None, files=archive.describe(files))
    archive.write(bench.bundles / "bare.edgeloop", manifest, files)
    bench.repository.add(bench.bundles / "bare.edgeloop", 2)
    bench.repository.publish()
    assert "is staged, structure only" in bench.turn()
    assert [e.text for e in bench.folder.load().events if e.kind == "installed"] == [STRUCTURE_ONLY]


def _arbitrary(b: Bench) -> None:
    (b.repository.folder / "metadata" / "timestamp.json").write_bytes(os.urandom(500))


def _wrong_key(b: Bench) -> None:
    b.offer(9)
    b.repository.publish(targets=b.repository.keys["timestamp"])


def _stolen_hub(b: Bench) -> None:
    """Everything but the targets key: the thief lists a bundle of his own, signed with all he has."""
    b.offer(9)
    keys = b.repository.keys
    b.repository.publish(targets=keys["snapshot"], snapshot=keys["snapshot"], timestamp=keys["timestamp"])


def _threshold(b: Bench) -> None:
    b.repository.keys["targets"] = type(b.repository.root_keys[0]).generate_ed25519()
    b.repository.root(signers=b.repository.root_keys[:1])
    b.offer(9)
    b.repository.publish()


def _rollback(b: Bench) -> None:
    b.repository.timestamp(version=1)


def _rollback_of_targets(b: Bench) -> None:
    b.repository.snapshot(targets_version=1)
    b.repository.timestamp()


def _freeze(b: Bench) -> None:
    b.now = lambda: time.time() + 11 * 86400


def _mix_and_match(b: Bench) -> None:
    """A snapshot of one moment under a timestamp that promises another."""
    folder = b.repository.folder / "metadata"
    old = (folder / f"{b.repository.versions['snapshot']}.snapshot.json").read_bytes()
    b.offer(9)
    b.repository.publish()
    (folder / f"{b.repository.versions['snapshot']}.snapshot.json").write_bytes(old)


def _tampered(b: Bench) -> None:
    b.offer(9)
    b.repository.publish()
    file = next((b.repository.folder / "targets").glob("*-9.edgeloop"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _endless_metadata(b: Bench) -> None:
    (b.repository.folder / "metadata" / "timestamp.json").write_bytes(b" " * 20_000_000)


def _longer_bundle(b: Bench) -> None:
    b.offer(9)
    b.repository.publish()
    file = next((b.repository.folder / "targets").glob("*-9.edgeloop"))
    file.write_bytes(file.read_bytes() + b"x" * 1_000_000)


def _missing_bundle(b: Bench) -> None:
    b.offer(9)
    b.repository.publish()
    next((b.repository.folder / "targets").glob("*-9.edgeloop")).unlink()


ATTACKS = {
    "arbitrary content": (_arbitrary, "did not sign"),
    "wrong key": (_wrong_key, "did not sign"),
    "stolen hub": (_stolen_hub, "did not sign"),
    "threshold not met": (_threshold, "did not sign"),
    "rollback": (_rollback, "did not sign these metadata (New timestamp version 1 must be >="),
    "rollback of targets": (_rollback_of_targets, "did not sign"),
    "freeze": (_freeze, "out of date"),
    "mix and match": (_mix_and_match, "did not sign"),
    "tampered bundle behind right metadata": (_tampered, "not those that were signed"),
    "endless metadata": (_endless_metadata, ""),
    "more bytes than signed": (_longer_bundle, "more than the"),
    "metadata name what is not there": (_missing_bundle, "no such file"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_changes_nothing(attack: str, bench: Bench) -> None:
    bench.offer(2)
    bench.repository.publish()
    bench.turn()
    bench.taken()
    before = bench.running()
    assert before.version == 2
    do, says = ATTACKS[attack]
    do(bench)
    with pytest.raises(NetworkError, match=None) as error:
        bench.turn()
    assert says in str(error.value)
    assert bench.running() == before
    assert not list(bench.folder.path.glob("slot-b*")) and bench.folder.load().trial is None
    journal = bench.folder.load()
    assert bench.folder.metadata(journal.generation).exists()


def test_after_a_fast_forward_a_new_key_brings_the_device_back(bench: Bench) -> None:
    """Who had the timestamp key drove its version to the end; a root with another key starts anew."""
    bench.repository.timestamp(version=2**31)
    bench.turn()
    bench.repository.keys["timestamp"] = type(bench.repository.root_keys[0]).generate_ed25519()
    bench.repository.root()
    bench.offer(2)
    bench.repository.versions["timestamp"] = 0
    bench.repository.publish()
    assert "is staged" in bench.turn()


def test_a_clock_at_1970_is_not_believed(bench: Bench) -> None:
    bench.turn()
    bench.now = lambda: 1000.0
    bench.repository.publish(days=-1)  # expired yesterday; to a clock at 1970 that is fifty years ahead
    with pytest.raises(NetworkError, match="out of date"):
        bench.turn()
    bench.offer(2)
    bench.repository.publish()
    assert "is staged" in bench.turn() and now().year >= 2026


def test_the_hub_cannot_choose_an_older_version_that_is_still_signed(bench: Bench) -> None:
    from edgeloop_agent.updates.offers import Offer, SignedTargets
    from edgeloop_agent.updates.policy import Stay, decide

    offers = {f"{n}.edgeloop": Offer(f"{n}.edgeloop", 10, str(n) * 64, "m", n) for n in (1, 2)}
    running, journal = Running("m", 2, "2" * 64), bench.folder.load()
    said = decide("1.edgeloop", SignedTargets(5, 1, offers), running, journal, 100)
    assert isinstance(said, Stay) and said.refused and "still signed" in said.why
    withdrawn = {"1.edgeloop": offers["1.edgeloop"]}
    assert not isinstance(decide("1.edgeloop", SignedTargets(6, 1, withdrawn), running, journal, 100), Stay)
    for target, model, says in (("3.edgeloop", "m", "not among"), ("1.edgeloop", "other", "of model m")):
        said = decide(target, SignedTargets(6, 1, withdrawn), Running(model, 2, ""), journal, 100)
        assert isinstance(said, Stay) and said.refused and says in said.why


def test_what_failed_the_canary_is_not_tried_again(bench: Bench) -> None:
    bench.offer(2)
    bench.repository.publish()
    assert "did not pass: too slow" in bench.turn(lambda _: "too slow")
    assert [e.kind for e in bench.folder.load().events] == ["failed"]
    assert bench.turn(lambda _: "too slow") == "no target is assigned"
    assert bench.running().version == 1


def test_what_does_not_fit_is_not_downloaded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at once nor at each poll again."""
    bench.offer(2)
    bench.repository.publish()
    came: list[int] = []
    monkeypatch.setattr(FolderOrigin, "target", lambda *_: came.append(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 0, 1 << 20))
    for _ in range(2):
        with pytest.raises(StorageError, match=r"1,048,576 bytes are free, and .*-2\.edgeloop needs [\d,]+; make room"):
            bench.turn()
    assert not came and [e.kind for e in bench.folder.load().events] == ["no-room"]


def test_a_full_disk_leaves_everything_as_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer(2)
    bench.repository.publish()
    before = bench.running()
    if os.geteuid() != 0:
        pytest.skip("a small disk can be mounted by root alone")
    small = bench.folder.path
    kept = {p.name: p.read_bytes() for p in small.iterdir() if p.is_file()}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", small], check=True)
    try:
        for name, content in kept.items():
            (small / name).write_bytes(content)
        with pytest.raises(StorageError, match="make room"):
            bench.turn()
        assert bench.running() == before and not list(small.glob("*.partial"))
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.long
@needs("strace")
def test_killed_or_without_power_at_any_call_the_next_start_runs_a_verified_version(tmp_path: Path) -> None:
    """benchmarks/hub.py does it for more updates, and kills at every call."""
    from power_cuts import cuts, next_one

    olds = []
    for what, points, old, wrong in cuts(tmp_path, 1, 8, [next_one]):
        assert not wrong, (what, wrong[:3])
        assert points > (60 if "killed" not in what else 5)
        olds.append(0 < old < points)
    assert any(olds), "both versions are found"


def test_a_damaged_slot_is_left_for_the_one_before_it(bench: Bench) -> None:
    for number in (2, 3):
        bench.offer(number)
        bench.repository.publish()
        bench.turn()
        bench.taken()
    journal = bench.folder.load()
    active = bench.folder.slot(journal.active or "")
    active.write_bytes(active.read_bytes()[:-100])
    assert bench.running().version == 2
    shutil.rmtree(bench.folder.path)
    assert bench.running().version == 1  # the config's
