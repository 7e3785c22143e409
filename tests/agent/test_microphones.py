"""Microphones of any rate and channel count at the bundle's rate: by PortAudio's stand-in, arecord's, and raw sound on a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from commands import BIN, HERE, command
from edgeloop_agent.config import Source
from edgeloop_agent.sources.pcm import Arecord, Pcm
from edgeloop_agent.sources.resampler import Resampler
from edgeloop_agent.sources.sound import Microphone
from edgeloop_agent.sources.sound_blocks import SoundBlocks
from edgeloop_contract.errors import DataError
from serving import eventually, serving, write_config

LOUD = 16000
PAIRS = [
    (48000, 16000),
    (44100, 16000),
    (44100, 22050),
    (96000, 16000),
    (22050, 16000),
    (8000, 16000),
    (32000, 44100),
    (16000, 16001),
]
ARECORD = """#!{python}
# arecord as the agent calls it, of a device at 48 kHz: four channels, of which the third hears a tone
import argparse, math, os, struct, sys, time
parser = argparse.ArgumentParser()
for name, default in (("-D", "default"), ("-t", "wav"), ("-f", "U8")):
    parser.add_argument(name, default=default)
for name in ("-r", "-c"):
    parser.add_argument(name, type=int)
options = parser.parse_args()
assert (options.t, options.f) == ("raw", "S16_LE") and os.environ["LC_ALL"] == "C"
if options.D == "hw:9":
    sys.exit("arecord: main:831: audio open error: No such file or directory")
if options.r != 48000:
    print(f"Warning: rate is not accurate (requested = {{options.r}}Hz, got = 48000Hz)", file=sys.stderr, flush=True)
at = 0
while True:
    points = [int(8000 * math.sin(2 * math.pi * 440 * (at + i) / 48000)) for i in range(4800)]
    out = b"".join(struct.pack("<4h", 0, 0, p, 0)[: 2 * options.c] for p in points)
    sys.stdout.buffer.write(out[:1001]); sys.stdout.buffer.flush()
    sys.stdout.buffer.write(out[1001:]); sys.stdout.buffer.flush()
    at += 4800
    print("overrun!!! (at least 3.1 ms long)", file=sys.stderr, flush=True)
    time.sleep(0.02)
"""


def tone(hz: float, rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    return np.rint(LOUD * np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz)).astype(np.int16)[:, None]


def decibels(values: np.ndarray, loud: float = LOUD) -> float:
    return float(20 * np.log10(max(1e-9, np.sqrt((values.astype(float) ** 2).mean()) / (loud / np.sqrt(2)))))


def whole(from_hz: int, to_hz: int, values: np.ndarray, step: int = 4410) -> np.ndarray:
    resampler = Resampler(from_hz, to_hz)
    return np.concatenate([resampler.feed(values[at : at + step]) for at in range(0, len(values), step)])


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_what_the_lower_rate_cannot_hold_is_damped_by_60_decibels(from_hz: int, to_hz: int) -> None:
    half = min(from_hz, to_hz) / 2
    for share in (0.05, 0.3, 0.6, 0.9):  # kept, with what it is
        found = whole(from_hz, to_hz, tone(share * half, from_hz))[2000:-500]
        expected = tone(share * half, to_hz)[2000 : 2000 + len(found)]
        assert decibels(found.astype(float) - expected) < -60, share
    for share in (1.01, 1.2, 1.5, 1.9):
        if share * half < from_hz / 2:
            assert decibels(whole(from_hz, to_hz, tone(share * half, from_hz))[1000:]) < -60, share


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS[:6])
def test_resampling_is_scipys_with_the_same_window(from_hz: int, to_hz: int) -> None:
    rng = np.random.default_rng(0)
    values = np.rint(signal.lfilter(*signal.butter(4, 0.05), rng.normal(0, 30000, (20000, 2)), axis=0)).astype(np.int16)
    up, down = to_hz // np.gcd(from_hz, to_hz), from_hz // np.gcd(from_hz, to_hz)
    taps = signal.firwin(128 * max(up, down) + 1, 0.96 / max(up, down), window=("kaiser", 8.0))
    expected = signal.resample_poly(values.astype(float), up, down, axis=0, window=taps)
    found = whole(from_hz, to_hz, values)
    inner = slice(200, len(found) - 10)
    assert len(expected) - len(found) <= 64 * max(1.0, to_hz / from_hz) + 2
    assert decibels(found[inner] - expected[: len(found)][inner], float(np.abs(values).max())) < -65


def test_blocks_have_no_seams() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(-20000, 20000, (9000, 2)).astype(np.int16)
    for from_hz, to_hz in ((44100, 16000), (8000, 48000)):
        once = whole(from_hz, to_hz, values, 9000)
        for step, points in ((1, 600), (77, 9000), (4000, 9000)):
            parts = whole(from_hz, to_hz, values[:points], step)
            assert len(parts) and (parts == once[: len(parts)]).all() and (points < 9000 or len(parts) == len(once))
    constant = whole(48000, 16000, np.full((48000, 1), 32767, np.int16))
    assert (constant[200:] == 32767).all()
    with pytest.raises(DataError, match="sound at 50 Hz"):
        Resampler(50, 16000)


def test_a_channel_is_picked_or_all_are_mixed() -> None:
    sound = np.array([[0, 100, 5], [0, 200, 6]], np.int16)
    for channel, model_hz, expected in (
        (2, 16000, [[100], [200]]),
        (0, 16000, [[35], [69]]),
        (0, None, sound.tolist()),
        (3, None, [[5], [6]]),
    ):
        settings = Source(kind="pcm", channels=3, channel=channel, seconds=2 / 16000)
        (found,) = SoundBlocks(settings, 16000, model_hz).add(sound, 0)
        assert found.values is not None and found.values.tolist() == expected and found.rate_hz == 16000 and found.captured


def test_a_microphone_with_one_rate_is_opened_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE / "support" / "fakes"))
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    source = Microphone(Source(kind="microphone", where="only48", channels=2, seconds=0.1, poll_seconds=0.01))
    source.model_hz = 16000
    stop, said = threading.Event(), list[str]()
    for number, recording in enumerate(source.recordings(stop, said.append)):
        assert recording.values is not None and recording.values.shape == (1600, 1) and recording.rate_hz == 16000
        if number == 3:
            stop.set()
    assert source.described == "asked 16000 Hz; 48000 Hz, 1 channels, answered at 16000 Hz" and source.overruns >= 3
    monkeypatch.delitem(sys.modules, "sounddevice")


def stand_in(folder: Path) -> str:
    folder.mkdir()
    (folder / "arecord").write_text(ARECORD.format(python=sys.executable))
    (folder / "arecord").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_arecord_is_heard_at_the_rate_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", stand_in(tmp_path / "bin"))
    source = Arecord(Source(kind="arecord", where="hw:1", rate_hz=44100, channels=4, channel=3, seconds=0.2, poll_seconds=0.01))
    source.model_hz = 16000
    stop, said = threading.Event(), list[str]()
    recordings = source.recordings(stop, said.append)
    next(recordings)
    heard = next(recordings).values
    assert heard is not None and heard.shape == (3200, 1)
    power = np.abs(np.fft.rfft(heard[:, 0] * np.hanning(3200)))
    assert abs(int(power.argmax()) * 5 - 440) <= 5  # by the rate that was said, not the one that was asked
    assert "asked 44100 Hz; 48000 Hz" in source.described and source.overruns > 0 and said == [""]
    stop.set()
    assert next(recordings, None) is None
    broken = Arecord(Source(kind="arecord", where="hw:9", poll_seconds=0.01))
    reasons: list[str] = []

    def away(why: str) -> None:
        reasons.append(why)
        stop.set()

    stop.clear()
    assert list(broken.recordings(stop, away)) == []
    assert reasons[0].startswith("microphone: arecord ended with 1: ") and "audio open error: No such file" in reasons[0]


def test_raw_sound_on_standard_input_ends_the_agent_when_it_ends(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, '[source]\nkind = "pcm"\nwhere = "-"\nrate_hz = 8000\nchannels = 2\nseconds = 0.5\n[api]\nenabled = false\n'
    )
    sound = tone(440, 8000, 2.0).repeat(2, axis=1).tobytes()
    done = subprocess.run(
        [BIN / "edgeloop-agent", "serve", config], input=sound + b"\0", capture_output=True, timeout=60, check=False
    )
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["input"] for line in lines] == [f"sound {i}" for i in range(1, 5)], done.stderr
    assert all("2 channels" in line["refused"] and line["captured_at"] for line in lines)  # a model for motion


def test_a_fifo_may_close_and_open_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with serving(tmp_path, '[source]\nkind = "pcm"\nwhere = "pipe"\nseconds = 0.1\npoll_seconds = 0.05\n') as agent:
        for count in (2, 4):
            with (tmp_path / "pipe").open("wb") as pipe:
                pipe.write(tone(440, 16000, 0.25).tobytes())
            eventually(lambda: len(agent.lines) == count)  # noqa: B023
            # A writer that comes before the end was read would go on with the sound of the one before it.
            eventually(lambda: agent.log.count("closed at its other end") >= count // 2)  # noqa: B023
    assert Pcm(Source(kind="pcm", where="x")).described == ""


def test_sound_that_a_writer_leaves_within_a_point_shifts_no_other(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    source, stop = Pcm(Source(kind="pcm", where=str(tmp_path / "pipe"), seconds=0.1, rate_hz=8000)), threading.Event()
    loud = np.full((800, 1), 0x0102, np.int16)

    def writers() -> None:
        for content in (loud.tobytes() + b"\1", loud.tobytes(), loud.tobytes()):  # each as soon as the one before has gone
            with (tmp_path / "pipe").open("wb") as pipe:
                pipe.write(content)
            time.sleep(0.3)

    thread = threading.Thread(target=writers)
    thread.start()
    recordings = source.recordings(stop, lambda why: None)
    found = [next(recordings) for _ in range(4)]
    stop.set()
    thread.join()
    assert found[1].refused == "its writer closed the FIFO within a point: 1 bytes of it are left"
    assert all((found[i].values == loud).all() for i in (0, 2, 3))


def test_a_program_and_a_channel_that_are_missing_are_one_sentence(tmp_path: Path) -> None:
    config = write_config(tmp_path, '[source]\nkind = "arecord"\n')
    done = command("edgeloop-agent", "check", config, PATH=str(tmp_path))
    assert done.returncode == 6 and "the program arecord is not here; apt install alsa-utils" in done.stderr
    config = write_config(tmp_path, '[source]\nkind = "pcm"\nwhere = "-"\nchannel = 3\nchannels = 2\n')
    done = command("edgeloop-agent", "check", config)
    assert done.returncode == 2 and "source.channel: 3, and source.channels is 2" in done.stderr
