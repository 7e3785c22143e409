"""Reads and checks recipes: what to build, from which data, for which target, by which stages."""

from __future__ import annotations

import copy
import hashlib
import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_contract.settings import nearest, problems
from edgeloop_pipeline.recipe.settings import RecipeHead

FILE = "recipe.yaml"


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `stages`: name → raw settings, in the order they run."""

    path: Path
    head: RecipeHead
    stages: dict[str, dict[str, Any]]

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def sha256(self) -> str:
        return hashlib.sha256(msgspec.json.encode([self.head, self.stages], order="sorted")).hexdigest()


def find(where: str) -> Path:
    """The recipe file that `where` names: a file, a project folder, or a reference project."""
    path = Path(where)
    if path.is_dir() and (path / FILE).is_file():
        return (path / FILE).resolve()
    if path.is_file():
        return path.resolve()
    projects = reference_projects()
    if where in projects:
        return projects[where] / FILE
    raise UsageError(f"{where}: no such recipe; give a {FILE}, a folder with one, or one of: {', '.join(projects)}")


def reference_projects() -> dict[str, Path]:
    """Name → folder of the reference projects that edgeloop ships."""
    root = Path(str(importlib.resources.files("edgeloop_models")))
    return {p.name: p for p in sorted(root.iterdir()) if (p / FILE).is_file()}


class Override(NamedTuple):
    """A changed setting as a value, not as YAML text: so a path with an apostrophe or a digest of digits stays unchanged."""

    name: str  # stage.key, or key
    value: Any


def load(path: Path, changes: Sequence[str | Override] = ()) -> Recipe:
    """Read and check a recipe. `changes`: overrides, or as on the command line `stage.key=value` or `key=value`, values in YAML.

    Raises UsageError that lists every problem at once.
    """
    import yaml

    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path}: not a recipe; it needs name, network, data and stages")
    data = _changed(data, changes)
    found = problems(data, RecipeHead, "")
    if not data.get("network") and not data.get("imported"):
        found.append("network: missing")
    raw = data.get("stages")
    stages: dict[str, dict[str, Any]] = {}
    if isinstance(raw, dict):
        stages = {str(name): settings or {} for name, settings in raw.items() if settings is not False}
        found += stage_problems(stages, path.parent)
    if found:
        raise UsageError(f"{path}: {len(found)} problem{'s' * (len(found) > 1)}:\n  " + "\n  ".join(found))
    return Recipe(path, msgspec.convert(data, RecipeHead), stages)


def read_yaml(text: str) -> Any:
    """Read safe YAML in which 1e-3 is a number; YAML 1.1 requires 1.0e-3, which few people write."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = copy.deepcopy(yaml.SafeLoader.yaml_implicit_resolvers)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))
    return yaml.load(text, Loader)


def stage_problems(stages: dict[str, Any], folder: Path) -> list[str]:
    from edgeloop_pipeline.recipe.stage_table import STAGES, stage_class

    found = []
    made: set[str] = set()
    for name, settings in stages.items():
        path = f"stages.{name}"
        if not isinstance(settings, dict):
            found.append(f"{path}: expected settings (key: value), or off to leave the stage out")
            continue
        if name not in STAGES and "stage" not in settings:
            found.append(f"{path}: unknown stage{nearest(name, STAGES)}; a stage of your own needs stage: file.py:Class")
            continue
        try:
            kind = stage_class(name, settings, folder)
        except UsageError as error:
            found.append(f"{path}.stage: {error}")
            continue
        found += problems({k: v for k, v in settings.items() if k != "stage"}, kind, path)
        for need in kind.needs:
            if need not in made:
                makers = [n for n in STAGES if need in stage_class(n, {}, folder).gives]
                found.append(f"{path}: needs a {need}; add {' or '.join(makers) or 'a stage that gives it'} before it")
        made.update(kind.gives)
    return found


def _changed(data: dict[str, Any], changes: Sequence[str | Override]) -> dict[str, Any]:
    """A copy with the changes; a stage's key may lack the leading `stages.`."""
    from edgeloop_pipeline.recipe.stage_table import STAGES

    data = copy.deepcopy(data)
    given = list(data["stages"]) if isinstance(data.get("stages"), dict) else []
    for change in changes:
        name, value = change if isinstance(change, Override) else _said(change)
        keys = name.split(".")
        stages = data.get("stages")
        is_stage = keys[0] not in data and keys[0] not in RecipeHead.__struct_fields__
        if is_stage and isinstance(stages, dict) and (keys[0] in stages or keys[0] in STAGES or len(keys) > 1):
            keys.insert(0, "stages")
        place: Any = data
        for key in keys[:-1]:
            if not isinstance(place.get(key), dict):
                place[key] = {}
            place = place[key]
        place[keys[-1]] = value
    if isinstance(data.get("stages"), dict):
        data["stages"] = _in_place(data["stages"], given, list(STAGES))
    return data


def _said(change: str) -> Override:
    """The override of one `--set` on the command line. Raises UsageError."""
    import yaml

    name, equals, text = change.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {change}: write it as stage.key=value")
    try:
        return Override(name, read_yaml(text))
    except yaml.YAMLError as error:
        raise UsageError(f"--set {change}: the value is not YAML") from error


def _in_place(stages: dict[str, Any], given: list[str], usual: list[str]) -> dict[str, Any]:
    """The stages in order. One that `--set` adds goes to its usual place: before the first stage that usually comes later."""
    order = list(given)
    for name in stages:
        if name not in order:
            later = usual[usual.index(name) + 1 :] if name in usual else []
            order.insert(next((i for i, known in enumerate(order) if known in later), len(order)), name)
    return {name: stages[name] for name in order if name in stages}
