"""Cameras as they are: the newest frame, from pipes and by HTTP; gone, slow, damaged and hostile ones."""

from __future__ import annotations

import os
import re
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stand_in_cameras as cameras
from commands import command
from moving import HEIGHT, WIDTH, detector, frame
from serving import Agent, eventually, serving, write_config
from stand_in_cameras import http_camera, jpeg_of, rpicam

QUICK = "poll_seconds = 0.05\n[source.camera]\nmax_reconnect_seconds = 0.2\nread_seconds = 1\nopen_seconds = 2\n"
RUNTIME = '[runtime]\nvariant = "onnx-float32"\nthreads = 1\n'
PI = '[source]\nkind = "rpicam"\n' + QUICK
TIMES = 4
WIDE, HIGH = WIDTH * TIMES, HEIGHT * TIMES  # frames of the stand-ins


def scene(x: float = 280, y: float = 200) -> np.ndarray:
    """(384, 640, 3): a red square of 64 pixels around x, y."""
    return np.ascontiguousarray(frame(red=(x / TIMES, y / TIMES)).repeat(TIMES, axis=0).repeat(TIMES, axis=1))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector(tmp_path_factory.mktemp("squares"))


def frames(agent: Agent) -> dict[str, float]:
    found = re.findall(r'edgeloop_agent_frames_total\{outcome="(\w+)"\} (\S+)', agent.get("/metrics"))
    return {name: float(value) for name, value in found}


def is_down(agent: Agent) -> bool:
    return agent.metric("edgeloop_agent_source_up") == 0


def test_frames_of_rpicam_vid_are_answered_with_their_time(squares: Path, tmp_path: Path) -> None:
    found = rpicam(tmp_path / "bin", scene())
    asked = "size = [640, 384]\nrate = 20\n[api]\nport = 0\n"
    with serving(tmp_path, PI + asked + RUNTIME, squares, **found) as agent:
        lines = eventually(lambda: len(agent.lines) > 20 and agent.lines)
        (box,) = lines[5]["boxes"]
        assert box["label"] == "red" and abs(box["box"][0] - 248) < 9 and abs(box["box"][3] - 232) < 9
        stamp = datetime.fromisoformat(lines[5]["captured_at"].replace("Z", "+00:00")).timestamp()
        assert abs(time.time() - stamp) < 30
        assert agent.metric("edgeloop_agent_capture_to_answer_seconds_count") >= 20
        assert 'source opened what="rpicam-vid; asked 640×384 at 20/s; came 640×384"' in agent.log
        called = (tmp_path / "bin" / "called").read_text()
        assert "--camera 0 --timeout 0 --nopreview --flush --codec mjpeg" in called and "--framerate 20 --output -" in called
        pid = int(called.split("pid=")[1])
        os.kill(agent.worker(), 9)  # as the supervisor does with a worker that hangs
        eventually(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


def test_raw_frames_have_the_same_colours(squares: Path, tmp_path: Path) -> None:
    found = rpicam(tmp_path / "bin", scene())
    with serving(tmp_path, PI + 'pixel_format = "yuv420"\nsize = [640, 384]\n' + RUNTIME, squares, **found) as agent:
        lines = eventually(lambda: len(agent.lines) > 5 and agent.lines)
        assert [box["label"] for box in lines[-1]["boxes"]] == ["red"]


MODES = {
    "no camera": ("ended with 1: ERROR: *** no cameras available ***", 0),
    "hang": ("rpicam-vid gives nothing for 1 s", 1),
    "noise": ("a JPEG of more than 16777216 bytes", 0),
    "drip": ("no frame in 2 s", 0),
}


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=[pytest.mark.long] * (mode in ("noise", "drip"))) for mode in MODES])
def test_a_camera_that_fails_is_said_and_answers_again(mode: str, squares: Path, tmp_path: Path) -> None:
    why, at_least = MODES[mode]
    found = rpicam(tmp_path / "bin", scene(), mode=mode)
    with serving(tmp_path, PI + RUNTIME, squares, **found) as agent:
        eventually(lambda: why in agent.log)
        assert 'source unavailable why="rpicam 0: ' in agent.log
        eventually(lambda: is_down(agent) or len(agent.lines) > 5)
        (tmp_path / "bin" / "mode").write_text("")
        before = len(agent.lines)
        assert before >= at_least
        eventually(lambda: len(agent.lines) > before + 5 and not is_down(agent))
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0


@pytest.mark.parametrize("mode", ["cut", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("sizes", "flood"))])
def test_damage_noise_and_other_sizes_cost_only_their_frames(mode: str, squares: Path, tmp_path: Path) -> None:
    found = rpicam(tmp_path / "bin", scene(), frame(red=(70, 50)), mode)
    with serving(tmp_path, PI + RUNTIME, squares, **found) as agent:
        eventually(lambda: len([line for line in agent.lines if line.get("boxes")]) > 6)
        refused = {line["refused"] for line in agent.lines if "refused" in line}
        if mode == "cut":
            assert all("damaged JPEG" in why for why in refused) and frames(agent)["unreadable"] > 0
        else:
            assert not refused
        assert agent.metric("edgeloop_agent_source_up") == 1
        assert agent.metric("edgeloop_agent_resident_memory_bytes") < 500 << 20


def test_snapshots_are_answered_when_they_change(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pass word\n")
    with http_camera(scene()) as camera:
        camera.password = "user:pass word"
        source = f'[source]\nkind = "snapshot"\nwhere = "{camera.address}"\nusername = "user"\npassword_file = "secret"\n'
        with serving(tmp_path, source + QUICK + "interval_seconds = 0.05\n" + RUNTIME, squares) as agent:
            eventually(lambda: camera.statuses[304] > 5)
            assert len(agent.lines) == 1 and frames(agent)["unchanged"] > 5
            camera.picture = jpeg_of(scene(360, 240))
            eventually(lambda: len(agent.lines) == 2)
            camera.with_etag = False
            before = camera.statuses[200]
            eventually(lambda: camera.statuses[200] > before + 5)
            assert len(agent.lines) == 2  # the same bytes
            camera.password = "user:another"
            eventually(lambda: is_down(agent))
            assert "status 401" in agent.log and "pass word" not in agent.log and "user" not in agent.log
            assert '"up":false' in agent_source(agent)
            camera.password, camera.digest, camera.with_etag = "user:pass word", True, True
            eventually(lambda: len(agent.lines) == 3 and not is_down(agent))
            camera.authorizations.clear()
            eventually(lambda: len(camera.authorizations) > 6)
            assert not [said for said in camera.authorizations if said.startswith("Basic")]  # not in clear


def agent_source(agent: Agent) -> str:
    try:
        with urllib.request.urlopen(agent.address + "/v2/health/source", timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode())


HOSTILE = {
    "a byte now and then, of the head": (cameras.dripping, "no frame in 0.5 s"),
    "a byte now and then, of the body": (cameras.dripping_body, "bytes in 0.5 s"),
    "no end": (cameras.endless, "a picture of more than 1000000 bytes"),
    "nothing at all": (cameras.silent, "Read timed out"),
    "a page": (cameras.sending(b"<html>login</html>"), "no JPEG; name the address of a picture"),
    "elsewhere": (cameras.sending(b"", "302 Found", "Location: http://u:p@x/?secret\r\n"), "status 302, which leads to http://x/"),
    "an error": (cameras.sending(b"oops", "500 Oops"), "status 500"),
    "closed": (lambda handler: None, "closed connection without response"),
    "cut short": (cameras.sending(b"\xff\xd8"), "a damaged JPEG"),
    "100 megapixels": (
        cameras.sending(cameras.huge_jpeg()),
        "a picture of 10000×10000 pixels; source.camera.max_pixels is 16000000",
    ),
    "4000 megapixels": (cameras.sending(cameras.huge_jpeg(65000, 65000)), "pixels"),
}


def test_hostile_cameras_stop_nothing(squares: Path, tmp_path: Path) -> None:
    with http_camera(scene()) as camera:
        source = f'[source]\nkind = "snapshot"\nwhere = "{camera.address}"\n' + QUICK.replace(
            "read_seconds = 1\nopen_seconds = 2", "read_seconds = 0.5\nopen_seconds = 0.5"
        )
        more = "interval_seconds = 0.02\nmax_bytes = 1000000\n"
        with serving(tmp_path, source + more + RUNTIME, squares) as agent:
            eventually(lambda: len(agent.lines) == 1)
            for number, (name, (behave, why)) in enumerate(HOSTILE.items()):
                camera.behave = behave
                eventually(lambda: why in agent.log + (tmp_path / "out.jsonl").read_text(), 20)  # noqa: B023
                camera.behave, before = None, len([line for line in agent.lines if "boxes" in line])
                camera.picture = jpeg_of(scene(240 + 8 * number, 200))
                eventually(lambda: len([line for line in agent.lines if "boxes" in line]) > before, 20), name  # noqa: B023
            assert agent.metric("edgeloop_agent_worker_restarts_total") == 0
            assert agent.metric("edgeloop_agent_resident_memory_bytes") < 500 << 20
            assert "secret" not in agent.log


def test_boxes_of_a_region_are_in_the_whole_picture(squares: Path, tmp_path: Path) -> None:
    whole = scene(100, 300)  # outside of the region
    whole[90:186, 290:450] = frame(red=(100, 40))
    found = rpicam(tmp_path / "bin", whole)
    with serving(tmp_path, PI + "region = [290, 90, 450, 186]\n" + RUNTIME, squares, **found) as agent:
        line = eventually(lambda: agent.lines and agent.lines[0])
        assert [box["label"] for box in line["boxes"]] == ["red"]
        x1, y1, x2, y2 = line["boxes"][0]["box"]
        assert abs((x1 + x2) / 2 - 390) < 4 and abs((y1 + y2) / 2 - 130) < 4
        with urllib.request.urlopen(agent.address + "/page/picture", timeout=5) as answer:
            assert Image.open(answer).size == (WIDE // 2, HIGH // 2)  # the whole picture


def test_without_motion_the_last_answer_holds(squares: Path, tmp_path: Path) -> None:
    with http_camera(scene()) as camera:
        camera.with_etag = False
        source = f'[source]\nkind = "snapshot"\nwhere = "{camera.address}"\n' + QUICK
        more = "interval_seconds = 0.02\nmin_motion = 0.005\nmax_silence_seconds = 2.5\n"
        rng, start = np.random.default_rng(0), time.monotonic()
        with serving(tmp_path, source + more + RUNTIME, squares) as agent:
            eventually(lambda: len(agent.lines) == 1)

            def stirred(x: float) -> bytes:
                noise = rng.integers(-3, 4, (HIGH, WIDE, 3))
                return jpeg_of(np.clip(scene(x).astype(int) + noise, 0, 255).astype(np.uint8))

            def still(count: int) -> bool:
                camera.picture = stirred(280)
                return frames(agent)["still"] >= count

            eventually(lambda: still(8))
            assert len(agent.lines) == 1 or time.monotonic() - start > 2.5
            before = len(agent.lines)
            camera.picture = stirred(480)
            eventually(lambda: len(agent.lines) > before)
            assert agent.lines[-1]["boxes"][0]["box"][0] > 400
            camera.picture = stirred(280)  # as the background was: the last answer would be wrong
            eventually(lambda: agent.lines[-1]["boxes"][0]["box"][0] < 320)
            enough = frames(agent)["still"] + 5
            settled = eventually(lambda: still(enough) and len(agent.lines))
            eventually(lambda: still(10**9) or len(agent.lines) > settled, 10)  # silence is over


def test_a_slow_model_answers_the_newest_frame(squares: Path, tmp_path: Path) -> None:
    """At 50 frames a second and 0.1 s for each answer, frames are not older than one answer and one period: none waits."""
    found = rpicam(tmp_path / "bin", scene())
    slow = {"PYTHONPATH": str(Path(__file__).parent.parent / "support" / "faults"), "FAULT": str(tmp_path / "no"), "SLOW": "0.1"}
    with serving(tmp_path, PI + "rate = 50\n" + RUNTIME, squares, **found, **slow) as agent:
        eventually(lambda: len(agent.lines) >= 15)
        count, total = (agent.metric(f"edgeloop_agent_capture_to_answer_seconds_{what}") for what in ("count", "sum"))
        assert 0.1 <= total / count < 0.18
        assert agent.metric("edgeloop_agent_queue_length") == 0 and frames(agent)["dropped"] > 2 * count
        assert agent.metric("edgeloop_agent_dropped_total") == 0


def test_check_says_what_came_and_what_is_missing(squares: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, PI + RUNTIME, squares)
    for mode, said in (
        ("", "camera: rpicam-vid; came 640×384"),
        ("no camera", "warning: source: rpicam 0: rpicam-vid ended with 1: ERROR"),
    ):
        done = command("edgeloop-agent", "check", config, **rpicam(tmp_path / "bin", scene(), mode=mode))
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
    done = command("edgeloop-agent", "check", config, PATH=str(tmp_path))
    assert done.returncode == 6 and "rpicam-vid or libcamera-vid is not here" in done.stderr and "apt install" in done.stderr
