"""A bundle made of the one that is here and a delta: the same bytes, verified as the whole is, or the whole instead."""

from __future__ import annotations

import hashlib
import io
import resource
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import bsdiff4
import msgspec
import pytest

from edgeloop_contract.bundle_delta import (
    BSDIFF,
    DELTA_MAGIC,
    DeltaHeader,
    Segment,
    applied,
    delta_file,
    expanded,
    read_header,
    squeezed,
)
from edgeloop_contract.errors import BundleError
from edgeloop_pipeline.fleet import deltas
from hubs import version
from power_cuts import by_delta, cuts
from programs import needs
from update_bench import Bench

LIMIT = 1 << 30


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return version(folder, 2), version(folder, 3)


def result(old: Path, delta: bytes) -> bytes:
    """As a device makes it."""
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile() as before:
        file.write(delta)
        file.flush()
        file.seek(0)
        header = read_header(file, LIMIT)
        expanded(old, before)
        return b"".join(applied(Path(file.name), header, file.tell(), before, before.tell()))


def test_the_unpacked_form_gives_the_bundle_again(pair: tuple[Path, Path]) -> None:
    unpacked = io.BytesIO()
    segments = expanded(pair[0], unpacked)
    assert any(segment.level for segment in segments)
    assert b"".join(squeezed(iter([unpacked.getvalue()]), segments)) == pair[0].read_bytes()


def test_a_delta_gives_the_new_bundle_from_a_few_bytes(pair: tuple[Path, Path]) -> None:
    old, new = pair
    delta = deltas.make(old, new)
    assert delta is not None and len(delta) < 0.1 * new.stat().st_size
    assert result(old, delta) == new.read_bytes()


def _parts(delta: bytes) -> tuple[DeltaHeader, bytes]:
    place = len(DELTA_MAGIC)
    (length,) = struct.unpack_from("<I", delta, place)
    return msgspec.msgpack.decode(delta[place + 4 : place + 4 + length], type=DeltaHeader), delta[place + 4 + length :]


def _patch(controls: bytes, difference: bytes = b"", extra: bytes = b"", new_bytes: int | None = None, count: int = 0) -> bytes:
    import bz2

    first, second = bz2.compress(controls), bz2.compress(difference)
    return (
        BSDIFF.pack(b"BSDIFF40", len(first), len(second), count if new_bytes is None else new_bytes)
        + first
        + second
        + bz2.compress(extra)
    )


def _control(added: int, inserted: int, skip: int = 0) -> bytes:
    return b"".join((abs(n) | (1 << 63 if n < 0 else 0)).to_bytes(8, "little") for n in (added, inserted, skip))


Spoil = Callable[[DeltaHeader, bytes], bytes]
HOSTILE: dict[str, Spoil] = {
    "no delta": lambda h, p: b"x" * 1000,
    "no header": lambda h, p: DELTA_MAGIC + b"\xff\xff\xff\xff",
    "a header of other things": lambda h, p: DELTA_MAGIC + struct.pack("<I", 3) + b"\x93\x01\x02",
    "more unpacked bytes than a bundle may have": lambda h, p: delta_file(msgspec.structs.replace(h, segments=[Segment(LIMIT * 2)]), p),
    "a segment of fewer than no bytes": lambda h, p: delta_file(msgspec.structs.replace(h, segments=[Segment(-5), *h.segments]), p),
    "no patch": lambda h, p: delta_file(h, b""),
    "a patch of another size": lambda h, p: delta_file(h, p[:24] + (5).to_bytes(8, "little") + p[32:]),
    "lengths beyond the file": lambda h, p: delta_file(h, p[:8] + (1 << 40).to_bytes(8, "little") + p[16:]),
    "lengths below nothing": lambda h, p: delta_file(h, p[:8] + b"\xff" * 8 + p[16:]),
    "cut off": lambda h, p: delta_file(h, p[: len(p) // 2]),
    "broken bzip2": lambda h, p: delta_file(h, p[:40] + b"\0" * 30 + p[70:]),
    "writes more than it says": lambda h, p: delta_file(h, _patch(_control(0, 1 << 62), count=h.unpacked_bytes)),
    "writes fewer than nothing": lambda h, p: delta_file(h, _patch(_control(-5, 10), extra=b"x" * 10, count=h.unpacked_bytes)),
    "steps without an end": lambda h, p: delta_file(h, _patch(_control(0, 0) * 3_000_000, count=h.unpacked_bytes)),
    "a bomb of zeros": lambda h, p: delta_file(
        msgspec.structs.replace(h, segments=[Segment(LIMIT // 2)]),
        _patch(_control(0, LIMIT // 2), extra=b"\0" * (64 << 20), count=LIMIT // 2),
    ),
    "reads before and behind the old one": lambda h, p: delta_file(
        h, _patch(_control(0, 0, -(1 << 60)) + _control(h.unpacked_bytes, 0), b"\1" * h.unpacked_bytes, count=h.unpacked_bytes)
    ),
    "fewer bytes than it says": lambda h, p: delta_file(msgspec.structs.replace(h, bytes=h.bytes + 1), p),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_delta_is_refused_within_its_bounds(what: str, pair: tuple[Path, Path]) -> None:
    delta = deltas.make(*pair)
    assert delta is not None
    spoiled = HOSTILE[what](*_parts(delta))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError):
        result(pair[0], spoiled)
    if what != "a bomb of zeros":  # the test itself makes that one in memory
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def prepared(bench: Bench) -> tuple[Path, Path]:
    bench.offer(2)
    bench.repository.publish()
    bench.turn()
    bench.taken()
    bench.offer(3)
    return bench.bundles / "exercise_watch-2.edgeloop", bench.bundles / "exercise_watch-3.edgeloop"


def said(bench: Bench) -> str:
    return [e.text for e in bench.folder.load().events if e.kind == "installed"][-1]


def test_a_device_takes_a_version_by_its_delta_alone(bench: Bench) -> None:
    old, new = prepared(bench)
    bench.repository.add_delta(old, new)
    bench.repository.publish()
    next((bench.repository.folder / "targets").glob("*watch-3.edgeloop")).unlink()  # the whole is not even there
    assert "is staged, by a delta of" in bench.turn()
    assert bench.running().version == 3 and "instead of" in said(bench)
    active = bench.folder.slot(bench.folder.load().trial.slot)
    assert active.read_bytes() == new.read_bytes() and not list(bench.folder.path.glob("*.partial"))


def _other_start(b: Bench, old: Path, new: Path) -> None:
    b.repository.add_delta(version(b.bundles, 7), new)


def _spoiled(b: Bench, old: Path, new: Path) -> None:
    """Signed, and yet it leads elsewhere: whoever made it was wrong."""
    delta = deltas.make(old, version(b.bundles, 8))
    assert delta is not None
    header, patch = _parts(delta)
    sha256 = hashlib.sha256(new.read_bytes()).hexdigest()
    b.repository.add_delta(old, new, delta_file(msgspec.structs.replace(header, to_sha256=sha256, bytes=new.stat().st_size), patch))


def _tampered(b: Bench, old: Path, new: Path) -> None:
    file = b.repository.add_delta(old, new)
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def _longer(b: Bench, old: Path, new: Path) -> None:
    file = b.repository.add_delta(old, new)
    file.write_bytes(file.read_bytes() + b"x" * 100_000)


def _gone(b: Bench, old: Path, new: Path) -> None:
    b.repository.add_delta(old, new).unlink()


WHOLE = {
    "from another bundle": (_other_start, ""),
    "that leads elsewhere": (_spoiled, "its delta did not do"),
    "tampered with": (_tampered, "not those that were signed"),
    "longer than signed": (_longer, "more than the"),
    "that is not there": (_gone, "no such file"),
}


@pytest.mark.parametrize("what", WHOLE)
def test_without_a_delta_that_fits_the_whole_is_taken_and_it_is_said(what: str, bench: Bench) -> None:
    do, says = WHOLE[what]
    do(bench, *prepared(bench))
    bench.repository.publish()
    assert "is staged" in bench.turn() and bench.running().version == 3
    assert says in said(bench) and "by a delta" not in said(bench)
    assert not list(bench.folder.path.glob("*.partial"))


def test_the_patch_is_that_of_bsdiff(pair: tuple[Path, Path]) -> None:
    """Held against its reference on bytes that move, change, appear and go."""
    old, new = pair[0].read_bytes() * 2, pair[1].read_bytes()[5000:] + b"new" * 3000 + pair[0].read_bytes()[:20_000]
    with tempfile.NamedTemporaryFile() as file:
        file.write(bsdiff4.diff(old, new))
        file.flush()
        header = DeltaHeader("a" * 64, "b" * 64, len(new), [Segment(len(new))])
        assert b"".join(applied(Path(file.name), header, 0, io.BytesIO(old), len(old))) == new


@pytest.mark.long
@needs("strace")
def test_killed_or_without_power_at_any_call_a_delta_leaves_a_whole_version(tmp_path: Path) -> None:
    for what, points, _, wrong in cuts(tmp_path, 1, 8, [by_delta]):
        assert not wrong, (what, wrong[:3])
        assert points > 5
