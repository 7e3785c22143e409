"""Cameras by OpenCV and GStreamer: RTSP from a real server that dies and hangs, pipelines, and what V4L2 is asked."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from commands import HERE, command
from edgeloop_agent.config import Camera, Source
from edgeloop_agent.sources import camera
from edgeloop_agent.sources.live_frames import CameraGone, Device, LiveFrames
from moving import detector
from programs import needs
from serving import eventually, serving, write_config

RUNTIME = '[runtime]\nvariant = "onnx-float32"\nthreads = 1\n'
GSTREAMER = ("gstreamer1.0-tools", "gstreamer1.0-plugins-base", "gstreamer1.0-plugins-good")
RTSP = (
    "gir1.2-gst-rtsp-server-1.0",
    "python3-gi",
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-plugins-ugly",
)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector(tmp_path_factory.mktemp("squares"))


@contextmanager
def rtsp_camera(port: int) -> Iterator[subprocess.Popen[bytes]]:
    words = ["/usr/bin/python3", HERE / "support" / "rtsp_server.py", str(port), "viewer", "a b@c"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    try:
        yield server
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


@pytest.mark.long
@needs(*RTSP)
def test_rtsp_goes_away_hangs_and_comes_back(squares: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="the camera extra is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "secret").write_text("a b@c\n")
    source = f"""[source]
kind = "camera"
where = "rtsp://127.0.0.1:{port}/cam"
username = "viewer"
password_file = "secret"
poll_seconds = 0.1
[source.camera]
open_seconds = 2
read_seconds = 1
max_reconnect_seconds = 0.3
"""
    with serving(tmp_path, source + RUNTIME, squares) as agent:
        eventually(lambda: agent.metric("edgeloop_agent_source_up") == 0)  # no server yet
        assert f'source unavailable why="camera rtsp://127.0.0.1:{port}/cam: cannot be opened"' in agent.log
        for _ in range(2):
            with rtsp_camera(port) as server:
                before = len(agent.lines)
                eventually(lambda: len(agent.lines) > before + 10)  # noqa: B023
                assert [box["label"] for box in agent.lines[-1]["boxes"]] == ["red"]
                assert 250 < sum(agent.lines[-1]["boxes"][0]["box"][::2]) / 2 < 310
                eventually(lambda: agent.metric("edgeloop_agent_source_up") == 1)
                server.send_signal(signal.SIGSTOP)  # the connection stays, and nothing comes
                stopped = time.monotonic()
                eventually(lambda: agent.metric("edgeloop_agent_source_up") == 0)
                assert time.monotonic() - stopped < 5
                server.send_signal(signal.SIGCONT)
        assert 'source opened what="ffmpeg; says 640×384' in agent.log and "a%20b" not in agent.log and "a b@c" not in agent.log
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0


@needs(*GSTREAMER)
def test_a_pipeline_runs_without_opencvs_gstreamer(squares: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="the camera extra is not installed")
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer itself")
    pipeline = "videotestsrc is-live=true ! video/x-raw,width=320,height=192,framerate=20/1"
    source = f'[source]\nkind = "camera"\nwhere = "{pipeline}"\npoll_seconds = 0.1\n'
    with serving(tmp_path, source + RUNTIME, squares) as agent:
        eventually(lambda: len(agent.lines) > 10)
        assert "gst-launch-1.0; came 320×192" in agent.log
    (tmp_path / "out.jsonl").unlink()
    with serving(tmp_path, source.replace("videotestsrc", "nosuchsrc") + RUNTIME, squares) as agent:
        eventually(lambda: "gst-launch-1.0 ended with 1" in agent.log)
        assert "no element" in agent.log


def test_a_build_without_gstreamer_says_so(squares: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, '[source]\nkind = "camera"\nwhere = "libcamerasrc ! videoconvert"\n' + RUNTIME, squares)
    done = command("edgeloop-agent", "check", config, PATH=str(tmp_path))
    assert done.returncode == 6 and "gst-launch-1.0 is not here; OpenCV was built without GStreamer too" in done.stderr


class Driver:
    """A V4L2 camera that gives 640×480 at 15 whatever is asked, and whose clock is the monotonic one."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []

    def open(self, where: object, backend: int) -> bool:
        self.where = where
        return where != 7

    def set(self, what: int, value: float) -> None:
        self.asked.append((what, value))

    def get(self, what: int) -> float:
        answers = {1: 640.0, 2: 480.0, 3: 15.0, 4: float(int.from_bytes(b"YUYV", "little")), 5: (time.monotonic() - 0.025) * 1000}
        return answers[what]

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((480, 640, 3), np.uint8)

    def release(self) -> None: ...


def test_a_video_keeps_each_frame_and_may_have_a_region_and_a_gate(squares: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="the camera extra is not installed")
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 192))
    for number in range(20):
        picture = np.full((192, 320, 3), 110, np.uint8)
        x = 170 + 30 * max(0, number - 15)  # it stands, then it goes
        picture[96:112, x : x + 16] = (30, 50, 220)  # BGR
        writer.write(picture)
    writer.release()
    video = '[source]\nkind = "video"\nwhere = "a.avi"\n[source.camera]\nregion = [0.5, 0.5, 1, 1]\n'
    for more, names in (("", range(1, 21)), ("min_motion = 0.002\n", [1, 17, 18, 19, 20])):
        config = write_config(tmp_path, video + more + "[api]\nenabled = false\n" + RUNTIME, squares)
        done = command("edgeloop-agent", "serve", config)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [line["input"] for line in lines] == [f"frame {number}" for number in names]
        assert abs(lines[0]["boxes"][0]["box"][0] - 170) < 4 and abs(lines[0]["boxes"][0]["box"][1] - 96) < 4
        assert "captured_at" not in lines[0]
        (tmp_path / "out.jsonl").unlink()


def test_a_driver_that_hangs_is_left_behind_and_its_threads_are_few() -> None:
    release, opened, said = threading.Event(), [], []

    class Hanging(Device):
        what = "hanging"

        def read(self) -> None:
            opened.append(1)
            release.wait(30)
            raise CameraGone("free again")

        def close(self) -> None: ...
        def interrupt(self) -> None: ...

    settings = Source(kind="camera", where="0", poll_seconds=0.01, camera=Camera(open_seconds=0.01, max_reconnect_seconds=0.02))
    source, stop = LiveFrames(settings, Hanging, "camera 0"), threading.Event()
    threading.Timer(4.5, stop.set).start()
    assert list(source.recordings(stop, said.append)) == []
    assert len(opened) == 3 and said[0] == "camera 0: no frame in 0.01 s"
    release.set()


def test_v4l2_is_asked_and_what_it_says_is_kept() -> None:
    driver = Driver()
    names = ("CAP_PROP_FRAME_WIDTH", "CAP_PROP_FRAME_HEIGHT", "CAP_PROP_FPS", "CAP_PROP_FOURCC", "CAP_PROP_POS_MSEC")
    library = SimpleNamespace(
        **{name: number for number, name in enumerate(names, 1)}, CAP_V4L2=200, CAP_FFMPEG=1900, CAP_GSTREAMER=1800, COLOR_BGR2RGB=4,
        VideoCapture=lambda: driver, VideoWriter_fourcc=lambda *letters: "".join(letters), cvtColor=lambda frame, code: frame,
    )  # fmt: skip
    asked = Camera(size=[1280, 720], rate=30, pixel_format="MJPG", max_pixels=640 * 480)
    opened = camera.OpenCvCamera(library, Source(kind="camera", where="0", camera=asked), "v4l2")
    assert driver.where == 0 and driver.asked == [(4, "MJPG"), (1, 1280), (2, 720), (3, 30)]
    assert opened.what == "v4l2; asked 1280×720 at 30/s MJPG; says 640×480 at 15/s YUYV"
    frame = opened.read()
    assert frame is not None and 0.02 < time.monotonic() - frame.captured < 0.5  # the driver's time
    small = camera.OpenCvCamera(library, Source(kind="camera", where="0", camera=Camera(max_pixels=1000)), "v4l2")
    with pytest.raises(CameraGone, match=r"640×480 pixels; source\.camera\.max_pixels is 1000"):
        small.read()
    with pytest.raises(CameraGone, match="cannot be opened"):
        camera.OpenCvCamera(library, Source(kind="camera", where="7"), "v4l2")
    assert camera.shown("rtsp://user:word@host:554/a?token=1") == "rtsp://host:554/a"
