"""YOLO: a text of shares for each image, and data.yaml with the names; in a folder or a zip file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from edgeloop_contract.annotations import Annotation
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.fleet.label_formats.items import Item, named, points_of, with_unknown
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
    points = points_of(items)
    shape = f"kpt_shape: [{len(points)}, 3]  # {json.dumps(points, ensure_ascii=False)}\n" if points else ""
    files = {"data.yaml": f"path: .\ntrain: {IMAGES}\nval: {IMAGES}\n{shape}names:\n{listed}"}
    return files | {f"{kind}/{item.stem}.txt": _lines(one, labels, item, len(points)) for item, kind, one in pairs}


def _lines(said: Annotation, labels: list[str], item: Item, points: int) -> str:
    height, width = item.values.shape[:2]
    lines = []
    for box in said.boxes or []:
        left, top, right, bottom = box.box
        shares: tuple[float, ...] = (
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
        )
        for x, y, state in (box.points or [(0.0, 0.0, 0)] * points) if points else ():
            shares = (*shares, x / width, y / height, float(state))
        score = "" if box.score is None else f" {box.score:g}"
        lines.append(f"{labels.index(box.label)} {' '.join(f'{share:.9g}' for share in shares)}{score}\n")
    return "".join(lines)


def is_yolo(path: Path) -> bool:
    return path.is_dir() or path.suffix in (".zip", ".yaml", ".yml")


def of_yolo(path: Path) -> list[Marks]:
    """Of a folder, its data.yaml, or a zip file. Raises DataError."""
    texts = _of_zip(path) if path.suffix == ".zip" else _of_folder(path if path.is_dir() else path.parent)
    described = _described(texts)
    names, points = _names(texts, described), _points(described)
    labels = {name for name in texts if name.endswith(".txt") and PurePosixPath(name).name not in LISTS}
    chosen = {name for name in labels if "labels" in PurePosixPath(name).parts[:-1]} or {
        name for name in labels if "predictions" not in PurePosixPath(name).parts and "-" in PurePosixPath(name).stem
    }
    if not chosen and not labels:
        raise DataError("no text of labels in it: a YOLO export has labels/NAME.txt for each image")
    return [
        Marks(*named(name), [_mark(line, names, points, name) for line in texts[name].splitlines() if line.strip()])
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


def _first(texts: dict[str, str], *endings: str) -> str | None:
    return next((texts[name] for name in sorted(texts, key=len) if name.endswith(endings)), None)


def _described(texts: dict[str, str]) -> dict[str, Any] | None:
    """What data.yaml says; None without one."""
    import yaml

    given = _first(texts, ".yaml", ".yml")
    try:
        found: Any = None if given is None else yaml.safe_load(given)
    except yaml.YAMLError as error:
        raise DataError(f"data.yaml cannot be read ({' '.join(str(error).split())[:200]})") from error
    return None if given is None else found if isinstance(found, dict) else {}


def _points(described: dict[str, Any] | None) -> tuple[int, int]:
    """How many points a box has, and how many numbers each: 2 (x, y) or 3. (0, 0): none."""
    shape = (described or {}).get("kpt_shape")
    if shape is None:
        return 0, 0
    if not (
        isinstance(shape, list)
        and len(shape) == 2
        and all(isinstance(n, int) for n in shape)
        and shape[0] > 0
        and shape[1] in (2, 3)
    ):
        raise DataError(f"data.yaml: kpt_shape {str(shape)[:50]}; it is [points, 2] or [points, 3]")
    return shape[0], shape[1]


def _names(texts: dict[str, str], described: dict[str, Any] | None) -> dict[int, str]:
    if described is not None:
        names = described.get("names")
        if isinstance(names, list):
            return dict(enumerate(map(str, names)))
        if isinstance(names, dict) and all(isinstance(number, int) for number in names):
            return {number: str(name) for number, name in names.items()}
        raise DataError("data.yaml has no names")
    listed = _first(texts, *LISTS, ".names")
    if listed is None:
        raise DataError("no data.yaml in it, which says the names of the labels")
    return {number: line.strip() for number, line in enumerate(listed.splitlines())}


def _mark(line: str, names: dict[int, str], points: tuple[int, int], where: str) -> Mark:
    number, *fields = line.split()
    try:
        label, values = names[int(number)], [float(field) for field in fields]
    except ValueError as error:
        raise DataError(f"{where}: {line[:80]!r} is no number of a label and shares of the image") from error
    except KeyError as error:
        raise DataError(f"{where}: data.yaml has no label {number}") from error
    count, each = points
    if len(values) == (5 + count * each if count else 5):
        raise DataError(f"{where}: {line[:80]!r} has a score: it is a model's prediction, and nobody's label")
    if len(values) in (4, 4 + count * each):
        x, y, width, height = values[:4]
        rows = [values[i : i + each] for i in range(4, len(values), max(each, 1))]
        placed = [(row[0], row[1], row[2] if each == 3 else 2.0 * any(row)) for row in rows]
        return Mark(label, box=(x - width / 2, y - height / 2, x + width / 2, y + height / 2), points=placed or None)
    if count:  # a pose of another shape would else be read as a polygon
        raise DataError(
            f"{where}: {line[:80]!r} has {len(values)} numbers behind its label; with kpt_shape"
            f" [{count}, {each}] of data.yaml a box has 4, or {4 + count * each} with its points"
        )
    if len(values) < 6 or len(values) % 2:
        raise DataError(f"{where}: {line[:80]!r} is neither a box nor a polygon")
    return Mark(label, polygons=[values])
