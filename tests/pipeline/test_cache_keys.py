"""Cache keys: an edit that changes what a stage makes re-runs that stage; no other edit does."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import edgeloop_agent
import edgeloop_contract
import edgeloop_exporters
import edgeloop_models
import edgeloop_pipeline
from commands import HERE, ONNX, TINY
from edgeloop_contract.errors import GateError
from edgeloop_pipeline.cache import code_digest
from edgeloop_pipeline.cache.store import Store
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.project import MAX_PARSED_BYTES, Project
from edgeloop_pipeline.recipe.stage_table import STAGES, build
from edgeloop_pipeline.run import cache_key, runner

OURS = (edgeloop_contract, edgeloop_agent, edgeloop_exporters, edgeloop_pipeline, edgeloop_models)
ROOTS = {Path(str(package.__file__)).parent: package.__name__ for package in OURS}
ALL = list(STAGES)

Edit = Callable[[str], str]


def body(text: str) -> str:
    """A change of what the module does."""
    return text + "\nEDITED = True\n"


def docstring(text: str) -> str:
    first = text.index('"""')
    return text[:first] + '"""Another first line.\n\n' + text[first + 3 :]


def comment(text: str) -> str:
    return "# another comment\n" + text


def type_only(text: str) -> str:
    return text + "\nif TYPE_CHECKING:\n    from edgeloop_hub.app import make\n"


# What is edited → the first stages that run again; every stage that takes their artefacts follows them.
EDITS: dict[str, tuple[str, Edit, list[str]]] = {
    "prices": ("edgeloop_pipeline.report.roi", body, []),
    "the page of prices": ("edgeloop_pipeline.report.roi_page", body, []),
    "the command line": ("edgeloop_pipeline.cli.run", body, []),
    "the console": ("edgeloop_pipeline.cli.console", body, []),
    "the hub client": ("edgeloop_pipeline.fleet.hub_client", body, []),
    "retraining": ("edgeloop_pipeline.retraining.policy", body, []),
    "sweeps": ("edgeloop_pipeline.sweep.study", body, []),
    "the runner": ("edgeloop_pipeline.run.runner", body, []),
    "the stage cache": ("edgeloop_pipeline.cache.store", body, []),
    "the wizard": ("edgeloop_pipeline.recipe.wizard.look", body, []),
    "error families": ("edgeloop_contract.errors", body, []),
    "messages of the hub": ("edgeloop_contract.messages", body, []),
    "the agent's loop": ("edgeloop_agent.loop", body, []),
    "another task": ("edgeloop_pipeline.tasks.regression", body, []),
    "a docstring of the loop": ("edgeloop_pipeline.training.loop", docstring, []),
    "a comment in the loop": ("edgeloop_pipeline.training.loop", comment, []),
    "a type-only import of the loop": ("edgeloop_pipeline.training.loop", type_only, []),
    "a docstring of a stage": ("edgeloop_pipeline.stages.train", docstring, []),
    "the training loop": ("edgeloop_pipeline.training.loop", body, ["train", "budget", "prune", "distill", "quantize"]),
    "the task's loss": ("edgeloop_pipeline.tasks.classification", body, ALL),
    "cached teacher scores": ("edgeloop_pipeline.training.teacher_cache", body, ["budget", "distill"]),
    "pruning": ("edgeloop_pipeline.compression.pruning", body, ["budget", "prune", "profile"]),
    "a quantizer": (
        "edgeloop_exporters.quantizers", body,
        ["budget", "quantize", "export", "verify", "profile", "split", "cascade"],
    ),
    "repairs": ("edgeloop_pipeline.quantization.repair", body, ["quantize"]),
    "the ONNX passes": ("edgeloop_exporters.onnx_passes", body, ["budget", "quantize", "export", "profile", "cascade"]),
    "what model files say of themselves": (
        "edgeloop_exporters.model_files.tflite_writing", body, ["budget", "quantize", "export", "profile"],
    ),
    "what model files of others say": ("edgeloop_exporters.model_files.reading", body, []),
    "a runtime": (
        "edgeloop_agent.runtimes.onnx", body,
        ["budget", "quantize", "export", "verify", "profile", "split", "cascade"],
    ),
    "a device's settings": ("edgeloop_agent.config.settings", body, []),
    "floors": ("edgeloop_pipeline.stages.floors", body, ["verify"]),
    "drift references": ("edgeloop_pipeline.drift.calibration", body, ["verify"]),
    "the bundle's writer": ("edgeloop_contract.archive", body, ["budget", "quantize", "profile", "split", "cascade", "package"]),
    "the report": ("edgeloop_pipeline.report.page", body, ["report"]),
    "preprocessing": ("edgeloop_contract.preprocessing", body, ALL),
}  # fmt: skip


def code_of_stages() -> dict[str, dict[str, str]]:
    """Stage → the code in its key, in a recipe for classification."""
    project = Project(recipes.load(TINY / "recipe.yaml"))
    stages = {name: build(name, {}, TINY) for name in ALL}
    return {name: cache_key.code_in_key(project, stage) for name, stage in stages.items()}


unedited = cache(code_of_stages)


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_re_runs_what_it_changes_and_nothing_else(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, edit, expected = EDITS[what]
    before, path, read = unedited(), code_digest._file(module), code_digest._read
    assert path is not None, f"{module}: no such module"
    edited = edit(path.read_text("utf-8"))
    assert edited != path.read_text("utf-8")
    after_edit = code_digest.read_code(edited.encode())
    monkeypatch.setattr(code_digest, "_read", lambda file: after_edit if file == path else read(file))
    after = code_of_stages()
    assert [name for name in ALL if before[name] != after[name]] == expected


def test_readers_of_sources_bring_no_settings_of_devices() -> None:
    """Else a new setting of the agent would train every network again."""
    code = code_digest.code_of("edgeloop_pipeline.data.datasets.recordings")
    assert "edgeloop_agent.sources.readers" in code
    assert not [name for name in code if name.startswith(("edgeloop_agent.config", "edgeloop_agent.addresses"))]


def test_field_data_and_large_folders(tiny: Path) -> None:
    """What merges field data is in the key where a recipe names them; a folder of any size is digested in bounded time."""
    (tiny / "field.npz").write_bytes(b"")
    with_field = Project(recipes.load(tiny / "recipe.yaml", ("field={file: field.npz}",)))
    merging = "edgeloop_pipeline.data.field_data"
    assert merging in with_field.sample_code and merging not in Project(recipes.load(tiny / "recipe.yaml")).sample_code
    (tiny / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000)  # too deep for Python's parser
    (tiny / "data.py").write_text((tiny / "data.py").read_text() + "# a comment\n")
    before = Project(recipes.load(tiny / "recipe.yaml")).code_digests
    (tiny / "aaa.py").write_bytes(b"x = 1\n" * (MAX_PARSED_BYTES // 6 + 1))  # the first by name: what follows is not parsed
    after = Project(recipes.load(tiny / "recipe.yaml")).code_digests
    assert before.keys() | {"aaa.py"} == after.keys() and before["data.py"] != after["data.py"]


def test_edits_through_the_front_door(runs: Path, tmp_path: Path) -> None:
    """The packages are copied and edited; `edgeloop status` says what would run again after the run of the unedited ones."""
    folders = []
    for root, name in ROOTS.items():
        folders.append(tmp_path / name)
        shutil.copytree(root, folders[-1] / name, ignore=shutil.ignore_patterns("__pycache__"))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}

    def would_run() -> list[str]:
        words = [sys.executable, "-m", "edgeloop_pipeline", "status", str(TINY), "--runs", str(runs)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=True)
        return [line.split()[0] for line in done.stdout.splitlines()[1:] if " cached " not in line]

    def edit(file: str, how: Edit) -> None:
        path = tmp_path / "edgeloop_pipeline" / "edgeloop_pipeline" / file
        path.write_text(how(path.read_text("utf-8")), "utf-8")

    assert would_run() == []
    for file in ("report/roi.py", "cli/run.py", "fleet/hub_client.py", "retraining/policy.py"):
        edit(file, body)
    for change in (docstring, comment, type_only):
        edit("training/loop.py", change)
    assert would_run() == []
    edit("quantization/repair.py", body)
    assert would_run()[0] == "quantize"
    edit("training/loop.py", body)
    assert would_run()[0] == "train"


# Code that runs in a stage and is not in its key, because it decides no artefact and no figure but those named here.
ALLOWED = {
    "edgeloop_agent.energy": ("train", "distill"),  # joules in the report
    "edgeloop_pipeline.report.roi": ("report",),  # prices: a change there re-runs nothing (ADR 14)
    "edgeloop_pipeline.report.roi_page": ("report",),
    "edgeloop_pipeline.report.roi_inputs": ("report",),
}
MORE = (  # stages that the tiny recipe leaves out; no ceiling is met, so that every part of them runs
    "budget={attempts: 1, epochs: 1, seconds: 0.02}", "target.max_latency_us=0.001", "target.min_accuracy=0", "target.max_drop=1",
    "export={runtimes: [onnx], float32: true}", "split={seconds: 0.02, bottleneck: 0.5, bottleneck_steps: 5, exits: 0.5}",
    "cascade={}", "quantize.qat=always", "quantize.qat_epochs=1", "distill.cache_teacher=true", "distill.epochs=2", "prune=off",
)  # fmt: skip


@pytest.mark.parametrize(
    ("project", "changes"),
    [
        pytest.param("tiny", (ONNX.removeprefix("--set="),), id="tiny", marks=pytest.mark.long),
        pytest.param("tiny", MORE, id="every stage", marks=pytest.mark.long),
        pytest.param("odd", (ONNX.removeprefix("--set="),), id="anomaly", marks=pytest.mark.long),
        pytest.param("pitch", (), id="regression", marks=pytest.mark.long),
        pytest.param("shapes", (ONNX.removeprefix("--set="),), id="detection", marks=pytest.mark.long),
    ],
)
def test_all_code_that_runs_in_a_stage_is_in_its_key(
    project: str, changes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage is run under a profiler hook that notes which of our files have code that ran."""
    unnamed: dict[str, list[str]] = {}
    call = runner._called

    def watched(planned: runner.PlannedStage, inputs: Any, out: Path) -> Any:
        ran: set[CodeType] = set()
        own = threading.local()  # how many files the thread is importing, one in another: what runs then is not a stage's work

        def hook(frame: Any, event: str, _: object) -> None:
            if frame.f_code.co_name == "<module>":
                own.imports = getattr(own, "imports", 0) + {"call": 1, "return": -1}.get(event, 0)
            elif event == "call" and not getattr(own, "imports", 0):
                ran.add(frame.f_code)

        threading.setprofile(hook)
        sys.setprofile(hook)
        try:
            return call(planned, inputs, out)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            named = {part.removeprefix("code ") for part in planned.parts if part.startswith("code ")}
            # A class's own body is not a stage's work either.
            functions = {code for code in ran if code.co_flags & inspect.CO_OPTIMIZED}
            modules = {module for code in functions if (module := module_of(code.co_filename))}
            allowed = {module for module, stages in ALLOWED.items() if planned.name in stages}
            missing = {m for m in modules - named - allowed if not code_digest._is_neutral(m)}
            if missing:
                unnamed[planned.name] = sorted(missing)

    monkeypatch.setattr(runner, "_called", watched)
    recipe = recipes.load(HERE / "projects" / project / "recipe.yaml", changes)
    result = runner.RunResult(recipe, Store(tmp_path / "runs"))
    try:
        runner.run(recipe, result.store, runner.Listener(), result)
    except GateError:
        assert changes == MORE  # its ceiling of latency cannot be met
    assert [e.stage for e in result.entries if e.stage not in runner.BLOCKED_BY_FAILURE] == [
        name for name in recipe.stages if name not in runner.BLOCKED_BY_FAILURE
    ]
    assert unnamed == {}


def module_of(file: str) -> str | None:
    path = Path(file)
    root = next((root for root in ROOTS if path.is_relative_to(root)), None)
    if root is None or path.suffix != ".py":
        return None
    return ".".join([ROOTS[root], *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
