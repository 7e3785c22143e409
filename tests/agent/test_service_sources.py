"""Sources of the agent as a service: too fast, gone and back, a FIFO, a video, a real MQTT broker."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from programs import needs, program
from service import WATCH, WINDOWS, arrive, faulty
from serving import RECORDING, eventually, serving


def test_a_source_that_vanishes_is_waited_for(inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH) as agent:
        shutil.rmtree(inbox)
        eventually(lambda: agent.metric("edgeloop_agent_source_up") == 0)
        assert "source unavailable" in agent.log
        inbox.mkdir()
        arrive(inbox, "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)
        assert agent.metric("edgeloop_agent_source_up") == 1 and agent.metric("edgeloop_agent_worker_restarts_total") == 0


def test_a_source_that_is_too_fast_drops_its_oldest_or_waits(tmp_path: Path) -> None:
    point = ",".join(["0.1"] * 6) + "\n"
    (tmp_path / "points.csv").write_text(point * 100 * 30)
    for when_full, answered in (("block", 30), ("drop-oldest", None)):
        source = f'[source]\nkind = "lines"\nwhere = "points.csv"\npoints = 100\nqueue = 4\nwhen_full = "{when_full}"\n'
        with serving(tmp_path, source, SLOW="0.01", **faulty(tmp_path)) as agent:
            done = eventually(
                lambda: (
                    (a := agent.metric("edgeloop_agent_samples_answered_total")) + agent.metric("edgeloop_agent_dropped_total")
                    == 30
                    and a
                )
            )
            assert done == answered if answered else 4 <= done < 30
            if answered is None:
                assert agent.metric("edgeloop_agent_dropped_total") == 30 - done and 'reason="queue_full"' in agent.get("/metrics")
        (tmp_path / "out.jsonl").unlink()
        (tmp_path / "log").unlink()


def test_lines_from_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = '[source]\nkind = "lines"\nwhere = "pipe"\npoints = 100\nhop = 50\npoll_seconds = 0.1\nsettle_seconds = 0.1\n'
    with serving(tmp_path, source) as agent:
        for _ in range(2):  # a writer that leaves, and comes again
            with (tmp_path / "pipe").open("w") as pipe:
                for i in range(150):
                    pipe.write(json.dumps({"t": i / 50, "values": [0.1] * 6}) + "\n")
                pipe.write("nonsense\n" + "[1, 2]\n")
            eventually(lambda: len([x for x in agent.lines if "label" in x]) >= 2)
        eventually(lambda: len([x for x in agent.lines if "label" in x]) == 5)  # 300 points, every 50 from the 100th on
        assert next(x["refused"] for x in agent.lines if "refused" in x).startswith("not JSON")
        assert "2 numbers, most lines have 6" in [x["refused"] for x in agent.lines if "refused" in x]


def test_no_line_is_lost_between_two_writers_of_a_fifo(tmp_path: Path) -> None:
    """Writers that follow each other at once; the half line of one that dies is said, and joined to no other."""
    os.mkfifo(tmp_path / "pipe")
    source = '[source]\nkind = "lines"\nwhere = "pipe"\nqueue = 1000\n'
    one = '{"values": [' + ", ".join(["[0, 0, 0, 0, 0, 0]"] * 100) + '], "name": "%s"}'
    with serving(tmp_path, source) as agent:
        for number in range(100):
            with (tmp_path / "pipe").open("w") as pipe:
                pipe.write((one % f"a{number}" + "\n") + one % f"b{number}" + ("" if number == 99 else "\n"))
            time.sleep(0.01 * (number % 3))
        eventually(lambda: len(agent.lines) == 200)  # JSON that is whole needs no end of its line
        assert {line["input"] for line in agent.lines} == {f"{name}{number}" for name in "ab" for number in range(100)}
        before = len(agent.lines)
        for number, cut in enumerate((b"1,2,3,4,5,6\n1,2,3,4", one.encode()[:300], "\u732b".encode()[:2])):
            with (tmp_path / "pipe").open("wb") as pipe:
                pipe.write(cut)
            eventually(lambda: sum("before the end of the line" in x.get("refused", "") for x in agent.lines) == number + 1)  # noqa: B023
        with (tmp_path / "pipe").open("w") as pipe:
            pipe.write(one % "whole" + "\n")
        eventually(lambda: agent.lines[-1]["input"] == "whole" and "label" in agent.lines[-1])
        assert len(agent.lines) == before + 5  # with the point of the whole line
        (tmp_path / "pipe").unlink()
        os.mkfifo(tmp_path / "pipe")  # another one at its place
        with (tmp_path / "pipe").open("w") as pipe:
            pipe.write(one % "anew" + "\n")
            pipe.flush()
            eventually(lambda: agent.lines[-1]["input"] == "anew")


def test_frames_of_a_video(tiny_run: dict, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="the camera extra is not installed")
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(6):
        writer.write(np.full((48, 64, 3), 40 * i, np.uint8))
    writer.release()
    source = '[source]\nkind = "video"\nwhere = "a.avi"\nevery = 2\n'
    with serving(tmp_path, source) as agent:
        eventually(lambda: len(agent.lines) == 3)
        assert all("refused" in x for x in agent.lines)  # it is a model for motion
        assert [x["input"] for x in agent.lines] == ["frame 1", "frame 3", "frame 5"]


@needs("mosquitto")
def test_messages_of_a_real_broker(tmp_path: Path) -> None:
    from paho.mqtt import publish

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(program("mosquitto")), "-p", str(port)]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    values = np.loadtxt(RECORDING, delimiter=",", skiprows=1)[:100].tolist()
    source = f'[source]\nkind = "mqtt"\nwhere = "sensors/+"\nport = {port}\n'
    try:
        with serving(tmp_path, source) as agent:
            eventually(lambda: "source available" in agent.log or agent.metric("edgeloop_agent_source_up") == 1)

            def sent_and_answered() -> bool:
                publish.single("sensors/wrist", json.dumps({"name": "wrist", "values": values}), qos=1, port=port)
                return any(x["input"] == "wrist" for x in agent.lines)

            eventually(sent_and_answered)
            running.kill()
            running.wait()
            eventually(lambda: agent.metric("edgeloop_agent_source_up") == 0)
            running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            before = len(agent.lines)
            eventually(lambda: sent_and_answered() and len(agent.lines) > before)
    finally:
        running.kill()
        running.wait()
