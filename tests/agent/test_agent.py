"""The agent through its command line: what fits is answered, what does not is refused and reported, the rest goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import BIN, TINY, command, sentence
from edgeloop_agent.engine import Engine
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice


@pytest.fixture
def bundle(tiny_run: dict[str, Any]) -> Path:
    return Path(tiny_run["bundle"])


def answers(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_recordings_it_never_saw(bundle: Path, tmp_path: Path) -> None:
    made = command("edgeloop", "samples", TINY, tmp_path / "recordings", "--limit", "12")
    assert made.returncode == 0, made.stderr
    done = command("edgeloop-agent", "run", bundle, "--source", tmp_path / "recordings", "--state", tmp_path / "state")
    assert done.returncode == 0, done.stderr
    lines = answers(done.stdout)
    assert len(lines) == 36  # twelve recordings of three windows
    for line in lines:
        assert set(line) == {"input", "window", "label", "probabilities", "milliseconds"}
        assert abs(sum(line["probabilities"].values()) - 1) < 1e-3
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)
    right = sum(line["label"] in line["input"] for line in lines)
    assert right / len(lines) > 0.7
    assert "not measured on this device yet" in done.stderr


def test_bad_samples_are_refused_and_the_rest_go_on(bundle: Path) -> None:
    good = np.zeros((32, 2)).tolist()
    with_nan = [[None, 0.0], *good[1:]]
    stream = "\n".join(
        [
            json.dumps({"name": "good", "values": good}),
            json.dumps({"name": "null", "values": with_nan}),
            json.dumps({"name": "infinite", "values": good}).replace("0.0", "Infinity", 1),
            json.dumps({"name": "channels", "values": np.zeros((32, 3)).tolist()}),
            json.dumps({"name": "short", "values": good[:5]}),
            json.dumps({"name": "ragged", "values": [[1, 2], [3]]}),
            json.dumps({"name": "words", "values": [["a", "b"]]}),
            json.dumps({"name": "flat", "values": [1, 2, 3]}),
            json.dumps({"name": "huge", "values": [[10**400, 1]] * 32}),
            json.dumps([1, 2]),
            json.dumps({"name": "nothing"}),
            "{not json",
            "[" * 100_000,
            "",
            json.dumps({"name": "last", "values": [*good, *good]}),
        ]
    )
    done = command("edgeloop-agent", "run", bundle, "--source", "-", stdin=stream)
    assert done.returncode == 0, done.stderr
    lines = answers(done.stdout)
    by_name = {line["input"]: line for line in lines}
    for name, reason in {
        "null": "1 of 64 values are NaN or infinite",
        "infinite": "NaN or infinite",
        "channels": "3 channels",
        "short": "5 points",
        "ragged": "not a regular array",
        "words": "not a regular array|shape",
        "flat": "3 points; a window needs 32",
        "huge": "values",
        "line 10": "not an object",
        "nothing": 'with "values"',
        "line 12": "not JSON",
        "line 13": "not JSON",
    }.items():
        assert any(part in by_name[name]["refused"] for part in reason.split("|")), (name, by_name[name])
    assert [line["input"] for line in lines if "label" in line] == ["good", "last", "last"]
    assert "3 samples answered, 12 refused" in done.stderr


def test_folder_with_bad_files(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    np.savetxt(folder / "a.csv", np.zeros((32, 2)), delimiter=",", header="x,y", comments="")
    (folder / "b.csv").write_text("1,2\n3\n")
    (folder / "c.csv").write_text("")
    (folder / "d.npy").write_bytes(b"nothing")
    np.save(folder / "e.npy", np.zeros((32, 2)))
    np.save(folder / "f.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "g.png").write_bytes(b"nothing")
    (folder / "h.wav").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("ignored")
    done = command("edgeloop-agent", "run", bundle, "--source", folder)
    assert done.returncode == 0, done.stderr
    lines = answers(done.stdout)
    assert [line["input"] for line in lines if "label" in line] == ["a.csv", "e.npy"]
    assert {line["input"] for line in lines if "refused" in line} == {"b.csv", "c.csv", "d.npy", "f.npy", "g.png", "h.wav"}


@pytest.mark.parametrize("variant", ["onnx-int8", "onnx-float32", "tflite-int8", "tflite-float32"])
def test_every_variant_agrees_with_the_canary(variant: str, bundle: Path) -> None:
    with Bundle.open(bundle) as opened:
        canary = opened.manifest.canary
        inputs, scores = opened.array(canary.input), opened.array(canary.scores.file)
        engine = Engine(opened, VariantChoice(variant, 1, "test"))
        found = engine.runtime.run(inputs)
        steps = np.abs(found - scores).max() / canary.scores.step
        assert (
            steps <= canary.scores.max_steps + 0.01
            if variant.endswith("int8")
            else (found.argmax(1) == scores.argmax(1)).mean() > 0.8
        )


def test_bench_remembers_the_fastest(bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = command("edgeloop-agent", "bench", bundle, "--seconds", "0.05", "--state", state, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    costs = {v["variant"]: v["cost"]["latency_us_p50"] for v in answer["variants"]}
    assert answer["fastest"]["variant"] == min(costs, key=lambda name: costs[name])
    again = command(
        "edgeloop-agent", "run", bundle, "--source", "-", "--state", state, stdin=json.dumps({"values": np.zeros((32, 2)).tolist()})
    )
    assert answer["fastest"]["variant"] in again.stderr
    assert f"fastest of {len(answer['variants'])} measured on this device" in again.stderr
    # A damaged note is no note, and another bundle has none.
    Path(answer["remembered"]).write_text("{")
    fallen = command(
        "edgeloop-agent", "run", bundle, "--source", "-", "--state", state, stdin=json.dumps({"values": np.zeros((32, 2)).tolist()})
    )
    assert "not measured on this device yet" in fallen.stderr


def test_inspect(bundle: Path) -> None:
    shown = command("edgeloop-agent", "inspect", bundle)
    assert shown.returncode == 0
    for expected in ("tiny version 1", "slow, fast, still", "int16 [32, 2]", "tflite-int8", "canary/inputs.npy"):
        assert expected in shown.stdout
    assert json.loads(command("edgeloop-agent", "inspect", bundle, "--json").stdout)["name"] == "tiny"


BAD_CALLS: dict[str, tuple[list[str], int, str]] = {
    "no such bundle": (["run", "nowhere.edgeloop", "--source", "-"], 5, "cannot be opened"),
    "a folder as bundle": (["inspect", "."], 5, "cannot be opened"),
    "no such source": (["run", "BUNDLE", "--source", "nowhere"], 3, "no such file or folder"),
    "empty folder": (["run", "BUNDLE", "--source", "EMPTY"], 3, "no recordings"),
    "unknown ending": (["run", "BUNDLE", "--source", "BUNDLE"], 3, "cannot read .edgeloop"),
    "unknown variant": (["run", "BUNDLE", "--source", "-", "--variant", "onnx-int4"], 5, "did you mean onnx-int8?"),
    "no threads": (["run", "BUNDLE", "--source", "-", "--threads", "0"], 2, "above 0"),
    "nothing on stdin": (["run", "BUNDLE", "--source", "-"], 3, "no sample could be used"),
    "state is a file": (["bench", "BUNDLE", "--seconds", "0.01", "--state", "BUNDLE/x"], 7, "pass --state"),
    "no command": ([], 2, "usage"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name: str, bundle: Path, tmp_path: Path) -> None:
    words, code, message = BAD_CALLS[name]
    (tmp_path / "empty").mkdir()
    words = [w.replace("BUNDLE", str(bundle)).replace("EMPTY", str(tmp_path / "empty")) for w in words]
    assert message in sentence(command("edgeloop-agent", *words, cwd=tmp_path, stdin=""), code)


def test_full_output_and_a_reader_that_leaves(bundle: Path, tmp_path: Path) -> None:
    line = json.dumps({"values": np.zeros((32 * 200, 2)).tolist()}) + "\n"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [BIN / "edgeloop-agent", "run", bundle, "--source", "-"],
            input=line,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 7
    assert "No space left" in done.stderr
    shell = f"{BIN / 'edgeloop-agent'} run {bundle} --source {tmp_path / 'many.jsonl'} | head -1"
    (tmp_path / "many.jsonl").write_text(line * 20)
    left = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, check=False)
    assert left.returncode == 0, left.stderr
    assert "Traceback" not in left.stderr


def test_agent_imports_nothing_of_the_workstation() -> None:
    script = (
        "import sys, edgeloop_agent.cli, edgeloop_agent.engine, edgeloop_agent.sources, edgeloop_agent.bench.measure\n"
        "heavy = {'torch', 'onnx', 'scipy', 'pandas', 'yaml', 'click', 'rich', 'PIL'} & set(sys.modules)\nassert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_images_of_another_size(bundle: Path, tmp_path: Path) -> None:
    """A picture is decoded, and refused with its shape where the model takes something else."""
    from PIL import Image

    Image.new("RGB", (30, 40)).save(tmp_path / "a.png")
    done = command("edgeloop-agent", "run", bundle, "--source", tmp_path)
    assert "channels" in answers(done.stdout)[0]["refused"]
    sentence(done, 3)
