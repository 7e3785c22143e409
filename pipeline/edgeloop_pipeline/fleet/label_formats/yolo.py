"""YOLO: a text of shares for each image, and data.yaml with the names; in a folder or a zip file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from edgeloop_contract.annotations import Annotation
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.fleet.label_formats.items import Item, named, with_unknown
from edgeloop_pipeline.fleet.label_formats.marks import Mark, Marks

KINDS = {"labels": "settled", "predictions": "prediction"}  # folder → attribute of an item
IMAGES = "images"  # the folder of media
MAX_BYTES = 64 << 20  # of texts in a zip file
LISTS = ("classes.txt", "obj.names")  # names, one a line, of tools that write no data.yaml


def to_yolo(items: list[Item], names: list[str]) -> dict[str, str]:
    """labels/: what people said, an empty text where nothing is there; predictions/: the model's, elsewhere."""
    if any(item.part != "boxes" for item in items):
        raise DataError("yolo: it holds boxes only; use coco, csv or label-studio")
    said = [(item, kind, getattr(item, name)) for kind, name in KINDS.items() for item in items]
    pairs: list[tuple[Item, str, Annotation]] = [pair for pair in said if pair[2] is not None]
    labels = with_unknown(names, (box.label for _, _, one in pairs for box in one.boxes or []))
    listed = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(labels))
    files = {"data.yaml": f"path: .\ntrain: {IMAGES}\nval: {IMAGES}\nnames:\n{listed}"}
    return files | {f"{kind}/{item.stem}.txt": _lines(one, labels, item) for item, kind, one in pairs}


def _lines(said: Annotation, labels: list[str], item: Item) -> str:
    height, width = item.values.shape[:2]
    lines = []
    for box in said.boxes or []:
        left, top, right, bottom = box.box
        shares = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
        score = "" if box.score is None else f" {box.score:g}"
        lines.append(f"{labels.index(box.label)} {' '.join(f'{share:.9g}' for share in shares)}{score}\n")
    return "".join(lines)


def is_yolo(path: Path) -> bool:
    return path.is_dir() or path.suffix in (".zip", ".yaml", ".yml")


def of_yolo(path: Path) -> list[Marks]:
    """Of a folder, its data.yaml, or a zip file. Raises DataError."""
    texts = _of_zip(path) if path.suffix == ".zip" else _of_folder(path if path.is_dir() else path.parent)
    names = _names(texts, path)
    labels = {name for name in texts if name.endswith(".txt") and PurePosixPath(name).name not in LISTS}
    chosen = {name for name in labels if "labels" in PurePosixPath(name).parts[:-1]} or {
        name for name in labels if "predictions" not in PurePosixPath(name).parts and "-" in PurePosixPath(name).stem
    }
    if not chosen and not labels:
        raise DataError("no text of labels in it: a YOLO export has labels/NAME.txt for each image")
    return [
        Marks(*named(name), [_mark(line, names, name) for line in texts[name].splitlines() if line.strip()])
        for name in sorted(chosen)
    ]


def _of_folder(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".yaml", ".yml", ".names") and path.is_file()]
    if sum(path.stat().st_size for path in files) > MAX_BYTES:
        raise DataError(f"more than {MAX_BYTES} bytes of texts")
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8-sig") for path in files}


def _of_zip(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    with zipfile.ZipFile(path) as zipped:
        room = MAX_BYTES
        for entry in zipped.infolist():
            if PurePosixPath(entry.filename).suffix not in (".txt", ".yaml", ".yml", ".names") or entry.is_dir():
                continue
            with zipped.open(entry) as file:
                content = file.read(room + 1)
            room -= len(content)
            if room < 0:
                raise DataError(f"more than {MAX_BYTES} bytes of texts")
            texts[entry.filename] = content.decode("utf-8-sig")
    return texts


def _names(texts: dict[str, str], path: Path) -> dict[int, str]:
    import yaml

    def first(*endings: str) -> str | None:
        return next((texts[name] for name in sorted(texts, key=len) if name.endswith(endings)), None)

    described = first(".yaml", ".yml")
    if described is not None:
        try:
            found: Any = yaml.safe_load(described)
        except yaml.YAMLError as error:
            raise DataError(f"data.yaml cannot be read ({' '.join(str(error).split())[:200]})") from error
        names = found.get("names") if isinstance(found, dict) else None
        if isinstance(names, list):
            return dict(enumerate(map(str, names)))
        if isinstance(names, dict) and all(isinstance(number, int) for number in names):
            return {number: str(name) for number, name in names.items()}
        raise DataError("data.yaml has no names")
    listed = first(*LISTS, ".names")
    if listed is None:
        raise DataError("no data.yaml in it, which says the names of the labels")
    return {number: line.strip() for number, line in enumerate(listed.splitlines())}


def _mark(line: str, names: dict[int, str], where: str) -> Mark:
    number, *fields = line.split()
    try:
        label, values = names[int(number)], [float(field) for field in fields]
    except ValueError as error:
        raise DataError(f"{where}: {line[:80]!r} is no number of a label and shares of the image") from error
    except KeyError as error:
        raise DataError(f"{where}: data.yaml has no label {number}") from error
    if len(values) == 5:
        raise DataError(f"{where}: {line[:80]!r} has a score: it is a model's prediction, and nobody's label")
    if len(values) == 4:
        x, y, width, height = values
        return Mark(label, box=(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(values) < 6 or len(values) % 2:
        raise DataError(f"{where}: {line[:80]!r} is neither a box nor a polygon")
    return Mark(label, polygons=[values])
