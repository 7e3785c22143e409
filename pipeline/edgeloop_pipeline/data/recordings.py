"""Writes raw recordings as files like those that a device reads."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from edgeloop_contract.arrays import Array, evenly_spaced_rows
from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.data.types import Splits

MAX_NAMED = 4  # labels in a file's name


def write_samples(splits: Splits, split: str, folder: Path, limit: int, rate_hz: int = 0) -> int:
    """Write up to `limit` recordings, evenly spread, named by their label. Returns their number.

    Series become CSV, images PNG, sound WAV if its `rate_hz` is known. Raises UsageError if the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    chosen = getattr(splits, split)
    rows = evenly_spaced_rows(len(chosen.labels), limit)
    for i in rows:
        label = np.asarray(chosen.labels[i])
        named = _named(splits, label)
        _write(np.asarray(chosen.recordings[i]), folder / f"{i:05d}_{named}".replace("/", "-").replace(" ", "_"), rate_hz)
    return len(rows)


def _named(splits: Splits, label: Array) -> str:
    """A label as a part of a file's name: a class, quantities, how many boxes there are, or which labels there are."""
    if label.dtype == np.uint8 and label.ndim == 1:
        return "_".join(splits.labels[i] for i in np.flatnonzero(label == 1)[:MAX_NAMED]) or "nothing"
    if label.ndim == 2 and label.dtype.kind == "u":
        there = [splits.labels[number] for number in np.unique(label).tolist() if number < len(splits.labels)]
        return "_".join(there[:MAX_NAMED]) or "nothing"
    if label.dtype.kind in "iu":
        return str(splits.labels[int(label)])
    if label.ndim == 2:
        return f"{int((label[:, 0] >= 0).sum())}_boxes"
    return "_".join(f"{v:.6g}" for v in np.atleast_1d(label))


def _write(recording: Array, stem: Path, rate_hz: int) -> None:
    if rate_hz and recording.dtype == np.int16:
        with wave.open(f"{stem}.wav", "wb") as file:
            file.setnchannels(recording.shape[-1])
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(recording.astype("<i2").tobytes())
        return
    if recording.ndim == 2 and recording.dtype != np.uint8:
        np.savetxt(f"{stem}.csv", recording, fmt="%.7g", delimiter=",")
        return
    from PIL import Image

    image = recording[..., 0] if recording.ndim == 3 and recording.shape[-1] == 1 else recording
    Image.fromarray(image).save(f"{stem}.png")
