"""Sample data for a bundle that is packed: a folder, one file, or arrays by input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeloop_agent.sources.readers import ENDINGS, read
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

__all__ = ["SampleFile", "sample_files"]

MAX_FILES = 4096


@dataclass(frozen=True)
class SampleFile:
    """`values`: one array, or one by input. `label`: the folder's name, "" where the file lies in no folder of its own."""

    name: str
    values: Array | Mapping[str, Array]
    label: str


def sample_files(place: Path) -> Iterator[SampleFile]:
    """Recordings in `place`, sorted by path: pictures, sound, tables, .npy, and .npz with an array for each input.

    Raises DataError where there is none, or one cannot be read.
    """
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; check --samples")
    known = sorted(ENDINGS)
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix.lower() in known and p.is_file())
    if not files:
        raise DataError(f"{place}: holds no file that edgeloop reads ({', '.join(known)})")
    for path in files[:MAX_FILES]:
        label = path.parent.name if place.is_dir() and path.parent != place else ""
        yield SampleFile(path.name, _read(path), label)


def _read(path: Path) -> Array | Mapping[str, Array]:
    recording = read(path)
    if not recording.is_read:
        raise DataError(f"{path}: {recording.refused}")
    return recording.inputs or recording.values  # type: ignore[return-value]
