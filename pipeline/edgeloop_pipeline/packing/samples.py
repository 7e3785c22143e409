"""Sample data for a bundle that is packed: a folder, one file, or arrays by input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeloop_agent.sources.readers import ENDINGS, read
from edgeloop_contract.arrays import Array, evenly_spaced_rows
from edgeloop_contract.errors import DataError

__all__ = ["SampleFile", "sample_files"]

MAX_FILES = 4096


@dataclass(frozen=True)
class SampleFile:
    """A recording on disk. `label`: the folder's name, "" where the file lies in no folder of its own."""

    path: Path
    label: str

    @property
    def name(self) -> str:
        return self.path.name

    def read(self) -> Array | Mapping[str, Array]:
        """One array, or one by input. It is read at each call: many pictures do not fit into memory. Raises DataError."""
        recording = read(self.path)
        if recording.inputs is not None:
            return recording.inputs
        if recording.values is None:
            raise DataError(f"{self.path}: {recording.refused}")
        return recording.values


def sample_files(place: Path, facts: list[str]) -> list[SampleFile]:
    """Recordings in `place`, sorted by path: pictures, sound, tables, .npy, and .npz with an array for each input.

    Of very many, `MAX_FILES` evenly spaced ones; `facts` says so. Raises DataError where there is none.
    """
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; check --samples")
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not files:
        raise DataError(f"{place}: holds no file that edgeloop reads ({', '.join(sorted(ENDINGS))})")
    if len(files) > MAX_FILES:
        facts.append(f"{MAX_FILES} of {len(files)} sample files are used, evenly spaced")
    chosen = [files[i] for i in evenly_spaced_rows(len(files), MAX_FILES)]
    return [SampleFile(path, path.parent.name if path.parent != place and place.is_dir() else "") for path in chosen]
