"""The agent as a service, through its command: it answers, and whatever fails under it, it answers again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import HERE, command
from service import QUICK, WATCH, WINDOWS, arrive, faulty
from serving import GOLDEN, RECORDING, eventually, serving


def test_it_answers_what_arrives_and_stops_when_told(inbox: Path, tmp_path: Path) -> None:
    arrive(inbox, "a.csv")
    (inbox / "broken.csv").write_text("1,2\n3\n")
    with serving(tmp_path, WATCH + QUICK) as agent:
        eventually(lambda: len(agent.lines) == WINDOWS + 1)
        arrive(inbox, "b.csv")
        eventually(lambda: len(agent.lines) == 2 * WINDOWS + 1)
        expected = json.loads((GOLDEN.parent / "answers.json").read_text())
        assert [line["label"] for line in agent.lines if line["input"] == "b.csv"] == expected
        assert agent.metric("edgeloop_agent_samples_answered_total") == 2 * WINDOWS
        assert agent.metric("edgeloop_agent_refused_total") == 1 and 'reason="unreadable"' in agent.get("/metrics")
        assert agent.metric("edgeloop_agent_inference_duration_seconds_count") == 2 * WINDOWS
        start = time.monotonic()
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(20) == 0 and time.monotonic() - start < 5
    assert all(line.split()[1] in ("info", "warning", "error") for line in agent.log.splitlines() if line[:2] == "20")


@pytest.mark.parametrize(("fault", "says"), [("hang", "no progress: killed"), ("crash", "how=SIGSEGV")])
def test_a_runtime_that_hangs_or_crashes_is_started_again(fault: str, says: str, inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH + QUICK, **faulty(tmp_path)) as agent:
        arrive(inbox, "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)
        (tmp_path / "fault").write_text(fault)
        arrive(inbox, "b.csv")
        agent.wait_ready(2)
        assert says in agent.log
        eventually(lambda: sum(line["input"] == "b.csv" for line in agent.lines) >= WINDOWS)
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 1


def test_a_runtime_that_raises_costs_one_recording(inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH + QUICK, **faulty(tmp_path)) as agent:
        (tmp_path / "fault").write_text("raise")
        arrive(inbox, "a.csv")
        eventually(lambda: len(agent.lines) == 1)
        assert "the runtime gives up" in agent.lines[0]["refused"]
        arrive(inbox, "b.csv")
        eventually(lambda: len(agent.lines) == 1 + WINDOWS)
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0


def test_it_survives_the_death_of_its_worker_and_does_not_outlive_its_supervisor(inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH + QUICK) as agent:
        os.kill(agent.worker(), signal.SIGKILL)
        agent.wait_ready(2)
        arrive(inbox, "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)
        worker = agent.worker()
        agent.process.kill()
        agent.process.wait()
        eventually(lambda: not Path(f"/proc/{worker}").exists() or "State:\tZ" in Path(f"/proc/{worker}/status").read_text())


def test_a_variant_that_crashes_again_and_again_gives_way_to_another(inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH + QUICK, **faulty(tmp_path)) as agent:
        for times in range(3):
            (tmp_path / "fault").write_text("crash")
            arrive(inbox, f"{times}.csv")
            agent.wait_ready(times + 2)
        eventually(lambda: len(agent.lines) >= WINDOWS)
        assert 'why="tflite-int8 crashed 3 times in a row"' in agent.log
        assert 'variant="tflite-float32"' in agent.get("/metrics")


def test_a_full_disk_costs_answers_and_nothing_else(inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH + '[output]\nwhere = "/dev/full"\n') as agent:
        arrive(inbox, "a.csv")
        eventually(lambda: agent.metric("edgeloop_agent_dropped_total") == WINDOWS)
        assert agent.log.count("answers are lost") == 1 and agent.metric("edgeloop_agent_samples_answered_total") == WINDOWS


def test_a_full_output_file_starts_anew(inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH + '[output]\nwhere = "out.jsonl"\nmax_bytes = 12000\n') as agent:
        for name in "abcd":
            arrive(inbox, f"{name}.csv")
        eventually(lambda: agent.metric("edgeloop_agent_samples_answered_total") == 4 * WINDOWS)
        files = sorted(p.name for p in tmp_path.glob("out.jsonl*"))
        assert files == ["out.jsonl", "out.jsonl.1"] and all((tmp_path / f).stat().st_size <= 12000 for f in files)


def test_a_new_config_is_taken_when_it_is_right(inbox: Path, tmp_path: Path) -> None:
    with serving(tmp_path, WATCH + QUICK) as agent:
        config = (tmp_path / "agent.toml").read_text()
        (tmp_path / "agent.toml").write_text(config + "[cache]\nresults = 1\n")
        agent.process.send_signal(signal.SIGHUP)
        eventually(lambda: "config has problems" in agent.log)
        assert "cache.results: unknown setting; did you mean results_bytes?" in agent.log
        (tmp_path / "agent.toml").write_text(config.replace("tflite-int8", "onnx-int8"))
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_ready(2)
        eventually(lambda: 'variant="onnx-int8"' in agent.get("/metrics"))
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0


def test_systemd_hears_that_it_is_ready_and_of_progress_alone(inbox: Path, tmp_path: Path) -> None:
    slow = QUICK.replace("1.5", "6")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(10)
        with serving(tmp_path, WATCH + slow, NOTIFY_SOCKET=str(tmp_path / "notify"), **faulty(tmp_path)) as agent:
            said = ""
            while "READY=1" not in said:
                said = heard.recv(1000).decode()
            assert "WATCHDOG=1" in heard.recv(1000).decode()
            (tmp_path / "fault").write_text("hang")
            arrive(inbox, "a.csv")
            eventually(lambda: not (tmp_path / "fault").exists())
            time.sleep(1.5)
            heard.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    heard.recv(1000)
            time.sleep(1.5)
            with pytest.raises(BlockingIOError):  # nothing more while it hangs
                heard.recv(1000)
            assert agent.process.poll() is None


def test_graphs_are_kept_optimised_and_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    onnx = '[runtime]\nvariant = "onnx-int8"\n'
    found = []
    for damage in (False, True, False):
        with serving(tmp_path, onnx) as agent:
            lines = agent.get("/metrics").splitlines()
            found.append(next(float(x.split()[-1]) for x in lines if 'cache="graphs",event="hits"' in x))
        graph = next((tmp_path / "state" / "graphs").glob("*.graph"))
        if not damage:
            content = bytearray(graph.read_bytes())
            content[100] ^= 1
            graph.write_bytes(content)
        (tmp_path / "log").unlink()
    assert found == [0, 0, 1]


def test_the_supervisor_is_light() -> None:
    script = (
        "import sys, edgeloop_agent.supervisor\n"
        "heavy = {'numpy', 'onnxruntime', 'prometheus_client'} & set(sys.modules)\nassert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_cleaning_goes_from_the_bundle_to_the_answers(inbox: Path, tmp_path: Path) -> None:
    import msgspec

    from edgeloop_contract.archive import Bundle, write
    from edgeloop_contract.cleaning import FillMissing, NearDuplicate

    with Bundle.open(GOLDEN) as golden:
        steps = [FillMissing(max_gap=2), NearDuplicate(max_difference=1e-6)]
        manifest = msgspec.structs.replace(golden.manifest, cleaning=steps)
        write(tmp_path / "clean.edgeloop", manifest, {name: golden.read(name) for name in manifest.files})
    rows = RECORDING.read_text().splitlines()
    holes = [*rows[:5], "," * (len(rows[0].split(",")) - 1), *rows[6:]]  # one point is missing
    for name, lines in {"a": rows, "b": rows, "c": holes, "d": [*rows[:5], *holes[5:6] * 3, *rows[8:]]}.items():
        (inbox / f"{name}.csv").write_text("\n".join(lines))
    with serving(tmp_path, WATCH, tmp_path / "clean.edgeloop") as agent:
        eventually(lambda: len(agent.lines) == 3 * WINDOWS + 1)
        found = {name: [x for x in agent.lines if x["input"] == f"{name}.csv"] for name in "abcd"}
        assert all(x.get("repeated") for x in found["b"]) and found["b"][7]["label"] == found["a"][7]["label"]
        assert all(x["repaired"] == {"fill_missing": 6} for x in found["c"])
        assert "misses 3 points in a row" in found["d"][0]["refused"]
        text = agent.get("/metrics")
        for line in (
            'edgeloop_agent_inferences_skipped_total{reason="near_duplicate"} 1.0', 'edgeloop_agent_values_repaired_total{step="fill_missing"} 6.0',
            'edgeloop_agent_refused_total{reason="fill_missing"} 1.0',
        ):  # fmt: skip
            assert line in text
        assert agent.metric("edgeloop_agent_inference_duration_seconds_count") == 2 * WINDOWS
    done = command("edgeloop-agent", "run", tmp_path / "clean.edgeloop", "--source", inbox / "c.csv")
    assert '"repaired":{"fill_missing":6}' in done.stdout


def test_a_long_recording_is_progress_as_long_as_its_windows_are_answered(inbox: Path, tmp_path: Path) -> None:
    """Each window takes a while; all of them take longer than a hang may."""
    with serving(
        tmp_path, WATCH + QUICK, PYTHONPATH=str(HERE / "support" / "faults"), FAULT=str(tmp_path / "fault"), SLOW="0.05"
    ) as agent:
        arrive(inbox, "a.csv")  # 48 windows of 50 ms, against 1.5 s
        eventually(lambda: len(agent.lines) == WINDOWS)
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0


def test_a_state_folder_has_one_agent(inbox: Path, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    with serving(tmp_path, WATCH) as agent:
        other = tmp_path / "other.toml"
        other.write_text(config.read_text())
        for path in (config, other):  # the same config, and another one that names the same folder
            second = command("edgeloop-agent", "serve", path)
            says = f"{tmp_path / 'state'}: another agent (process {agent.process.pid}) runs with this state folder; stop it"
            assert (second.returncode, says in second.stderr) == (2, True), second.stderr
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_ready(2)
        assert command("edgeloop-agent", "serve", other).returncode == 2  # a reload keeps it
        apart = tmp_path / "apart.toml"
        apart.write_text(config.read_text().replace('state = "state"', 'state = "elsewhere"'))
        config.write_text(apart.read_text())
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_ready(3)
        assert command("edgeloop-agent", "serve", apart).returncode == 2  # as the folder that a reload names
        agent.process.kill()
        agent.process.wait()
    with serving(tmp_path, WATCH) as agent:  # a kill leaves nothing behind
        arrive(inbox, "a.csv")
        eventually(lambda: len(agent.lines) >= WINDOWS)
