"""A provider whose engines take long to build: the agent answers without them, and changes over between two recordings."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from commands import HERE
from places import card, in_namespaces
from serving import RECORDING, Agent, eventually, serving

FAKE = str(HERE / "support" / "slow_engines")
WATCH = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n'
WINDOWS = 48


def text_for(variant: str = "onnx-int8", more: str = "") -> str:
    return f'{WATCH}[runtime]\nvariant = "{variant}"\nproviders = ["TensorRT"]\nmeasure_seconds = 0.01\n{more}'


def runtime(agent: Agent) -> str:
    return next(line for line in agent.get("/metrics").splitlines() if line.startswith("edgeloop_agent_model_info{"))


def put(agent: Agent, name: str) -> None:
    """A recording, and all of its answers."""
    before = len(agent.lines)
    shutil.copy(RECORDING, agent.folder / "in" / name)
    eventually(lambda: len(agent.lines) == before + WINDOWS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def test_answers_come_while_an_engine_is_built_and_then_from_it(folder: Path) -> None:
    with serving(folder, text_for(), PYTHONPATH=FAKE, ENGINE_SECONDS="4") as agent:
        put(agent, "a.csv")
        assert "Tensorrt" not in runtime(agent) and agent.metric("edgeloop_agent_engines_building") == 1
        assert "engines are built model=" not in agent.log
        eventually(lambda: "engines are built model=exercise_watch" in agent.log)
        assert "Tensorrt" in runtime(agent) and agent.metric("edgeloop_agent_engines_building") == 0
        put(agent, "b.csv")
        first, second = ([line["probabilities"] for line in agent.lines[i : i + WINDOWS]] for i in (0, WINDOWS))
        assert first == second
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0
    with serving(folder, text_for(), PYTHONPATH=FAKE, ENGINE_SECONDS="30") as agent:  # the engine is there: it is used at once
        assert "Tensorrt" in runtime(agent) and "engines are built" not in agent.log


@pytest.mark.long
def test_an_engine_that_was_removed_is_built_again_beside(folder: Path) -> None:
    with serving(folder, text_for(), PYTHONPATH=FAKE, ENGINE_SECONDS="0.1") as agent:
        eventually(lambda: "engines are built model=exercise_watch" in agent.log)
    shutil.rmtree(folder / "state" / "graphs" / "tensorrt")
    with serving(folder, text_for(), PYTHONPATH=FAKE, ENGINE_SECONDS="30") as agent:  # it was removed: nothing waits for it
        assert "Tensorrt" not in runtime(agent)
        eventually(lambda: "engines are built beside" in agent.log)


@pytest.mark.long
@pytest.mark.parametrize(("how", "says"), [("dies", "the builder's process died (11)"), ("lies", "steps off the golden ones")])
def test_engines_that_cannot_be_used_leave_the_model_as_it_is(how: str, says: str, folder: Path) -> None:
    with serving(folder, text_for(), PYTHONPATH=FAKE, ENGINE_SECONDS="0.1", ENGINES=how) as agent:
        eventually(lambda: "engines cannot be used" in agent.log)
        assert says in agent.log
        put(agent, "a.csv")
        assert "Tensorrt" not in runtime(agent) and agent.metric("edgeloop_agent_worker_restarts_total") == 0
        time.sleep(1.2)
        assert agent.log.count("engines are built beside") == 1  # once from start to start


@pytest.mark.parametrize(("how", "why"), [("", "could not deserialize"), ("crashes", "the last worker died while it loaded them")])
def test_engines_that_another_tensorrt_built_are_thrown_away(how: str, why: str, folder: Path) -> None:
    """By a provider that refuses them, or dies of them: answers come, the engines are built again, and that is said once."""
    with serving(folder, text_for(), PYTHONPATH=FAKE, ENGINE_SECONDS="0.1") as agent:
        eventually(lambda: "engines are built model=exercise_watch" in agent.log)
    more = "[limits]\nrestart_seconds = 0.1\n"
    with serving(folder, text_for(more=more), PYTHONPATH=FAKE, ENGINE_SECONDS="1", TENSORRT="2", ENGINES=how) as agent:
        assert "Tensorrt" not in runtime(agent)
        put(agent, "a.csv")
        eventually(lambda: "engines are built model=exercise_watch" in agent.log)
        assert "Tensorrt" in runtime(agent) and agent.log.count("engines are thrown away, and built again") == 1
        assert why in agent.log and agent.metric("edgeloop_agent_worker_restarts_total") == (how == "crashes")
    with serving(folder, text_for(), PYTHONPATH=FAKE, TENSORRT="2", ENGINES=how) as agent:
        assert "Tensorrt" in runtime(agent) and "thrown away" not in agent.log


@pytest.mark.long
def test_engines_of_another_library_are_not_even_loaded(folder: Path) -> None:
    """Its file's name says the version: what they were built by is noted beside them."""
    for version, again in (("10.3.0", False), ("10.3.0", False), ("10.7.0", True)):
        shutil.rmtree(folder / "lib", ignore_errors=True)
        (folder / "lib").mkdir()
        (folder / "lib" / f"libnvinfer.so.{version}").touch()
        here = {"PYTHONPATH": FAKE, "ENGINE_SECONDS": "0.1", "LD_LIBRARY_PATH": str(folder / "lib")}
        with serving(folder, text_for(), ENGINES="crashes", TENSORRT=version, **here) as agent:
            eventually(lambda: "Tensorrt" in runtime(agent))
            said = 'why="libnvinfer.so.10.3.0 built them; here is libnvinfer.so.10.7.0"' in agent.log.replace("; /", "; ")
            assert said is again and agent.metric("edgeloop_agent_worker_restarts_total") == 0


@in_namespaces
@pytest.mark.long
def test_engines_without_room_are_not_begun(folder: Path) -> None:
    (folder / "state").mkdir()
    with serving(folder, text_for(), PYTHONPATH=FAKE, inside=card(folder / "state", "5m")) as agent:
        eventually(lambda: "engines cannot be used" in agent.log)
        assert "and engines need about" in agent.log and "make room" in agent.log and "engines are built beside" not in agent.log
        put(agent, "a.csv")


@pytest.mark.long
def test_builds_that_die_are_not_begun_for_ever(folder: Path) -> None:
    for start in range(7):
        with serving(folder, text_for(), PYTHONPATH=FAKE, ENGINE_SECONDS="0.1", ENGINES="dies") as agent:
            eventually(lambda: "engines cannot be used" in agent.log)
            assert ("5 builds or loads in a row did not end well" in agent.log) is (start >= 5)
            assert ("engines are built beside" in agent.log) is (start < 5)
    next((folder / "state").glob("engines-*.tries")).unlink()
    with serving(folder, text_for(), PYTHONPATH=FAKE, ENGINE_SECONDS="0.1") as agent:
        eventually(lambda: "Tensorrt" in runtime(agent))


@pytest.mark.long
def test_without_a_named_variant_the_fastest_way_is_chosen_beside(folder: Path) -> None:
    text = text_for().replace('variant = "onnx-int8"\n', "")
    with serving(folder, text, PYTHONPATH=FAKE, ENGINE_SECONDS="2") as agent:
        put(agent, "a.csv")
        eventually(lambda: "engines are built model=exercise_watch" in agent.log)
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0
        put(agent, "b.csv")


@pytest.mark.long
def test_an_agent_that_is_stopped_leaves_no_builder(folder: Path) -> None:
    with serving(folder, text_for(), PYTHONPATH=FAKE, ENGINE_SECONDS="60") as agent:
        eventually(lambda: "engines are built beside" in agent.log)
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in p.read_bytes()]
