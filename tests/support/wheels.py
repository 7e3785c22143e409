"""Wheels for tests, without a network: of this repository's agent as another version, and of what is installed here."""

from __future__ import annotations

import os
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

from commands import BIN, HERE
from serving import Agent, write_config

ROOT = HERE.parent
NEEDED = ("numpy", "msgspec", "urllib3", "tuf", "prometheus-client", "securesystemslib")  # of the agent, without a runtime
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"


def wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str | bytes], needs: str = "", tag: str = "py3-none-any"
) -> Path:
    """A wheel of these files. `needs`: further lines of its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-{tag}.whl"
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for place, content in files.items():
            archive.writestr(zipfile.ZipInfo(place, (1980, 1, 1, 0, 0, 0)), content)
        for place, content in (
            (f"{info}/METADATA", METADATA.format(name=name, version=version) + needs),
            (f"{info}/WHEEL", WHEEL.format(tag=tag)),
        ):
            archive.writestr(zipfile.ZipInfo(place, (1980, 1, 1, 0, 0, 0)), content)
    return path


def agent_wheel(folder: Path, version: str, change: Callable[[str, str], str] = lambda _, text: text) -> Path:
    """This repository's agent as another version. `change`: a module's place and its text → another text."""
    files: dict[str, str | bytes] = {}
    for package in ("contract/edgeloop_contract", "device_agent/edgeloop_agent"):
        for path in sorted((ROOT / package).rglob("*")):
            place = str(path.relative_to((ROOT / package).parent))
            if path.is_file() and "__pycache__" not in place:
                files[place] = change(place, path.read_text()) if path.suffix == ".py" else path.read_bytes()
    needs = "".join(f"Requires-Dist: {name}\n" for name in NEEDED[:-1])
    return wheel(folder, "edgeloop", version, files, needs)


def installed_wheels(folder: Path) -> None:
    """Wheels of what the agent needs, as it is installed here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NEEDED:
        found = distribution(name)
        files = [f for f in found.files or [] if ".." not in f.parts and not str(f).endswith(".pyc") and f.name != "RECORD"]
        tags = [line.removeprefix("Tag: ") for line in (found.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
        path = folder / f"{name.replace('-', '_')}-{found.version}-{tags[0]}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(str(found.locate_file(file)), str(file))


@contextmanager
def kept_running(folder: Path, text: str, **environment: str) -> Iterator[Agent]:
    """As `serving`, started again whenever it ends, as systemd does."""
    config = write_config(folder, text)
    loop = f'while :; do "{BIN / "edgeloop-agent"}" serve "{config}"; echo "ended with $?"; sleep 0.1; done'
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", loop], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip
    agent = Agent(folder, process)
    try:
        agent.wait_ready()
        yield agent
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
