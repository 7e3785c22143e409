"""Samples and annotations as files of other labelling tools: CSV, COCO, YOLO, Label Studio's JSON.

Media files are named DEVICE-KEY, because some tools keep no other field: by that name a label finds its sample again.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.fleet.label_formats.coco import of_coco, to_coco
from edgeloop_pipeline.fleet.label_formats.items import MEDIA, Item, arrays_of
from edgeloop_pipeline.fleet.label_formats.label_studio import of_label_studio, to_label_studio
from edgeloop_pipeline.fleet.label_formats.marks import Mark, Marks, assignments
from edgeloop_pipeline.fleet.label_formats.tables import of_csv, to_csv
from edgeloop_pipeline.fleet.label_formats.yolo import IMAGES, is_yolo, of_yolo, to_yolo

__all__ = ["FORMATS", "MEDIA_FOLDERS", "Item", "Mark", "Marks", "arrays_of", "assignments", "read"]

FORMATS: dict[str, Callable[[list[Item], list[str]], dict[str, str]]] = {
    "csv": to_csv, "coco": to_coco, "yolo": to_yolo, "label-studio": to_label_studio,
}  # fmt: skip
MEDIA_FOLDERS = {name: IMAGES if name == "yolo" else MEDIA for name in FORMATS}


def read(path: Path, empty: bool = False) -> list[Marks]:
    """What people said of each sample, of a file of any of the formats. Raises DataError.

    `empty`: of COCO, an image without annotations holds nothing; else nobody said anything of it.
    """
    try:
        if is_yolo(path):
            return of_yolo(path)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except (DataError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: no labels can be read from it ({error})") from error
    if path.suffix == ".csv":
        return of_csv(path, text)
    try:
        found = json.loads(text)
        if isinstance(found, dict) and "annotations" in found and "images" in found:
            return of_coco(found, empty)
        if isinstance(found, list):
            return list(of_label_studio(found))
        raise DataError("neither COCO's form nor Label Studio's")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, DataError, RecursionError, ArithmeticError) as error:
        raise DataError(f"{path}: no labels can be read from it ({type(error).__name__}: {error})") from error
