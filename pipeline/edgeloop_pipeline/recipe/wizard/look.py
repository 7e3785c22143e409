"""Examines the data at a path and returns the plan of a project."""

from __future__ import annotations

from pathlib import Path

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations import coco
from edgeloop_pipeline.data.datasets.annotations.formats import format_of
from edgeloop_pipeline.data.datasets.label_lists.reading import has_label_list, has_places
from edgeloop_pipeline.data.datasets.reading import ENDINGS
from edgeloop_pipeline.data.datasets.scanning import is_hidden, kind_of
from edgeloop_pipeline.recipe.wizard.annotated import look_at_boxes, look_at_points, wanted_task
from edgeloop_pipeline.recipe.wizard.folders import look_at_folders
from edgeloop_pipeline.recipe.wizard.labelled import look_at_labels
from edgeloop_pipeline.recipe.wizard.layouts import refuse_annotated
from edgeloop_pipeline.recipe.wizard.masks import has_masks, look_at_masks, look_at_outlines
from edgeloop_pipeline.recipe.wizard.plan import ProjectPlan
from edgeloop_pipeline.recipe.wizard.tables import look_at_table


def look(data: Path, task: str = "") -> ProjectPlan:
    """Choose a plan by the content of the folder, and the task if `task` is ''. Raises DataError that names usable layouts."""
    data = data.resolve()
    if task == "multilabel":
        return look_at_labels(data, task)
    if (found := _annotated(data, task)) is not None:
        return found
    if task == "segmentation":
        raise DataError(f"{data}: has no masks; give a folder with images/ and masks/ in it and no other folder, or COCO outlines")
    if task == "detection":
        raise DataError(f"{data}: has no boxes as COCO JSON, YOLO text, Pascal VOC XML or CSV; give the folder that holds them")
    if data.is_file():
        if kind_of(data) in ("pictures", "sound") or data.suffix.lower() == ".npy":
            raise DataError(f"{data}: is one recording; give a folder with a folder of recordings for each class")
        return look_at_table(data, task)
    if not data.is_dir():
        raise DataError(f"{data}: no such file or folder; give a folder of class folders, or a table with a label column")
    refuse_annotated(data)
    inside = [p for p in data.iterdir() if not is_hidden(p.name)]
    tables = [p for p in inside if p.is_file() and p.suffix.lower() in ENDINGS]
    folders = [p for p in inside if p.is_dir()]
    if not folders:
        if not tables and any(kind_of(p) for p in inside):
            raise DataError(f"{data}: has files but no folders; put each class's files in a folder of its name")
        return look_at_table(data, task)
    if task == "regression":
        raise DataError(f"{data}: class folders have no numbers to estimate; give a table with the quantity in a column")
    return look_at_folders(data, task)


def _annotated(data: Path, task: str) -> ProjectPlan | None:
    """The plan for pictures with boxes, outlines or masks, or for files with a list of labels; None where there are none."""
    kind = format_of(data) if data.exists() else ""
    if kind == "coco" and not has_places(data):
        kind = ""
    if kind == "coco" and (task == "segmentation" or (not task and coco.only_outlines(data))):
        return look_at_outlines(data, task)
    if kind == "coco" and task in ("", "keypoints") and (coco.has_keypoints(data) or task):
        return look_at_points(data)
    if kind:
        wanted_task(task, data)
        return look_at_boxes(data, kind)
    if not task and has_label_list(data):
        return look_at_labels(data, task)
    return look_at_masks(data, task) if has_masks(data) else None
