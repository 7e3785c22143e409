"""Spectra of sound against arrays that TensorFlow, librosa and torchaudio made (scripts/preprocessing_goldens.py)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import (
    Clip,
    FrameStack,
    Normalize,
    Pad,
    Resample,
    Reshape,
    SoundFeatures,
    Step,
    ToFloat,
    Transpose,
    Window,
    prepare,
    sizes_after,
)
from edgeloop_contract.preprocessing.conventions import CONVENTIONS
from edgeloop_contract.resampling import model_rate_hz, resample

GOLDENS = Path(__file__).parent.parent / "goldens" / "preprocessing"
LIBROSA, TORCHAUDIO = CONVENTIONS["librosa_log_mel"], CONVENTIONS["torchaudio_log_mel"]
SMALL = replace(LIBROSA, rate_hz=16000, window=512, hop=160, bands=40)
SMALL_MFCC = replace(SMALL, coefficients=13)
KALDI = CONVENTIONS["kaldi_fbank"]
WAKE = SoundFeatures(
    rate_hz=16000, window=480, hop=320, fft=512, function="hamming", periodic=False, preemphasis=1 - 2**-5, preemphasis_of="sound",
    bands=40, triangles="mel", log="decibel", floor=1e-30,
)  # fmt: skip
TO_COUNTS, TO_FLOAT, TO_LOUDEST = [ToFloat(1.0)], [ToFloat()], [ToFloat(by="max")]

# Name → the steps that equal the library, and by how much a value may differ (measured; in nepers, decibels or amplitude).
CASES: dict[str, tuple[list[Step], float]] = {
    "tensorflow_log_mel": ([*TO_FLOAT, CONVENTIONS["tensorflow_log_mel"]], 5e-5),
    "tensorflow_mfcc": ([*TO_FLOAT, CONVENTIONS["tensorflow_mfcc"]], 5e-5),
    "tensorflow_spectrogram": ([*TO_FLOAT, SoundFeatures(16000, 255, 128, 256, periodic=False, power=1.0)], 5e-5),
    "tensorflow_yamnet": (
        [*TO_FLOAT, SoundFeatures(
            16000, 400, 160, 512, power=1.0, bands=64, low_hz=125.0, high_hz=7500.0, triangles="mel", log="natural", offset=1e-3
        )], 5e-5,
    ),
    "tensorflow_speech_commands": ([*TO_FLOAT, CONVENTIONS["tensorflow_speech_commands"]], 5e-5),
    "mlperf_tiny_keyword": ([*TO_LOUDEST, CONVENTIONS["mlperf_tiny_keyword"]], 5e-5),
    "mlperf_tiny_wake_word": ([*TO_FLOAT, WAKE, Normalize([10 * float(np.log10(480)) - 52], [64]), Clip(0, 1)], 5e-5),
    "librosa_log_mel": ([*TO_FLOAT, LIBROSA], 5e-5),
    "librosa_log_mel_loudest": ([*TO_FLOAT, replace(SMALL, reference="loudest")], 5e-5),
    "librosa_mel_htk": (
        [*TO_FLOAT, replace(SMALL, mel="htk", norm="none", low_hz=60.0, high_hz=7000.0, log="none", floor=0.0, range_db=0.0)], 5e-4
    ),
    "librosa_log_mel_reflect": (
        [*TO_FLOAT, replace(SMALL, window=400, fft=1024, bands=64, centre="reflect", range_db=0.0)], 5e-5
    ),
    "librosa_amplitude": (
        [*TO_FLOAT, SoundFeatures(16000, 512, 256, power=1.0, log="decibel", floor=1e-5, range_db=80.0)], 5e-5
    ),
    "librosa_mfcc": ([*TO_FLOAT, CONVENTIONS["librosa_mfcc"]], 5e-5),
    "librosa_mfcc_lifter": ([*TO_FLOAT, replace(SMALL_MFCC, lifter=22.0)], 3e-4),
    "librosa_mfcc_plain": ([*TO_FLOAT, replace(SMALL_MFCC, dct="plain")], 5e-4),
    "mlperf_tiny_anomaly": ([*TO_FLOAT, CONVENTIONS["mlperf_tiny_anomaly"], Window(5, 1), Reshape([640])], 5e-5),
    "torchaudio_log_mel": ([*TO_FLOAT, TORCHAUDIO], 8e-4),
    "torchaudio_slaney": (
        [*TO_FLOAT, replace(
            TORCHAUDIO, window=400, hop=160, fft=1024, bands=64, mel="slaney", norm="slaney", log="log10", offset=1e-6, floor=0.0
        )], 5e-5,
    ),
    "torchaudio_magnitude": (
        [*TO_FLOAT, replace(
            TORCHAUDIO, window=512, hop=160, bands=40, power=1.0, centre="no", function="hamming", range_db=60.0
        )], 1e-4,
    ),
    "torchaudio_mfcc": ([*TO_FLOAT, CONVENTIONS["torchaudio_mfcc"]], 5e-4),
    "torchaudio_mfcc_log": (
        [*TO_FLOAT, replace(TORCHAUDIO, window=512, hop=160, bands=40, log="natural", offset=1e-6, floor=0.0, coefficients=13)], 5e-5
    ),
    "kaldi_fbank": ([*TO_COUNTS, KALDI], 1.5e-4),
    "kaldi_fbank_hann": ([*TO_COUNTS, replace(KALDI, bands=80, function="hann", high_hz=7600.0)], 1e-3),
}  # fmt: skip


@cache
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS / "sound.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_library(name: str) -> None:
    steps, allowed = CASES[name]
    expected = goldens()[name]
    made = prepare(steps, goldens()["recording"]).values
    made = made if name == "mlperf_tiny_anomaly" else made[0]
    assert made.dtype == np.float32 and made.shape == expected.shape
    assert np.abs(made - expected).max() <= allowed


def noise(points: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 3000, points).astype(np.int16)[:, None]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_silence_and_loud_sound_are_finite_and_read_back_the_same(name: str) -> None:
    step = CONVENTIONS[name]
    for sound in (np.zeros((4000, 1), np.int16), np.full((4000, 1), 32767, np.int16)):
        prepared = prepare([ToFloat(), step], sound)
        assert prepared.indices == [0] and np.isfinite(prepared.values).all()
        assert prepared.values.shape[1:] == tuple(sizes_after([Window(4000, 4000), ToFloat(), step]).values())
    assert msgspec.json.decode(msgspec.json.encode(step), type=Step) == step


def test_long_sound_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare([ToFloat(), SMALL_MFCC], noise(20000)).values
    monkeypatch.setattr("edgeloop_contract.preprocessing.sound.BLOCK_VALUES", 2000)
    np.testing.assert_array_equal(prepare([ToFloat(), SMALL_MFCC], noise(20000)).values, whole)


def test_a_window_of_a_longer_recording_is_as_by_itself() -> None:
    sound, steps = noise(40000), [ToFloat(), CONVENTIONS["mlperf_tiny_keyword"]]
    made = prepare([Window(16000, 8000), *steps], sound)
    assert made.values.shape == (4, 49, 10) and made.indices == [0, 1, 2, 3]
    np.testing.assert_array_equal(made.values[[2]], prepare(steps, sound[16000:32000]).values)


SHORT: dict[str, tuple[list[Step], np.ndarray, str]] = {
    "too short": ([ToFloat(), SMALL], noise(0), "needs"),
    "shorter than a frame": ([ToFloat(), replace(SMALL, centre="no")], noise(500), "500 points; sound_features needs 512"),
    "nothing to reflect": ([ToFloat(), TORCHAUDIO], noise(200), "200 points; sound_features reflects 200"),
    "counts": ([SMALL], noise(4000), "put to_float before it"),
    "two channels": ([ToFloat(), SMALL], np.zeros((4000, 2)), "takes one channel"),
    "8 bits": ([ToFloat()], np.zeros((4000, 1), np.uint8), "16-bit samples"),
    "wide numbers": ([ToFloat()], np.full((4000, 1), 40000), "16-bit samples"),
    "too few frames": ([ToFloat(), SMALL, FrameStack(50)], noise(4000), "26 frames; frame_stack joins 50"),
    "no frames": ([FrameStack(1)], np.zeros((0, 2)), "0 frames"),
    "another number of values": ([Reshape([5])], noise(4), "needs 5 values"),
    "another number of axes": ([Transpose([1, 0, 2])], noise(4), "takes 3 axes"),
    "two windows": ([Window(10, 10), Window(5, 5)], noise(40), "4 windows already"),
    "a picture": ([Resample(16000, 8000)], np.zeros((4, 4, 3)), "resample takes a series"),
}


@pytest.mark.parametrize("name", SHORT)
def test_what_does_not_fit_gets_a_sentence(name: str) -> None:
    steps, recording, message = SHORT[name]
    with pytest.raises(DataError, match=message):
        prepare(steps, recording)


WRONG = {
    "window longer than fft": {"fft": 256},
    "above half of the rate": {"high_hz": 9000.0},
    "no band": {"low_hz": 8000.0},
    "log of zero": {"floor": 0.0},
    "range without decibel": {"log": "natural"},
    "more coefficients than bands": {"coefficients": 41},
    "coefficients of no log": {"coefficients": 4, "log": "none", "range_db": 0.0},
    "no bin left": {"first_bin": 257},
    "lifter of bands": {"lifter": 22.0},
    "a frame of a gigabyte": {"fft": 1 << 28},
    "an unknown window": {"function": "kaiser"},
    "an unknown setting": {"n_mels": 40},
}


@pytest.mark.parametrize("name", WRONG)
def test_parameters_that_contradict_each_other_are_refused(name: str) -> None:
    text = msgspec.json.encode({**msgspec.to_builtins(SMALL), **WRONG[name]})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Step)


def test_frames_are_stacked_in_order() -> None:
    frames = np.arange(12, dtype=np.float32).reshape(6, 2)
    made = prepare([FrameStack(3, 2)], frames).values
    np.testing.assert_array_equal(made[0], [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]])
    np.testing.assert_array_equal(prepare([Transpose([1, 0])], frames).values[0], frames.T)


def test_windows_of_features_are_counted_anew() -> None:
    made = prepare([ToFloat(), SMALL, Window(5, 5), Reshape([200])], noise(4000))
    assert made.values.shape == (5, 200) and made.indices == [0, 1, 2, 3, 4]


def test_a_sample_that_a_step_makes_infinite_is_refused_by_itself() -> None:
    series = np.ones((30, 1))
    series[12] = 1e300
    made = prepare([Window(10, 10), Normalize([0.0], [1e-3])], series)
    assert made.indices == [0, 2] and "1 of 10 values" in made.refused[1]


def test_sound_to_floats_and_another_rate() -> None:
    sound = noise(8000)
    floats = prepare([ToFloat()], sound).values
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats[0], (sound / 32768).astype(np.float32))
    np.testing.assert_array_equal(prepare([ToFloat()], floats[0]).values, floats)
    assert prepare([ToFloat(by="max")], sound).values.max() == 1
    assert not prepare([ToFloat(by="max")], sound * 0).values.any()
    steps: list[Step] = [Resample(16000, 44100), ToFloat()]
    assert model_rate_hz(steps) == 16000 and model_rate_hz([ToFloat(), SMALL]) == 16000
    assert sizes_after([Window(8000, 8000), *steps]) == {0: 22050}
    np.testing.assert_array_equal(prepare(steps[:1], sound).values[0], resample(sound, 16000, 44100))


def test_padding_at_the_end_and_old_recipes() -> None:
    sound = np.arange(1, 6, dtype=np.int16)[:, None]
    np.testing.assert_array_equal(prepare([Pad(8, "start")], sound).values[0, :, 0], [1, 2, 3, 4, 5, 0, 0, 0])
    np.testing.assert_array_equal(prepare([Pad(3, "start")], sound).values[0, :, 0], [1, 2, 3])
    assert msgspec.json.encode(Pad(8)) == b'{"step":"pad","length":8}'
