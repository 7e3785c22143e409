"""The pipeline through its front door."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import BIN, ONNX, TINY, command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle

ORDER = ["train", "prune", "distill", "quantize", "export", "verify", "profile", "package", "report"]


def run(project: Path, runs: Path, *options: str) -> dict[str, Any]:
    done = edgeloop_here("run", project, "--runs", runs, "--json", *options)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def cached(answer: dict[str, Any]) -> list[str]:
    return [s["name"] for s in answer["stages"] if s["cached"]]


def test_json_names_everything(tiny_run: dict[str, Any]) -> None:
    assert [s["name"] for s in tiny_run["stages"]] == ORDER
    assert Path(tiny_run["bundle"]).is_file()
    assert "<svg" in Path(tiny_run["report"]).read_text()
    assert {(v["runtime"], v["precision"]) for v in tiny_run["variants"]} == {
        (r, p) for r in ("onnx", "tflite") for p in ("int8", "float32")
    }
    for v in tiny_run["variants"]:
        assert 0.7 <= v["accuracy"] <= 1
        assert v["bytes"] > 0
        assert v["latency_us_p50"] > 0
    assert tiny_run["parity"]["max_lsb"] <= 3
    assert all(s["peak_bytes"] > 1e6 for s in tiny_run["stages"])


def test_report_is_self_contained(tiny_run: dict[str, Any]) -> None:
    page = Path(tiny_run["report"]).read_text()
    for outside in ("<script", "src=", "url(http", "@import", "<link", 'href="http'):
        assert outside not in page.replace("xlink:href", "")
    for expected in ("Confusion matrix", "Per class", "Parity", "Layers of onnx-int8", "Through the stages"):
        assert expected in page


def test_second_run_is_cached_and_imports_no_torch(runs: Path) -> None:
    script = (
        "import sys; from edgeloop_pipeline.cli.run import commands\n"
        f"commands(['run', {str(TINY)!r}, '--runs', {str(runs)!r}, '--json'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules, 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert cached(json.loads(done.stdout)) == ORDER


def test_a_changed_setting_reruns_from_there(runs: Path) -> None:
    done = edgeloop_here("why", "distill", TINY, "--runs", runs, "--set", "distill.temperature=3.0")
    assert done.stdout.strip() == "setting temperature: 4.0 → 3.0"
    answer = run(TINY, runs, ONNX, "--set", "distill.temperature=3.0")
    assert cached(answer) == ["train", "prune"]
    status = edgeloop_here("status", TINY, "--runs", runs).stdout
    assert status.count("cached") == len(ORDER)


def test_equal_outputs_stop_the_rerun(runs: Path) -> None:
    """What a stage makes counts, not that it ran: with equal artefacts the stages after it stay cached."""
    folder = next((runs / "cache").glob("train-*"))
    (folder / "network.safetensors").write_bytes(b"damaged")
    assert cached(run(TINY, runs)) == ORDER[1:-1]  # the report says how long training took


def test_changed_code_and_why(tiny: Path, runs: Path) -> None:
    network = (tiny / "network.py").read_text()
    (tiny / "network.py").write_text(network + "\n# a remark changes nothing\n")
    assert "train is cached; nothing changed" in command("edgeloop", "why", "train", tiny, "--runs", runs).stdout
    (tiny / "network.py").write_text(network + "\nWIDTH = 3\n")
    said = command("edgeloop", "why", "train", tiny, "--runs", runs).stdout
    assert "project file network.py" in said
    waits = command("edgeloop", "why", "verify", tiny, "--runs", runs).stdout
    assert "waits for train" in waits


@pytest.mark.long
def test_killed_in_a_stage_resumes_to_the_same_result(tiny_run: dict[str, Any], tmp_path: Path) -> None:
    """kill -9 in the middle of training: the next run goes on from its checkpoint and ends with the same files."""
    runs = tmp_path / "runs"
    process = subprocess.Popen(
        [BIN / "edgeloop", "run", TINY, "--runs", runs], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "distill: epoch 2/" in line:  # said before its own checkpoint is written
            os.killpg(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    done = command("edgeloop", "run", TINY, "--runs", runs, "--json")
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch" in done.stderr
    answer = json.loads(done.stdout)
    assert cached(answer) == ["train", "prune"]
    with Bundle.open(Path(answer["bundle"])) as a, Bundle.open(Path(tiny_run["bundle"])) as b:
        assert a.manifest.files == b.manifest.files
    assert not list((runs / "cache").glob(".partial*"))
    assert not list((runs / "work").iterdir())


def test_missed_floor_fails_says_so_and_makes_no_bundle(tiny: Path, runs: Path) -> None:
    done = edgeloop_here("run", tiny, "--runs", runs, "--set", "target.max_int8_bytes=100", ONNX, "--json")
    said = sentence(done, 1)
    told = json.loads(done.stdout)
    assert told["bundle"] is None and told["failures"] and told["failures"][0] in told["error"] and told["error"] in said
    assert {v["precision"] for v in told["variants"]} == {"int8", "float32"}
    assert "more than max_int8_bytes 100" in said
    report = said.strip().rpartition("see ")[2]
    assert Path(report) == runs / "tiny" / "report.html"
    assert not list((runs / "tiny").glob("*.edgeloop")), "an earlier run's bundle is not this one's"
    assert "more than max_int8_bytes" in (runs / "tiny" / "log.txt").read_text()
    assert "tiny: this run made no bundle (tiny: " in sentence(edgeloop_here("open", "bundle", "tiny", "--runs", runs), 2)
    assert edgeloop_here("clean", "--runs", runs, "--yes").returncode == 0
    assert len(list((runs / "cache").glob("package-*"))) == 1, "the newest good bundle stays"
    assert "Floor missed" in Path(report).read_text()
    assert "package" not in [
        p.name.split("-")[0] for p in (runs / "cache").iterdir() if p.stat().st_mtime > Path(report).stat().st_mtime
    ]


@pytest.mark.long
def test_missed_parity_names_the_layer(tiny: Path, runs: Path) -> None:
    """One weight of the second convolution is changed in the ONNX file, behind the exporter's back."""
    (tiny / "stages.py").write_text(
        "import shutil\nfrom dataclasses import dataclass\nfrom edgeloop_pipeline.stages import Base\n"
        "@dataclass(frozen=True)\nclass Spoil(Base):\n    needs = ('exported',)\n    gives = ('exported',)\n"
        "    def __call__(self, inputs, out):\n"
        "        import onnx\n"
        "        for file in inputs.artefacts['exported'].iterdir():\n"
        "            if file.name != 'done.json':\n                shutil.copy(file, out)\n"
        "        model = onnx.load(out / 'onnx-int8.onnx')\n"
        "        weights = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4]\n"
        "        values = bytearray(weights[1].raw_data)\n        values[:40] = bytes(b ^ 0x40 for b in values[:40])\n        weights[1].raw_data = bytes(values)\n"
        "        onnx.save(model, out / 'onnx-int8.onnx')\n        return {}\n"
    )
    text = (tiny / "recipe.yaml").read_text().replace("  verify:", "  spoil: {stage: stages.py:Spoil}\n  verify:")
    (tiny / "recipe.yaml").write_text(text)
    said = sentence(command("edgeloop", "run", tiny, "--runs", runs), 1)
    assert "torch and onnx-int8: up to" in said
    assert "onnx-int8 and tflite-int8: up to" in said
    assert "torch and tflite-int8" not in said
    assert "the first layer to differ is features.5 on onnx" in said


@pytest.mark.long
def test_stages_left_out_and_replaced(tiny: Path, tmp_path: Path) -> None:
    (tiny / "stages.py").write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\nimport shutil\nfrom edgeloop_pipeline.stages import Base\n"
        "@dataclass(frozen=True)\nclass Copy(Base):\n    note: str = 'x'\n    needs = ('network',)\n    gives = ('network',)\n"
        "    def __call__(self, inputs, out):\n"
        "        for file in inputs.artefacts['network'].glob('network.*'):\n            shutil.copy(file, out)\n"
        "        return {'note': self.note}\n"
    )
    text = (
        (tiny / "recipe.yaml").read_text().replace("prune: {keep: 0.5, round_to: 4}", "prune: {stage: stages.py:Copy, note: mine}")
    )
    (tiny / "recipe.yaml").write_text(text)
    answer = run(
        tiny, tmp_path / "runs", "--set", "distill=off", "--set", "export.runtimes=[onnx]", "--set", "export.float32=false"
    )
    names = [s["name"] for s in answer["stages"]]
    assert "distill" not in names
    assert answer["stages"][1]["metrics"] == {"note": "mine"}
    assert [v["runtime"] for v in answer["variants"]] == ["onnx"]
    (tiny / "stages.py").write_text((tiny / "stages.py").read_text().replace("{'note': self.note}", "[object()]"))
    not_plain = command("edgeloop", "run", tiny, "--runs", tmp_path / "runs", "--set", "distill=off")
    assert "stage prune: returned metrics that are not a JSON object" in sentence(not_plain, 2)
    wrong = edgeloop_here("run", tiny, "--runs", tmp_path / "runs", "--set", "prune.note=3")
    assert "stages.prune.note" in sentence(wrong, 2)


@pytest.mark.long
def test_qat_runs_when_the_floor_is_missed(runs: Path) -> None:
    answer = run(TINY, runs, ONNX, "--set", "quantize.qat=always", "--set", "quantize.qat_epochs=2")
    metrics = next(s["metrics"] for s in answer["stages"] if s["name"] == "quantize")
    assert len(metrics["curve"]) == 2
    assert metrics["validation_accuracy"] >= metrics["post_training_validation_accuracy"]
    assert cached(answer)[:3] == ["train", "prune", "distill"]


def test_new_project_runs_from_its_copy(tmp_path: Path) -> None:
    done = command("edgeloop", "new", "mine", "--like", "exercise_watch", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {"recipe.yaml", "network.py", "data.py", "README.md"}
    assert "is not empty" in sentence(command("edgeloop", "new", "mine", "--like", "fashion", cwd=tmp_path), 2)
    assert "did you mean fashion?" in sentence(command("edgeloop", "new", "b", "--like", "fashon", cwd=tmp_path), 2)
    assert "would run" in command("edgeloop", "status", "mine", cwd=tmp_path).stdout


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from edgeloop_pipeline.cli.run import commands\n"
        "try: commands(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'onnx', 'rich', 'yaml', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_lighter_float_files_ship_too(tiny: Path, runs: Path) -> None:
    changes = ("--set", "export.float16=true", "--set", "export.int8_weights=true", "--set", "profile.seconds=0.02")
    done = edgeloop_here("run", tiny, "--runs", runs, "--json", *changes)
    assert done.returncode == 0, done.stderr
    found = {(v["runtime"], v["precision"]): v for v in json.loads(done.stdout)["variants"]}
    for runtime in ("onnx", "tflite"):
        plain = found[runtime, "float32"]
        for precision in ("float16", "int8weights"):
            assert found[runtime, precision]["accuracy"] == pytest.approx(plain["accuracy"], abs=0.03), (runtime, precision)
    bundle = json.loads(done.stdout)["bundle"]
    listed = command("edgeloop-agent", "inspect", bundle).stdout
    assert "onnx-float16" in listed and "tflite-int8weights" in listed
