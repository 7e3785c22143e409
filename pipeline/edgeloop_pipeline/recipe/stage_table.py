"""The table of stages in their usual order, and the import of a stage's class."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.recipe.stage import Base
from edgeloop_pipeline.recipe.user_code import load_object

# Importing one of these modules must not import torch: a cached run only reads their settings.
STAGES = {
    "train": "edgeloop_pipeline.stages.train:Train",
    "budget": "edgeloop_pipeline.stages.budget:Budget",
    "prune": "edgeloop_pipeline.stages.prune:Prune",
    "distill": "edgeloop_pipeline.stages.distill:Distill",
    "quantize": "edgeloop_pipeline.stages.quantize:Quantize",
    "export": "edgeloop_pipeline.stages.export:Export",
    "verify": "edgeloop_pipeline.stages.verify:Verify",
    "profile": "edgeloop_pipeline.stages.profile:Profile",
    "split": "edgeloop_pipeline.stages.split:Split",
    "cascade": "edgeloop_pipeline.stages.cascade:Cascade",
    "package": "edgeloop_pipeline.stages.package:Package",
    "report": "edgeloop_pipeline.stages.report:Report",
}


def stage_class(name: str, settings: dict[str, Any], folder: Path) -> type[Any]:
    """The class of a recipe's stage: the user's own `file.py:Class`, or the built-in one."""
    reference = settings.get("stage")
    if reference is None:
        module, _, attribute = STAGES[name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
    else:
        if not isinstance(reference, str) or ".py:" not in reference:
            raise UsageError(f"{reference!r} is not of the form file.py:Class")
        found = load_object(folder, reference)
        if not (isinstance(found, type) and dataclasses.is_dataclass(found) and issubclass(found, Base)):
            raise UsageError(f"{reference} is not a dataclass derived from edgeloop_pipeline.stages.Base")
    assert isinstance(found, type)
    return found


def build(name: str, settings: dict[str, Any], folder: Path) -> Any:
    """The stage object with its converted settings."""
    kind = stage_class(name, settings, folder)
    return msgspec.convert({k: v for k, v in settings.items() if k != "stage"}, kind)
