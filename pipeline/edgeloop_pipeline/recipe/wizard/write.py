"""Writes the project's files. All texts from the user's data are quoted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.recipe.recipe import reference_projects
from edgeloop_pipeline.recipe.wizard.plan import ProjectPlan

TEMPLATES = Path(__file__).parent / "templates"
AFTER_TRAINING = ("quantize", "export", "verify", "profile", "package", "report")
MAX_NAMED = 10
VERBS = {
    "regression": "Estimates", "detection": "Finds", "keypoints": "Finds, with points:", "segmentation": "Labels pixels:",
    "multilabel": "Says which there are of",
}  # fmt: skip


def write(folder: Path, plan: ProjectPlan) -> None:
    """Write the project: recipe.yaml, network.py and data.py, which the user can edit."""
    data, recipe = data_file(folder, plan), recipe_file(folder, plan)
    try:
        (data + recipe).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{plan.path!s:.200}: a name in it is no valid text; rename it".encode(errors="replace").decode()
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy((reference_projects()[plan.network] if plan.network else TEMPLATES) / "network.py", folder / "network.py")
    (folder / "data.py").write_text(data, encoding="utf-8")
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")


def data_file(folder: Path, plan: ProjectPlan) -> str:
    """The text of data.py. The path of the data is relative to the project, so that both can move together."""
    where = os.path.relpath(plan.path.resolve(), folder.resolve())
    given = [f"{name}={value!r}" for name, value in plan.arguments.items() if value not in ("", (), 0)]
    call = ", ".join(["DATA", *given])
    lines = f"{plan.kind}({call})"
    if len(lines) > 110:
        lines = f"{plan.kind}(\n" + "".join(f"        {part},\n" for part in ["DATA", *given]) + "    )"
    name, made, _ = plan.augment.partition("(")
    source = "from edgeloop_pipeline.data.augmentations import"
    augment = f"{source} {name}{'' if made else ' as augment  # noqa: F401'}\n" if plan.augment else ""
    setting = f"augment = {plan.augment}\n" if made else ""
    return (
        f'"""The data of this project."""\n\nfrom pathlib import Path\n\n{augment}'
        f"from edgeloop_pipeline.data.datasets import {plan.kind}\n\n"
        f"DATA = Path(__file__).resolve().parent / {where!r}\n{setting}\n\ndef data() -> {plan.kind}:\n    return {lines}\n"
    )


def recipe_file(folder: Path, plan: ProjectPlan) -> str:
    steps = "".join(f"  - {step}\n" for step in plan.preprocessing)
    cleaning = "".join(f"  - {step}\n" for step in plan.cleaning)
    verb = {
        "regression": "Estimates",
        "detection": "Finds",
        "segmentation": "Labels pixels:",
        "multilabel": "Says which there are of",
    }.get(plan.task, "Tells apart")
    card = f"{verb} {', '.join(plan.distinct[:MAX_NAMED])}{' …' if len(plan.distinct) > MAX_NAMED else ''}."
    return (
        f"# {' '.join(plan.seen.split())}.\nname: {quoted(project_name(folder))}\nversion: 1\n"
        + (f"task: {plan.task}\n" if plan.task != "classification" else "")
        + f"network: {plan.network_reference}\nnetwork_args: {plan.network_args}\n"
        + "data: data.py:data\n"
        + ("augment: data.py:augment\n" if plan.augment else "")
        + (f"cleaning:                     # before preprocessing, on the device and in training\n{cleaning}" if cleaning else "")
        + f"preprocessing:                # the device does these steps too\n{steps}"
        "target:\n  max_drop: 0.02              # from the float network to int8; add min_accuracy when you know what you need\n"
        f"model_card: {quoted(card)}\n"
        f"stages:\n  train: {plan.train}\n" + "".join(f"  {stage}: {{}}\n" for stage in AFTER_TRAINING)
    )


def quoted(text: str) -> str:
    """Any text as a YAML string: JSON's strings are valid YAML."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def project_name(folder: Path) -> str:
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in folder.resolve().name)
    return name.lstrip("_.-")[:64] or "project"
