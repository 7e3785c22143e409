"""A stage's cache key: everything that changes its output, by name, so that `why` can list the changes."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from edgeloop_pipeline.cache.code_digest import code_of
from edgeloop_pipeline.cache.digests import digest, sha256
from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.tasks.registry import modules_of

SHORT = 12
IMPORTED = ("edgeloop_pipeline.networks.imported", "edgeloop_exporters.onnx_import")  # what makes a network of a model file


def parts(project: Project, name: str, stage: Any, sources: dict[str, Entry], history: list[Entry]) -> dict[str, str]:
    """The parts of the key: name → value or digest. `sources`: the entries whose artefacts the stage reads."""
    head = project.recipe.head
    found = {f"setting {f.name}": _text(getattr(stage, f.name)) for f in dataclasses.fields(stage) if not f.metadata.get("neutral")}
    found |= {f"code {module}": d for module, d in code_in_key(project, stage).items()}
    found |= {f"project file {file}": d for file, d in project.code_digests.items()}
    found |= {f"data {file}": d for file, d in project.data_digests.items()}
    for key in ("network", "network_args", "data", "augment", "preprocessing", "normalize", "task", "seed"):
        found[f"recipe {key}"] = _text(msgspec.to_builtins(getattr(head, key)))
    if head.imported is not None:  # its file is one of the data files
        found["recipe imported"] = _text(msgspec.to_builtins(head.imported))
    if head.cleaning:
        found["recipe cleaning"] = _text(msgspec.to_builtins(head.cleaning))
    if head.field is not None:  # its file is one of the data files
        found["recipe field"] = f"share {head.field.share:g}, repeated at most {head.field.max_repeats} times"
    found |= {f"library {library}": _version(library) for library in stage.libraries}
    if start := getattr(stage, "start", ""):
        weights = project.recipe.folder / start
        found["start's file"] = sha256(weights) if weights.is_file() else "absent"
    found["library python"] = platform.python_version()
    found |= {f"input {artefact}": f"{entry.stage} {entry.digest}" for artefact, entry in sources.items()}
    if stage.uses_history:
        # The duration and measurements of training change only the report.
        said = [{k: v for k, v in e.metrics.items() if k != "training" or name == "report"} for e in history]
        found |= {f"after {e.stage}": digest([e.files, metrics]) for e, metrics in zip(history, said, strict=True)}
    if stage.uses_target:
        found |= {f"target {k}": _text(v) for k, v in msgspec.to_builtins(head.target).items()}
        if head.target.device:
            measured = project.recipe.folder / head.target.device
            found["target device's file"] = digest(measured.read_text("utf-8")) if measured.is_file() else "absent"
    if stage.uses_machine:
        from edgeloop_agent.hardware import machine

        found["machine"] = machine()
    if name == "export":  # it writes them into the model files
        found |= {"recipe name": head.name, "recipe version": str(head.version)}
    if name in ("package", "report"):
        found["recipe cleaning"] = _text(msgspec.to_builtins(head.cleaning))
        found |= {"recipe name": head.name, "recipe version": str(head.version), "recipe model_card": head.model_card}
        found |= {f"recipe {key}": _text(value) for key in ("license", "datasets") if (value := getattr(head, key))}
        found["recipe parent"] = head.parent or ""
    if name == "report":
        found["recipe roi"] = _text(msgspec.to_builtins(head.roi))
    return found


def code_in_key(project: Project, stage: Any) -> dict[str, str]:
    """The digests of the code of the stage, of the recipe's task, and of the sample preparation."""
    imported = IMPORTED if project.recipe.head.imported else ()
    return code_of(type(stage).__module__, (*stage.code, *modules_of(project.recipe.head.task), *imported)) | project.sample_code


def key(name: str, found: dict[str, str]) -> str:
    return digest([name, found])


def changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The differences between two keys, in words."""
    lines = []
    for part in sorted(old.keys() | new.keys()):
        if old.get(part) == new.get(part):
            continue
        before, after = (_shown(side.get(part)) for side in (old, new))
        lines.append(f"{part}: {before} → {after}")
    return lines


def _text(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _shown(value: str | None) -> str:
    """The value with a shortened digest, for display only; the key has the whole digest."""
    if value is None:
        return "absent"
    words = value.split()
    return " ".join(w[:SHORT] + "…" if len(w) == 64 else w for w in words) or "''"


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
