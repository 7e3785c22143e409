"""Sound as files have it, and as a model hears it: every format, rate and number of channels, or a sentence."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from scipy import signal

from edgeloop_agent.answering import Answering
from edgeloop_agent.engine import Answer
from edgeloop_agent.engine import Engine as AnsweringEngine
from edgeloop_agent.metrics import Counts
from edgeloop_agent.sources import Recording
from edgeloop_agent.sources.json_records import json_record
from edgeloop_agent.sources.readers import read
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.cleaning import (
    Blurred,
    Clipped,
    Exposure,
    FillMissing,
    Flat,
    Hampel,
    NearDuplicate,
    Resample,
    Silent,
    Stuck,
)  # fmt: skip
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import Classification, TensorSpec
from edgeloop_contract.preprocessing import Grayscale, LogMel, Resize, prepare
from edgeloop_contract.resampling import resample, to_model_rate
from manifests import with_input
from serving import GOLDEN


def tone(hz: float, rate_hz: int, seconds: float = 0.5, channels: int = 1) -> np.ndarray:
    """(T, channels) int16."""
    wave = 12000 * np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz)
    return np.rint(wave).astype(np.int16)[:, None].repeat(channels, axis=1)


@pytest.mark.parametrize(
    ("from_hz", "to_hz"),
    [(8000, 16000), (16000, 8000), (44100, 16000), (48000, 16000), (22050, 16000), (16000, 16001), (11025, 48000)],
)
def test_resampling_is_scipys(from_hz: int, to_hz: int) -> None:
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(4000, 2)), axis=0)
    values -= values.mean(axis=0)
    found = resample(values, from_hz, to_hz)
    expected = signal.resample_poly(values, to_hz, from_hz, axis=0)
    assert found.shape == expected.shape
    inner = slice(60, -60)
    assert np.abs(found - expected)[inner].max() < 5e-3 * np.abs(values).max()


@pytest.mark.parametrize("from_hz", [8000, 11025, 22050, 32000, 44100, 48000, 96000, 192000])
def test_a_tone_is_the_same_tone_at_another_rate(from_hz: int) -> None:
    found = resample(tone(1000, from_hz), from_hz, 16000)
    assert found.dtype == np.int16 and len(found) == 8000
    assert np.abs(found[200:-200].astype(float) - tone(1000, 16000)[200:-200]).max() < 12000 * 4e-3


def test_what_the_lower_rate_cannot_hold_is_gone_and_a_constant_stays() -> None:
    assert np.abs(resample(tone(6000, 48000), 48000, 8000)[100:-100]).max() < 40
    loud = np.full((3000, 1), 32767, np.int16)
    assert (resample(loud, 44100, 16000)[50:-50] == 32767).all()
    assert resample(loud[:0], 44100, 16000).shape == (0, 1)


@pytest.mark.parametrize("rate", [0, -8000, 99, 10**9])
def test_a_rate_that_no_sound_has_is_refused(rate: int) -> None:
    with pytest.raises(DataError, match=f"sound at {rate} Hz"):
        resample(tone(440, 8000), rate, 16000)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (44100, 1), (48000, 2), (8000, 6)])
def test_a_model_hears_the_same_whatever_the_microphone(rate: int, channels: int) -> None:
    step = LogMel(rate_hz=16000, window=512, hop=256, bands=16, high_hz=3500.0)
    own = prepare([step], tone(900, 16000)).values[0].astype(int)
    other = prepare([step], to_model_rate([step], tone(900, rate, channels=channels), rate)).values[0].astype(int)
    assert np.abs(own[2:-2].argmax(axis=1) - other[2:-2].argmax(axis=1)).max() == 0
    loudest = own[2:-2] > 150  # within 33 dB of the loudest
    assert np.abs(own[2:-2] - other[2:-2])[loudest].max() <= 6


def test_what_is_no_sound_for_a_model_is_left_alone() -> None:
    series = np.zeros((100, 6))
    assert to_model_rate([], series, 50) is series
    step = LogMel(rate_hz=16000, window=512, hop=256, bands=16)
    assert to_model_rate([step], tone(440, 16000), None).shape == (8000, 1)


def wav(values: np.ndarray, rate_hz: int = 16000, kind: int = 1, extensible: bool = False) -> bytes:
    """`values`: (T, channels) of the file's own type; 24-bit samples as rows of three bytes, (T, channels, 3)."""
    channels, width = values.shape[1], values.itemsize * (values.shape[2] if values.ndim == 3 else 1)
    plain = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else kind, channels, rate_hz, rate_hz * channels * width, channels * width, 8 * width
    )
    if extensible:
        plain += struct.pack("<HHIH", 22, 8 * width, 0, kind) + bytes.fromhex("000000001000800000aa00389b71")
    data = values.tobytes()
    body = (
        b"WAVE"
        + struct.pack("<4sI", b"fmt ", len(plain))
        + plain
        + b"LIST\x03\0\0\0abc\0"
        + struct.pack("<4sI", b"data", len(data))
        + data
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


SOUND = tone(500, 16000, 0.05, 2)
WIDE = SOUND.astype("<i4") << 16
KINDS = {
    "8 bits": (wav((SOUND // 256 + 128).astype(np.uint8)), 256),
    "16 bits": (wav(SOUND), 0),
    "24 bits": (wav(np.ascontiguousarray(WIDE[..., None].view(np.uint8)[..., 1:])), 0),
    "32 bits": (wav(WIDE), 0),
    "floats": (wav((SOUND / 32768).astype("<f4"), kind=3), 0),
    "long floats": (wav((SOUND / 32768).astype("<f8"), kind=3), 0),
    "extensible 16 bits": (wav(SOUND, extensible=True), 0),
    "extensible 24 bits": (wav(np.ascontiguousarray(WIDE[..., None].view(np.uint8)[..., 1:]), extensible=True), 0),
    "extensible floats": (wav((SOUND / 32768).astype("<f4"), kind=3, extensible=True), 0),
    "of unknown length": (wav(SOUND).replace(struct.pack("<4sI", b"data", SOUND.nbytes), b"data\xff\xff\xff\xff"), 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_plain_kind_of_wav_is_read_with_its_rate(name: str, tmp_path: Path) -> None:
    data, error = KINDS[name]
    (tmp_path / "a.WAV").write_bytes(data)
    found = read(tmp_path / "a.WAV")
    assert not found.refused and found.values is not None
    assert found.rate_hz == 16000 and found.values.dtype == np.int16 and found.values.shape == SOUND.shape
    assert np.abs(found.values.astype(int) - SOUND).max() <= error


@pytest.mark.parametrize(("subtype", "error"), [("PCM_S8", 256), ("PCM_16", 0), ("PCM_24", 0)])
def test_flac(subtype: str, error: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", SOUND, 44100, subtype=subtype)
    found = read(tmp_path / "a.flac")
    assert found.values is not None and found.rate_hz == 44100 and np.abs(found.values.astype(int) - SOUND).max() <= error


REFUSED = {
    "empty file": (b"", "the file is empty"),
    "no sound": (wav(SOUND[:0]), "no sound in it"),
    "cut short": (wav(SOUND)[:-100], "cut short"),
    "only a head": (wav(SOUND)[:40], "without its format or without sound"),
    "mu-law": (wav(SOUND.astype(np.uint8), kind=7), "µ-law in a WAV; save it as 16-bit PCM"),
    "large": (b"RF64" + wav(SOUND)[4:], "RF64"),
    "text": (b"hello, world", "no WAV"),
    "no channels": (wav(SOUND).replace(struct.pack("<HHI", 1, 2, 16000), struct.pack("<HHI", 1, 0, 16000)), "head is damaged"),
    "12 bytes a sample": (wav(np.zeros((9, 1, 12), np.uint8)), "96-bit samples"),
    "not finite": (wav(np.full((9, 1), np.nan, "<f4"), kind=3), "no numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_sound_that_cannot_be_read_is_refused_in_words(name: str, tmp_path: Path) -> None:
    data, said = REFUSED[name]
    (tmp_path / "a.wav").write_bytes(data)
    found = read(tmp_path / "a.wav")
    assert found.values is None and said in found.refused


def test_flac_that_unpacks_to_more_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros((100_000, 1), np.int16), 44100)
    monkeypatch.setattr("edgeloop_agent.sources.sounds.MAX_SOUND_BYTES", 199_999)
    assert "at most 199999 bytes are unpacked" in read(tmp_path / "a.flac").refused
    (tmp_path / "b.flac").write_bytes(b"fLaC" + bytes(100))
    assert "no FLAC that can be read" in read(tmp_path / "b.flac").refused


def test_flac_without_its_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.flac", SOUND, 44100)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert "pip install 'edgeloop[sound]'" in read(tmp_path / "a.flac").refused


def test_the_agent_fits_sound_and_grey_pictures_to_the_model() -> None:
    class Engine:
        def answers(self, values: np.ndarray) -> Iterator[Answer]:
            self.seen = values
            yield Answer(0, label="low", milliseconds=1.0)

    with Bundle.open(GOLDEN) as golden:
        manifest = golden.manifest
    step, engine = LogMel(rate_hz=16000, window=512, hop=256, bands=16), Engine()
    sound = with_input(manifest, preprocessing=[step])
    counts = Counts()
    answering = Answering(sound, lambda: engine, counts)  # type: ignore[arg-type, return-value]
    assert next(answering.lines(Recording("a", tone(700, 8000, channels=2), rate_hz=8000))).label == "low"
    assert engine.seen.shape == (8000, 1)
    refused = next(answering.lines(Recording("b", tone(700, 8000), rate_hz=0))).refused
    assert "sound at 0 Hz" in refused and counts.refused["does_not_fit"] == 1
    picture = with_input(manifest, preprocessing=[], sample=TensorSpec(dtype="uint8", shape=[8, 9, 3]))
    grey = np.arange(72, dtype=np.uint8).reshape(8, 9)
    list(Answering(picture, lambda: engine, Counts()).lines(Recording("c", grey)))  # type: ignore[arg-type, return-value]
    assert engine.seen.shape == (8, 9, 3) and (engine.seen == grey[..., None]).all()


@pytest.mark.parametrize(
    ("label", "names", "right"),
    [(0, ["0", "1"], True), (1, ["0", "1"], False), (0.0, ["0", "1"], True), (False, ["False", "True"], True), (False, ["0", "1"], True), (True, ["no", "yes"], False), ("0", ["0", "1"], True),
     (0, ["0.0", "1.0"], True), (False, ["false", "true"], True), (None, ["0", "1"], None), ("", ["0", "1"], None)],
)  # fmt: skip
def test_labels_that_are_numbers(label: object, names: list[str], right: bool | None) -> None:
    class Engine:
        def answers(self, values: np.ndarray) -> Iterator[Answer]:
            yield Answer(0, label=names[0], milliseconds=1.0)

    with Bundle.open(GOLDEN) as golden:
        manifest = msgspec.structs.replace(golden.manifest, task=Classification(labels=names))
    counts = Counts()
    recording = json_record(json.dumps({"name": 0, "values": [[1, 2]], "label": label}), "line 1")
    assert recording.name == "0"
    list(Answering(manifest, Engine, counts).lines(recording))  # type: ignore[arg-type]
    assert counts.recent.labelled == (right is not None) and counts.recent.right == bool(right)


@pytest.mark.parametrize(
    ("rate", "found"),
    [(16000, 16000), (8000.0, 8000), (None, None), ("8000", "no"), (8000.5, "no"), (True, "no"), ([8000], "no"), (1e999, "no")],
)
def test_records_may_say_their_rate(rate: object, found: object) -> None:
    recording = json_record(json.dumps({"values": [[1], [2]], "rate_hz": rate}), "line 1")
    assert recording.rate_hz == found if found != "no" else '"rate_hz" is' in recording.refused


ODD_VALUES = [
    np.float64(3), np.zeros(0), np.zeros(5), np.zeros((0, 6)), np.zeros((100, 0)), np.zeros((1, 100, 6)), np.zeros((2, 2, 2, 2, 2)), np.zeros((100, 6), bool),
    np.zeros((100, 6), complex), np.zeros((100, 6), "U3"), np.zeros((100, 6), "datetime64[s]"), np.zeros(4, [("a", "f4")]), np.full((100, 6), np.nan),
    np.full((100, 6), 1e308), np.full((100, 6), 2**63, np.uint64), np.zeros((100, 6), ">f4"), np.zeros((100, 6), np.float16), np.full((100, 1), np.inf),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ODD_VALUES)))
def test_whatever_an_array_holds_it_is_answered_or_refused(number: int) -> None:
    values = np.asarray(ODD_VALUES[number])
    with Bundle.open(GOLDEN) as golden:
        variant = golden.manifest.variant("tflite-int8")
        engine = AnsweringEngine(golden, VariantChoice(variant.name, 1, ""))
        cleaning = [
            FillMissing(max_gap=3),
            Hampel(),
            Stuck(max_points=500),
            Resample(rate_hz=50, max_gap_seconds=1),
            Flat(min_std=1e-9),
            NearDuplicate(),
        ]
        for steps in (
            golden.manifest.preprocessing,
            [LogMel(rate_hz=16000, window=64, hop=32, bands=4)],
            [Grayscale(), Resize(height=4, width=4)],
        ):
            for cleaned in ([], cleaning, [Exposure(), Blurred(min_variance=1.0)], [Clipped(), Silent()]):
                manifest = msgspec.structs.replace(with_input(golden.manifest, preprocessing=list(steps)), cleaning=list(cleaned))
                answering = Answering(manifest, lambda: engine, Counts())
                for times in (None, np.arange(len(values) if values.ndim else 1) / 50):
                    lines = list(answering.lines(Recording("a", values, times=times, rate_hz=8000)))
                    assert lines and all(line.label or line.refused for line in lines)
