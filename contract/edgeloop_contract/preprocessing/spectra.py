"""The arithmetic of spectra, mel bands and cepstra, in float64; `sound.SoundFeatures` says which of it, in which order."""

from functools import lru_cache

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["cepstrum", "levels", "mel_bands", "spectrum", "window_values"]

SLANEY_HZ, SLANEY_STEP = 200 / 3, float(np.log(6.4)) / 27  # Auditory Toolbox: linear below 1000 Hz, 27 steps to 6400 Hz above
SLANEY_KNEE_HZ, SLANEY_KNEE = 1000.0, 15.0


def window_values(function: str, periodic: bool, length: int) -> Array:
    """(length,) of a window function. povey is Kaldi's: Hann to the power 0.85."""
    if function == "rectangular" or length == 1:
        return np.ones(length)
    turn = np.cos(2 * np.pi * np.arange(length) / (length if periodic else length - 1))
    if function == "hamming":
        return np.asarray(0.54 - 0.46 * turn)
    hann = np.asarray(0.5 - 0.5 * turn)
    return hann if function == "hann" else np.maximum(hann, 0) ** 0.85


def spectrum(frames: Array, shape: Array, fft: int, power: float, remove_mean: bool, preemphasis: float) -> Array:
    """(frames, points) → (frames, fft // 2 + 1): |X|^power of each windowed frame."""
    if remove_mean:
        frames = frames - frames.mean(axis=1, keepdims=True)
    if preemphasis:
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        frames = frames - preemphasis * before
    transform = np.fft.rfft(frames * shape, fft)
    squared = transform.real**2 + transform.imag**2
    return np.asarray(squared if power == 2 else squared ** (power / 2))


def levels(values: Array, log: str, power: float, offset: float, floor: float) -> Array:
    """The logarithm of each value; decibel is 10 × log10 of a power, 20 × log10 of a magnitude."""
    if log == "none":
        return values
    safe = np.maximum(values + offset, floor)
    if log == "natural":
        return np.asarray(np.log(safe))
    return np.asarray(np.log10(safe) * (20 / power if log == "decibel" else 1.0))


def cepstrum(values: Array, count: int, dct: str, lifter: float) -> Array:
    """(frames, bands) → (frames, count): cosine transform of type II.

    plain: 2 × the sum; htk: √(2 / bands) × the sum; ortho: htk, and the first coefficient by √½.
    """
    bands = values.shape[1]
    turns = np.outer(np.arange(bands) + 0.5, np.arange(count))
    matrix = np.cos(np.pi / bands * turns) * (2.0 if dct == "plain" else np.sqrt(2 / bands))
    if dct == "ortho":
        matrix[:, 0] *= np.sqrt(0.5)
    made = values @ matrix
    if lifter:
        made *= 1 + lifter / 2 * np.sin(np.pi * np.arange(1, count + 1) / lifter)
    return np.asarray(made)


def _to_mel(hz: Array, mel: str) -> Array:
    if mel == "htk":
        return np.asarray(2595 * np.log10(1 + hz / 700))
    above = SLANEY_KNEE + np.log(np.maximum(hz, SLANEY_KNEE_HZ) / SLANEY_KNEE_HZ) / SLANEY_STEP
    return np.where(hz < SLANEY_KNEE_HZ, hz / SLANEY_HZ, above)


def _to_hz(mels: Array, mel: str) -> Array:
    if mel == "htk":
        return np.asarray(700 * (10 ** (mels / 2595) - 1))
    above = SLANEY_KNEE_HZ * np.exp(SLANEY_STEP * (mels - SLANEY_KNEE))
    return np.where(mels < SLANEY_KNEE, mels * SLANEY_HZ, above)


@lru_cache(maxsize=8)
def mel_bands(
    rate_hz: int, fft: int, bands: int, low_hz: float, high_hz: float, mel: str, triangles: str, norm: str, first_bin: int
) -> Array:
    """(fft // 2 + 1, bands): each band's triangle over the spectrum's bins."""
    bins = np.arange(fft // 2 + 1) * (rate_hz / fft)
    low, high = _to_mel(np.array([low_hz, high_hz]), mel)
    edges = np.linspace(low, high, bands + 2)
    hz = _to_hz(edges, mel)
    place, corners = (_to_mel(bins, mel), edges) if triangles == "mel" else (bins, hz)
    rising = (place[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - place[:, None]) / (corners[2:] - corners[1:-1])
    weights = np.maximum(0, np.minimum(rising, falling))
    weights[:first_bin] = 0
    if norm == "slaney":
        weights *= 2 / (hz[2:] - hz[:-2])
    weights.setflags(write=False)  # shared by all calls
    return np.asarray(weights)
