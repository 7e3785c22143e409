"""LineSource of numbers, as a port, a pipe or a file gives them: a spoiled line costs itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from edgeloop_agent.config import Source
from edgeloop_agent.sources import Recording
from edgeloop_agent.sources.lines import LineSource

GOOD = [f"{i / 10:.1f},{-i / 10:.1f}" for i in range(1, 101)]


def read(where: Path, points: int = 10, hop: int = 0) -> list[Recording]:
    source = LineSource(Source(kind="lines", where=str(where), points=points, hop=hop, poll_seconds=0.05))
    return list(source.recordings(Event(), lambda why: None))


def of(lines: list[str], tmp_path: Path, points: int = 10) -> tuple[list[np.ndarray], list[str]]:
    (tmp_path / "lines.csv").write_text("\n".join(lines) + "\n")
    found = read(tmp_path / "lines.csv", points)
    return [r.values for r in found if r.values is not None], [r.refused for r in found if r.values is None]


JOINED: dict[str, tuple[list[str], int, int]] = {  # lines before GOOD → windows, refusals
    "whole": ([], 10, 0),
    "joined in the middle": (["-0.2"], 10, 1),
    "a boot banner": (["ets Jul 29 2019 12:21:46", "rst:0x1 (POWERON_RESET)", "40080400", "entry 0x400805e4"], 10, 4),
    "a banner of numbers": (["1", "2", "3"], 10, 1),
    "lines of every width": (["1", "1,2,3", "1,2,3,4", "1,2,3,4,5"], 10, 4),
    "a header": (["x,y"], 10, 1),
}


@pytest.mark.parametrize("name", JOINED)
def test_what_comes_before_the_series_costs_itself(name: str, tmp_path: Path) -> None:
    before, windows, refusals = JOINED[name]
    found, refused = of([*before, *GOOD], tmp_path)
    assert len(found) == windows and len(refused) == refusals, refused
    assert np.array_equal(found[-1][-1], [10.0, -10.0]) and np.array_equal(found[0][0], [0.1, -0.1])


@pytest.mark.parametrize(
    "spoiled", ["0.1", "0.1,0.2,0.3", "0.1,0.20.3,0.4", "\x00\x00", "1_0,2", '{"t": 1e999}', "9" * 400 + ",1", "[" * 3000]
)
def test_a_spoiled_line_in_the_series_costs_itself(spoiled: str, tmp_path: Path) -> None:
    found, refused = of([*GOOD[:33], spoiled, *GOOD[33:66], spoiled, spoiled, *GOOD[66:]], tmp_path)
    if spoiled[0] == "9":  # a number all the same, if an absurd one
        assert len(found) == 10
        return
    assert len(refused) == 3 and np.array_equal(np.concatenate(found), [[float(c) for c in line.split(",")] for line in GOOD])


@pytest.mark.parametrize("time", ["9" * 400, "-" + "9" * 400, "1e999", "NaN", "true", '"1"', "[1]", "9" * 5000])
def test_a_time_that_is_none_costs_its_line(time: str, tmp_path: Path) -> None:
    lines = [f'{{"t": {i}, "values": [{i}, 1]}}' for i in range(20)]
    found, refused = of([*lines[:5], f'{{"t": {time}, "values": [7, 7]}}', *lines[5:]], tmp_path)
    assert np.array_equal(np.concatenate(found), [[i, 1] for i in range(20)])
    assert len(refused) == 1 and ("and no time; send seconds as a number" in refused[0] or "not JSON" in refused[0])


@pytest.mark.parametrize("values", ["[" + "9" * 400 + "]", "[true, 1]", "[[1], 2]", '["1"]', "[{}]"])
def test_values_that_are_none_cost_their_line(values: str, tmp_path: Path) -> None:
    lines = [f'{{"t": {i}, "values": [{i}, 1]}}' for i in range(20)]
    found, refused = of([*lines[:5], f'{{"t": 5, "values": {values}}}', *lines[5:]], tmp_path)
    assert np.array_equal(np.concatenate([v for v in found if v.ndim == 2]), [[i, 1] for i in range(20)]) and len(refused) == 1


def test_another_firmware_sends_more_columns(tmp_path: Path) -> None:
    wide = [f"{line},1.5" for line in GOOD]
    found, refused = of([*GOOD[:55], *wide, *GOOD], tmp_path)
    assert [v.shape for v in found] == [(10, 2)] * 5 + [(10, 3)] * 10 + [(10, 2)] * 10
    assert len(refused) == 1 and "lines have 3 numbers from here on; 5 points" in refused[0]


def test_few_lines_are_answered_at_the_end(tmp_path: Path) -> None:
    assert len(of(GOOD[:1], tmp_path, points=1)[0]) == 1
    found, refused = of(["1", *GOOD[:2]], tmp_path, points=1)
    assert [v.shape for v in found] == [(1, 2)] * 2 and len(refused) == 1


@pytest.mark.parametrize("line", ["1 2 3", "1\t2\t3", "1;2;3", "1, 2, 3", "[1, 2, 3]", '{"values": [1, 2, 3]}', " 1 ,2,3\r"])
def test_ways_to_part_numbers(line: str, tmp_path: Path) -> None:
    assert np.array_equal(of([line] * 5, tmp_path, points=5)[0][0], [[1, 2, 3]] * 5)


def test_a_serial_port_that_is_joined_and_pulled_out(tmp_path: Path) -> None:
    """A pseudo-terminal: its first line, and half a line at its end, are not believed though they have the right width."""
    host, port = os.openpty()
    source = LineSource(Source(kind="lines", where=os.ttyname(port), points=10, poll_seconds=0.05))
    stop = Event()
    found: list[Recording] = []

    def follow(recordings: Iterator[Recording]) -> None:
        found.extend(recordings)

    thread = threading.Thread(target=follow, args=(source.recordings(stop, lambda why: None),))
    thread.start()
    time.sleep(0.3)
    os.write(host, ("55,-0.3\n" + "\n".join(GOOD[:40]) + "\n0.9,-0").encode())
    deadline = time.monotonic() + 10
    while sum(r.values is not None for r in found) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.close(port)
    os.close(host)
    time.sleep(0.3)
    stop.set()
    thread.join(10)
    assert [r.refused[:30] for r in found if r.values is None] == ["the first line of a serial por"]
    assert np.array_equal(np.concatenate([r.values for r in found if r.values is not None])[:, 0], np.arange(1, 41) / 10)
