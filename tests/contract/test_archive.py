"""The bundle opener: what is not exactly a bundle is refused."""

from __future__ import annotations

import io
import json
import random
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeloop_contract import archive
from edgeloop_contract.archive import Bundle, BundleLimits, VerifiedFile
from edgeloop_contract.errors import BundleError
from edgeloop_contract.manifest_json import decode, encode

Entries = dict[str, bytes]


@pytest.fixture
def good(tiny_run: dict[str, Any]) -> Path:
    return Path(tiny_run["bundle"])


def entries(path: Path) -> Entries:
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def rezip(path: Path, content: list[tuple[str, bytes]], mode: int = stat.S_IFREG | 0o644) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in content:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            zipped.writestr(info, data)


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Spoil the manifest, as canonical JSON again."""

    def spoil(path: Path) -> None:
        content = entries(path)
        manifest = json.loads(content["manifest.json"])
        change(manifest)
        content["manifest.json"] = msgspec.json.encode(manifest, order="sorted")
        rezip(path, list(content.items()))

    return spoil


def with_entry(name: str, mode: int = stat.S_IFREG | 0o644) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = list(entries(path).items())
        with zipfile.ZipFile(path, "w") as zipped:
            for n, data in content:
                zipped.writestr(zipfile.ZipInfo(n), data)
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            zipped.writestr(info, b"x")

    return spoil


def flip_bit(path: Path) -> None:
    content = entries(path)
    name = next(n for n in content if n.startswith("models/"))
    data = bytearray(content[name])
    data[len(data) // 2] ^= 1
    rezip(path, [(n, bytes(data) if n == name else d) for n, d in content.items()])


def drop_model(path: Path) -> None:
    content = entries(path)
    del content[next(n for n in content if n.startswith("models/"))]
    rezip(path, list(content.items()))


def twice(path: Path) -> None:
    content = list(entries(path).items())
    with pytest.warns(UserWarning, match="Duplicate name"):
        rezip(path, [*content, content[-1]])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bomb(path: Path) -> None:
    """An entry that claims the manifest's size and unpacks to a gigabyte would be; here 32 MB, read no further than promised."""
    content = entries(path)
    name = next(n for n in content if n.startswith("models/"))
    size = len(content[name])
    content[name] = bytes(32 << 20)
    rezip(path, list(content.items()))
    data = path.read_bytes().replace(struct.pack("<L", 32 << 20), struct.pack("<L", size))
    path.write_bytes(data)


def prefix(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())


def not_canonical(path: Path) -> None:
    content = entries(path)
    content["manifest.json"] = json.dumps(json.loads(content["manifest.json"]), indent=1).encode()
    rezip(path, list(content.items()))


def duplicate_key(path: Path) -> None:
    content = entries(path)
    content["manifest.json"] = content["manifest.json"].replace(b'{"canary"', b'{"version":9,"canary"', 1)
    rezip(path, list(content.items()))


def spoil_array(path: Path) -> None:
    content = entries(path)
    content["canary/labels.npy"] = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(128) + b"x"
    manifest = json.loads(content["manifest.json"])
    described = archive.describe({"a": content["canary/labels.npy"]})["a"]
    manifest["files"]["canary/labels.npy"] = {"bytes": described.bytes, "sha256": described.sha256}
    content["manifest.json"] = msgspec.json.encode(manifest, order="sorted")
    rezip(path, list(content.items()))


MALFORMED: dict[str, tuple[Callable[[Path], None], str]] = {
    "extra file": (with_entry("models/extra.bin"), "not in the manifest"),
    "missing file": (drop_model, "is missing"),
    "link": (with_entry("models/link", stat.S_IFLNK | 0o777), "link"),
    "parent folder": (with_entry("../evil"), "unsafe file name"),
    "parent folder inside": (with_entry("models/../../evil"), "unsafe file name"),
    "absolute path": (with_entry("/etc/passwd"), "unsafe file name"),
    "windows path": (with_entry("C:\\evil"), "unsafe file name"),
    "one bit": (flip_bit, "not what the manifest says"),
    "truncated": (truncate, "not a whole bundle"),
    "cut in half": (cut_in_half, "not a whole bundle"),
    "zip bomb": (bomb, "models/"),
    "unknown schema": (edited(lambda m: m.update(schema=99)), "schema 99"),
    "duplicate names": (twice, "twice"),
    "unknown key of a task": (edited(lambda m: m["task"].update(surprise=1)), "surprise"),
    "unknown key of a step": (edited(lambda m: m["preprocessing"][0].update(surprise=1)), "surprise"),
    "wrong type": (edited(lambda m: m.update(version="one")), "version"),
    "unlisted model": (edited(lambda m: m["variants"][0].update(file="models/none")), "does not list"),
    "no variants": (edited(lambda m: m.update(variants=[])), "in the manifest|no model"),
    "unknown preprocessing": (edited(lambda m: m["preprocessing"].append({"step": "magic"})), "magic"),
    "not canonical": (not_canonical, "canonical"),
    "duplicate key": (duplicate_key, "canonical"),
    "data in front": (prefix, "outside its files|not a whole bundle"),
    "empty": (lambda p: p.write_bytes(b""), "not a whole bundle"),
    "not a zip": (lambda p: p.write_bytes(b"hello" * 100), "not a whole bundle"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_is_refused(name: str, good: Path, tmp_path: Path) -> None:
    spoil, message = MALFORMED[name]
    path = Path(shutil.copy(good, tmp_path / "bad.edgeloop"))
    spoil(path)
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)


def test_pickled_array_is_refused(good: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(good, tmp_path / "bad.edgeloop"))
    spoil_array(path)
    with pytest.raises(BundleError, match="not a plain array"):
        Bundle.open(path)


@pytest.mark.parametrize(
    "limits",
    [
        BundleLimits(max_bundle_bytes=10),
        BundleLimits(max_files=2),
        BundleLimits(max_manifest_bytes=9),
        BundleLimits(max_unpacked_bytes=9),
    ],
)
def test_limits(limits: BundleLimits, good: Path) -> None:
    with pytest.raises(BundleError):
        Bundle.open(good, limits)


def test_what_was_verified_is_what_is_read(good: Path, tmp_path: Path) -> None:
    """Replacing the file after it was opened changes nothing; changing it in place is noticed."""
    path = Path(shutil.copy(good, tmp_path / "b.edgeloop"))
    with Bundle.open(path) as bundle:
        name = bundle.manifest.variants[0].file
        before = bundle.read(name)
        flip_bit(Path(shutil.copy(path, tmp_path / "other")))
        (tmp_path / "other").replace(path)
        assert bundle.read(name) == before
    path = Path(shutil.copy(good, tmp_path / "c.edgeloop"))
    with Bundle.open(path) as bundle:
        with path.open("r+b") as file:
            file.seek(400)
            file.write(bytes(path.stat().st_size - 400))
        with pytest.raises(BundleError):
            for name in bundle.manifest.files:
                bundle.read(name)


def noise_beside(good: Path, path: Path) -> bytes:
    """A bundle whose model is noise, as weights in floats nearly are: it is stored, not deflated. Returns the noise."""
    with Bundle.open(good) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        noise = random.Random(0).randbytes(3 << 20)
        files[bundle.manifest.variants[0].file] = noise
        archive.write(path, msgspec.structs.replace(bundle.manifest, files=archive.describe(files)), files)
    return noise


class Seen(list[VerifiedFile]):
    add = list[VerifiedFile].append


def test_what_deflate_does_not_shrink_is_stored(good: Path, tmp_path: Path) -> None:
    noise = noise_beside(good, tmp_path / "noise.edgeloop")
    with zipfile.ZipFile(tmp_path / "noise.edgeloop") as zipped:
        kinds = {entry.filename: entry.compress_type for entry in zipped.infolist()}
    with Bundle.open(tmp_path / "noise.edgeloop") as bundle:
        name = bundle.manifest.variants[0].file
        assert bundle.read(name) == noise and kinds[name] == zipfile.ZIP_STORED and kinds["manifest.json"] == zipfile.ZIP_DEFLATED


def test_a_file_that_was_verified_is_checked_again_as_it_is_loaded(good: Path, tmp_path: Path) -> None:
    path, seen = tmp_path / "noise.edgeloop", Seen()
    noise = noise_beside(good, path)
    Bundle.open(path, verified=seen).close()
    with Bundle.open(path, verified=seen) as bundle, bundle.loading(bundle.manifest.variants[0].file) as data:
        assert data == noise and len(seen) == 1  # nothing new was verified
    content = path.read_bytes()
    place = content.index(noise[:64]) + 1_000_000
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(BundleError, match=r"damaged or cut short|not what the manifest says"):
        Bundle.open(path, verified=seen)  # it has changed: all of it is verified
    found = path.stat()  # and where the file system hides the change, what is loaded is still hashed
    forged = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    seen[0] = msgspec.structs.replace(seen[0], place=forged)
    with Bundle.open(path, verified=seen) as bundle:
        name = bundle.manifest.variants[0].file
        with pytest.raises(BundleError, match="not what the manifest says"), bundle.loading(name):
            raise ValueError("the runtime refuses it")
        with pytest.raises(BundleError, match="not what the manifest says"):
            bundle.read(name)


def test_writing_is_reproducible_and_leaves_nothing_when_it_fails(good: Path, tmp_path: Path) -> None:
    with Bundle.open(good) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        manifest = bundle.manifest
    archive.write(tmp_path / "a", manifest, files)
    archive.write(tmp_path / "b", manifest, files)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == good.read_bytes()
    with pytest.raises(BundleError):
        archive.write(tmp_path / "c", manifest, {**files, "models/extra": b""})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_manifest_round_trip(good: Path) -> None:
    with Bundle.open(good) as bundle:
        assert decode(encode(bundle.manifest), "here") == bundle.manifest


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_escapes(data: st.DataObject, tiny_run: dict[str, Any]) -> None:
    """Any byte changed: the bundle is refused, or it reads as exactly the same contents."""
    original = Path(tiny_run["bundle"]).read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    value = data.draw(st.integers(0, 255))
    spoiled = bytearray(original)
    spoiled[position] = value
    with zipfile.ZipFile(io.BytesIO(original)) as zipped:
        whole = {n: zipped.read(n) for n in zipped.namelist()}
    path = Path(tiny_run["runs"]).parent / f"fuzz-{position}-{value}"
    path.write_bytes(spoiled)
    try:
        with Bundle.open(path) as bundle:
            assert all(bundle.read(name) == whole[name] for name in bundle.manifest.files)
    except BundleError:
        pass
    finally:
        path.unlink()
