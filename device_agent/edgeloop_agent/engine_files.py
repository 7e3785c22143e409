"""What is known of TensorRT's engines on this device: by what they were built, and whether building or loading them ended well.

Nothing here loads a library of NVIDIA's: versions are read from names of files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edgeloop_agent import device_state
from edgeloop_agent.caches import GraphCache
from edgeloop_contract.archive import Bundle
from edgeloop_contract.files import publish

__all__ = ["MAX_TRIES", "EngineFiles", "built_by"]

MAX_TRIES = 5  # builds and loads in a row that did not end well, before they are left until something else would build them
MADE_BY = "engines-built-by.txt"
LIBRARY = "libnvinfer.so.*.*"
LIBRARY_FOLDERS = (
    "/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/local/lib", "/usr/local/tensorrt/lib", "/usr/local/cuda/lib64", "/opt/tensorrt/lib",
)  # fmt: skip


class _Tries(msgspec.Struct, frozen=True):
    """`count`: in a row; `step`: of the last one."""

    built_by: str
    count: int
    step: Literal["build", "load"]


def built_by(system: Path = Path("/")) -> str:
    """TensorRT's library, the driver and the GPU of this device, as far as files say; "" without any."""
    folders = [Path(f) for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f]
    folders += [each for pattern in LIBRARY_FOLDERS for each in sorted(system.glob(pattern.lstrip("/")))]
    folders += [Path(device_state.__file__).parents[1] / "tensorrt_libs"]
    libraries = next((found for folder in folders if (found := sorted(path.name for path in folder.glob(LIBRARY)))), [])
    driver = _first_line(system / "proc/driver/nvidia/version") or _first_line(system / "etc/nv_tegra_release")
    models = sorted(_model_of(path) for path in system.glob("proc/driver/nvidia/gpus/*/information"))
    return "; ".join(part for part in (*libraries[-1:], driver, *models) if part)


def _first_line(path: Path) -> str:
    try:
        return " ".join(path.read_text(errors="replace").partition("\n")[0].split())
    except OSError:
        return ""


def _model_of(path: Path) -> str:
    try:
        fields = dict(line.split(":", 1) for line in path.read_text(errors="replace").splitlines() if ":" in line)
    except OSError:
        return ""
    return fields.get("Model", "").strip()


@dataclass(frozen=True)
class EngineFiles:
    """Of one device; `graphs`: where they lie. Where the state folder cannot be written nothing is known, and nothing raised."""

    state: Path
    graphs: GraphCache
    built_by: str

    def discard_others(self) -> str:
        """Delete all engines where something else than today's built them; what that was, "" where nothing was deleted.

        A cache without a note is an earlier release's, and believed.
        """
        note, mine = self.graphs.folder / MADE_BY, self.built_by
        try:
            before = note.read_text()
        except OSError:
            before = mine
        with contextlib.suppress(OSError):
            if before != mine:
                self.discard()
            if not note.exists() or before != mine:
                self.graphs.folder.mkdir(parents=True, exist_ok=True)
                publish(note, mine.encode())
        return before if before != mine else ""

    def discard(self) -> None:
        """Delete all engines: which of them a provider refused is not known."""
        with contextlib.suppress(OSError):
            for path in list(self.graphs.engines.iterdir()):
                path.unlink(missing_ok=True)

    def begin(self, bundle: Bundle, providers: Sequence[str], variant: str, step: Literal["build", "load"]) -> None:
        """A build or a load begins; `ended_well` or `stopped` say its end, and without one the process died or it failed."""
        tries = self._tries(bundle, providers, variant)
        self._write(bundle, providers, variant, _Tries(self.built_by, tries.count + 1, step))

    def stopped(self, bundle: Bundle, providers: Sequence[str], variant: str) -> None:
        """It was stopped by request, and says nothing of the engines: one that was loading them did not spoil them."""
        tries = self._tries(bundle, providers, variant)
        self._write(bundle, providers, variant, msgspec.structs.replace(tries, count=max(0, tries.count - 1), step="build"))

    def ended_well(self, bundle: Bundle, providers: Sequence[str], variant: str) -> None:
        with contextlib.suppress(OSError):
            self._path(bundle, providers, variant).unlink(missing_ok=True)

    def spoiled(self, bundle: Bundle, providers: Sequence[str], variant: str) -> bool:
        """Whether the last load from these engines did not end well."""
        tries = self._tries(bundle, providers, variant)
        return bool(tries.count) and tries.step == "load"

    def given_up(self, bundle: Bundle, providers: Sequence[str], variant: str) -> bool:
        return self._tries(bundle, providers, variant).count >= MAX_TRIES

    def _path(self, bundle: Bundle, providers: Sequence[str], variant: str) -> Path:
        return device_state.engines_file(self.state, bundle, providers, variant).with_suffix(".tries")

    def _tries(self, bundle: Bundle, providers: Sequence[str], variant: str) -> _Tries:
        try:
            found = msgspec.json.decode(self._path(bundle, providers, variant).read_bytes(), type=_Tries)
        except (OSError, msgspec.MsgspecError):
            found = None
        return found if found is not None and found.built_by == self.built_by else _Tries(self.built_by, 0, "build")

    def _write(self, bundle: Bundle, providers: Sequence[str], variant: str, tries: _Tries) -> None:
        with contextlib.suppress(OSError):
            publish(self._path(bundle, providers, variant), msgspec.json.encode(tries))
