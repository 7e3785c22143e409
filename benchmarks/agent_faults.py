"""What is done to a running agent on purpose, and whether it answers rightly after it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import BIN, NotRun, Row, at_most
from serving import GOLDEN, RECORDING, Agent, eventually, serving

WINDOWS = 48  # in the golden recording


def faults(quick: bool) -> Iterator[Row]:
    """Each fault for real: does it answer again, and rightly?"""
    rng = random.Random(0)
    kills, requests = (20, 2000) if quick else (200, 100_000)
    limits = "[limits]\nrestart_seconds = 0.01\nmax_restart_seconds = 0.05\nhang_seconds = 2\n"
    text = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.05\n' + limits
    expected = json.loads((GOLDEN.parent / "answers.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        with serving(Path(folder), text) as agent:
            killed = 0
            while killed < kills:
                (Path(folder) / "in" / f"{killed % 5}.csv").write_bytes(RECORDING.read_bytes())
                time.sleep(rng.uniform(0, 0.6))
                with contextlib.suppress(IndexError, ProcessLookupError):  # it was starting again just then
                    os.kill(agent.worker(), signal.SIGKILL)
                    killed += 1
            ready = agent.log.count(" ready ")
            eventually(lambda: agent.log.count(" ready ") > ready or agent.get("/v2"))
            answers = right(agent, expected)
            yield Row(f"{kills} × kill -9 of the worker: answers after it", float(answers), "", 1, None, "1", answers)
            yield fuzz(agent, requests, rng)
            answers = right(agent, expected)
            yield Row("answers after the fuzzing", float(answers), "", 1, None, "1", answers)
            wrong = [line for line in agent.lines if "label" in line and line["label"] != expected[line["window"]]]
            yield at_most("wrong answers among all of them", len(wrong), "", 0)


def clock_jumps() -> Iterator[Row]:
    """The wall clock set 400 days ahead and back under a running agent, by libfaketime (fetched from Debian, not installed)."""
    text = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n[limits]\nhang_seconds = 2\n'
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        here.chmod(0o777)  # apt downloads as a user of its own
        try:
            for command in (["apt-get", "download", "-q", "libfaketime"], ["sh", "-c", "dpkg-deb -x libfaketime*.deb ."]):
                subprocess.run(command, cwd=here, check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotRun(f"clock jumps: libfaketime cannot be fetched from Debian's archive ({error})") from error
        (here / "in").mkdir()
        (here / "clock").write_text("+0")
        library = next(here.rglob("libfaketime.so.1"))
        fake = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(here / "clock"), "FAKETIME_NO_CACHE": "1"}
        with serving(here, text, DONT_FAKE_MONOTONIC="1", **fake) as agent:
            for i, jump in enumerate(("+400d", "-400d", "+0")):
                (here / "clock").write_text(jump)
                (here / "in" / f"{i}.csv").write_bytes(RECORDING.read_bytes())
                time.sleep(3)
            answered, restarts = len(agent.lines), agent.metric("edgeloop_agent_worker_restarts_total")
    met = answered == 3 * WINDOWS and not restarts
    yield Row(
        "clock set 400 days ahead and back: windows answered", answered, "", 3 * WINDOWS, None, f"{3 * WINDOWS}, no restart", met
    )


def right(agent: Agent, expected: list[str]) -> bool:
    """A fresh recording is answered as it should be."""
    name = f"{time.monotonic_ns()}.csv"
    (agent.folder / "in" / name).write_bytes(RECORDING.read_bytes())
    lines = eventually(lambda: (found := [x for x in agent.lines if x["input"] == name]) and len(found) >= len(expected) and found)
    return [line.get("label") for line in lines[: len(expected)]] == expected


def fuzz(agent: Agent, requests: int, rng: random.Random) -> Row:
    """Spoiled requests over the API, ten a connection where it lives that long."""
    from test_api import HEADER_LENGTH, INFER, post, raw, spoiled

    tensor = {"name": "input", "shape": [1, 100, 6], "datatype": "INT16", "parameters": {"binary_data_size": 1200}}
    text = json.dumps({"inputs": [tensor]}).encode()
    whole = post(INFER, text + bytes(1200), f"{HEADER_LENGTH}: {len(text)}")
    for _ in range(requests):
        raw(agent, spoiled(whole, rng))
    restarts = agent.metric("edgeloop_agent_worker_restarts_total")
    errors = agent.log.count(" error ") - agent.log.count("worker died")
    return at_most(f"{requests:,} malformed requests: errors inside the agent ({restarts:.0f} restarts in all)", errors, "", 0)


def spoiled_sources(count: int) -> Iterator[Row]:
    """Spoiled lines on standard input, whole ones between them; and spoiled files in a watched folder, a whole one at the end."""
    from test_api import spoiled

    rng, series = random.Random(7), np.loadtxt(RECORDING, delimiter=",")
    window = json.dumps({"values": [[round(v, 2) for v in row] for row in series[:100].tolist()]}).encode()
    lines, whole = [], []
    for i in range(count):
        if i % 500 == 0:
            lines.append(window)
            whole.append(f"line {len(lines)}")
        base = window if i % 10 == 0 else ",".join(f"{v:.3f}" for v in series[i % len(series)]).encode()
        lines.append(spoiled(base, rng).replace(b"\n", b" "))
    words = [BIN / "edgeloop-agent", "run", GOLDEN, "--source", "-"]
    done = subprocess.run(words, input=b"\n".join(lines), capture_output=True, check=False)
    said = {row["input"]: row.get("label") for row in map(json.loads, done.stdout.splitlines())}
    wrong = sum(said.get(name) != said[whole[0]] or said[name] is None for name in whole)
    wrong += (done.returncode != 0) + done.stderr.count(b"Traceback")
    yield at_most(f"{count:,} malformed lines, {len(whole)} whole ones between: not answered, or an error inside", wrong, "", 0)
    files = [RECORDING.read_bytes(), _npy(series)]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "in").mkdir()
        for i in range(count // 100):
            (folder / "in" / f"{i:06}.{('csv', 'npy')[i % 2]}").write_bytes(spoiled(files[i % 2], rng))
        with serving(folder, '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n') as agent:
            (folder / "in" / "whole.csv").write_bytes(files[0])
            eventually(lambda: any(line["input"] == "whole.csv" for line in agent.lines), 300)
            restarts = agent.metric("edgeloop_agent_worker_restarts_total")
    yield at_most(f"{count // 100:,} malformed files in a watched folder: restarts", restarts, "", 0)


def _npy(values: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, values)
    return made.getvalue()
