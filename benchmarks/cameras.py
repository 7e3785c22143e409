"""How old a frame is when it is answered by a slow model, and what the parts before the model cost.

A stand-in of rpicam-vid writes 30 frames a second of 640×384 pixels as JPEG; each answer takes 150 ms. The peer is the same agent
with a queue of 16 frames, as it was before. There is no camera on the machine: what passes inside of one is not measured.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from harness import Row, at_most, each, main

MODEL_SECONDS, RATE = 0.15, 30.0
SLACK_SECONDS = 0.02  # decoding, and a process that wakes up


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, ages, parts)


def ages(quick: bool) -> Iterator[Row]:
    """Seconds from the capture of frames to their answers."""
    count = 30 if quick else 200
    newest, queued = answered(count, "rpicam"), answered(count, "microphone")
    half, peer = (float(np.median(values[len(values) // 5 :])) * 1e3 for values in (newest, queued))
    ceiling = (MODEL_SECONDS + 1 / RATE + SLACK_SECONDS) * 1e3
    yield at_most("a frame's age at its answer, half below", round(half, 1), "ms", ceiling, round(peer, 1))
    yield at_most("the same, 99 % below", round(float(np.percentile(newest, 99)) * 1e3, 1), "ms", ceiling)
    tenth = len(newest) // 10
    grown = float(np.median(newest[-tenth:]) - np.median(newest[:tenth])) * 1e3
    yield at_most("… older in the last tenth than in the first by", round(grown, 1), "ms", 1e3 / RATE)
    yield Row("… of which computing", MODEL_SECONDS * 1e3, "ms")


def answered(count: int, kind: str) -> np.ndarray:
    """Ages of `count` frames. `kind`: of the queue: rpicam has none, microphone has one of 16 recordings."""
    from edgeloop_agent.config import Camera, Source
    from edgeloop_agent.feed import Feed
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.sources.piped_camera import rpicam
    from stand_in_cameras import rpicam as stand_in

    picture = np.random.default_rng(0).integers(0, 255, (48, 80, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    with tempfile.TemporaryDirectory() as name:
        os.environ |= stand_in(Path(name) / "bin", picture)
        settings = Source(kind="rpicam", camera=Camera(rate=RATE))
        feed = Feed(rpicam(settings), msgspec.structs.replace(settings, kind=kind), Counts(), Log("error"))
        feed.start()
        found: list[float] = []
        while len(found) < count:
            recording = feed.take(1.0)
            if recording is not None and recording.captured is not None:
                time.sleep(MODEL_SECONDS)
                found.append(time.monotonic() - recording.captured)
        feed.stop()
        time.sleep(1.5)
    return np.array(found)


def parts(quick: bool) -> Iterator[Row]:
    """Seconds of what is done with each frame or second of sound."""
    from edgeloop_agent.config import Camera
    from edgeloop_agent.sources.jpegs import JpegSplitter, decoded
    from edgeloop_agent.sources.piped_camera import rgb_of_yuv420
    from edgeloop_agent.sources.regions import MotionGate
    from edgeloop_agent.sources.resampler import Resampler
    from stand_in_cameras import jpeg_of, yuv420_of

    rng, times = np.random.default_rng(0), 5 if quick else 30
    small = rng.integers(0, 255, (90, 160, 3)).astype(np.uint8)
    picture = np.ascontiguousarray(small.repeat(8, axis=0).repeat(8, axis=1))
    gate, jpeg, planes = MotionGate(Camera(min_motion=0.01)), jpeg_of(picture), yuv420_of(picture)
    sound = rng.integers(-9000, 9000, (48000, 1)).astype(np.int16)
    resampler, clock = Resampler(48000, 16000), iter(range(10**6))
    yield Row("1280×720: the motion gate", best(times, lambda: gate.is_still(picture, next(clock) / 30)), "ms")
    yield Row("1280×720: JPEG to RGB", best(times, lambda: decoded(jpeg, 1 << 24)), "ms")
    yield Row("… cut out of a stream", best(times, lambda: list(JpegSplitter(1 << 24).feed(jpeg))), "ms")
    yield Row("1280×720: YUV 4:2:0 to RGB", best(times, lambda: rgb_of_yuv420(planes, 1280, 720)), "ms")
    yield Row("a second of sound, 48 to 16 kHz", best(times, lambda: resampler.feed(sound)), "ms")


def best(times: int, what: Callable[[], object]) -> float:
    """Milliseconds of the fastest call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        what()
        taken.append(time.perf_counter() - start)
    return round(min(taken) * 1e3, 2)


if __name__ == "__main__":
    main(measure)
