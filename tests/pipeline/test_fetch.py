"""Public data: checked by digest, with a remedy when they cannot be had."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from pathlib import Path

import pytest

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.cache.digests import sha256
from edgeloop_pipeline.data.download import Download, DownloadedFolder, PackageFile

CONTENT = b"data" * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9/file.gz"  # the discard port: refused at once


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELOOP_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_known_place_is_used_when_its_content_is_right(tmp_path: Path) -> None:
    damaged, good = tmp_path / "damaged.gz", tmp_path / "good.gz"
    damaged.write_bytes(gzip.compress(CONTENT)[:-9])
    good.write_bytes(gzip.compress(CONTENT, mtime=7))
    assert Download(NOWHERE, DIGEST, (damaged, good), unpack=gzip.decompress).path() == good


def test_damaged_and_unreachable(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gz"
    damaged.write_bytes(b"x")
    with pytest.raises(DataError, match=r"cannot be fetched.*damaged\.gz is damaged.*put it at .*file\.gz"):
        Download(NOWHERE, DIGEST, (damaged,), unpack=gzip.decompress).path()


def test_what_was_put_in_the_cache_by_hand_is_found(empty_cache: Path) -> None:
    place = empty_cache / DIGEST[:16] / "file.gz"
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert Download(NOWHERE, DIGEST).path() == place


def test_a_package_that_does_not_exist() -> None:
    wanted = PackageFile("edgeloop-no-such-package", "9.9", "a/b.npy", DIGEST)
    with pytest.raises(DataError, match=r"cannot be fetched.*pip install --no-deps edgeloop-no-such-package==9.9"):
        wanted.path()


def test_an_installed_package_is_used() -> None:
    """Any installed file will do; numpy's own metadata is there."""
    import importlib.metadata

    distribution = importlib.metadata.distribution("numpy")
    path = Path(str(distribution.locate_file("numpy/__init__.py")))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert PackageFile("numpy", distribution.version, "numpy/__init__.py", digest).path() == path


def test_a_folder_from_an_archive(tmp_path: Path, empty_cache: Path) -> None:
    """Only its own kind of files, flat, and only when they are the known ones; a second time from the cache."""
    made = tmp_path / "made"
    (made / "recordings").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "notes.txt"):
        (made / "recordings" / name).write_bytes(name.encode())
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(made, "set-1.0")
    digest = sha256(made / "recordings", ".wav")
    wanted = DownloadedFolder((tmp_path / "all.tar.gz").as_uri(), digest, ".wav")
    folder = wanted.path()
    assert sorted(p.name for p in folder.iterdir()) == ["a.wav", "b.wav"]
    (tmp_path / "all.tar.gz").unlink()
    assert wanted.path() == folder
    (folder / "b.wav").write_bytes(b"changed")
    with pytest.raises(DataError, match=r"cannot be fetched.*does not contain the known files; put its \.wav files in"):
        wanted.path()
    with pytest.raises(DataError, match="differ from the known ones"):
        with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
            archive.add(made, "set-1.0")
        DownloadedFolder((tmp_path / "all.tar.gz").as_uri(), "0" * 64, ".wav").path()
