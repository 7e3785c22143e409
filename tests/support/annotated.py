"""Pictures of coloured shapes with boxes, written in every format of annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

LABELS = ("disc", "square")
WIDTH, HEIGHT = 128, 96


class Shape(NamedTuple):
    label: str
    x1: int
    y1: int
    x2: int
    y2: int


def drawn(rng: np.random.Generator, most: int = 3) -> tuple[np.ndarray, list[Shape]]:
    """A noisy picture with up to `most` shapes that do not touch."""
    picture = rng.integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(1, most + 1))):
        side = int(rng.integers(18, 34))
        x, y = int(rng.integers(0, WIDTH - side)), int(rng.integers(0, HEIGHT - side))
        if any(x < s.x2 + 2 and s.x1 < x + side + 2 and y < s.y2 + 2 and s.y1 < y + side + 2 for s in shapes):
            continue
        label = LABELS[int(rng.integers(0, 2))]
        rows, columns = np.mgrid[0:side, 0:side] - (side - 1) / 2
        inside = rows**2 + columns**2 <= (side / 2) ** 2 if label == "disc" else np.ones((side, side), bool)
        picture[y : y + side, x : x + side][inside] = (30, 60, 220) if label == "disc" else (220, 50, 30)
        shapes.append(Shape(label, x, y, x + side, y + side))
    return picture, shapes


def pictures(folder: Path, count: int, seed: int = 0) -> dict[str, list[Shape]]:
    """Write `count` pictures; the shapes of each by its name."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for i in range(count):
        picture, shapes = drawn(rng)
        name = f"p{i:03d}.png"
        Image.fromarray(picture).save(folder / name)
        found[name] = shapes
    return found


def coco(folder: Path, count: int = 12, first_id: int = 1) -> dict[str, list[Shape]]:
    """One JSON beside images/; category ids have a gap."""
    found = pictures(folder / "images", count)
    ids = {"disc": first_id, "square": first_id + 6}
    boxes = [
        {"id": i, "image_id": number, "category_id": ids[s.label], "bbox": [s.x1, s.y1, s.x2 - s.x1, s.y2 - s.y1]}
        for i, (number, s) in enumerate((number, s) for number, shapes in enumerate(found.values()) for s in shapes)
    ]
    images = [{"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(found)]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return found


def yolo_line(shape: Shape) -> str:
    x, y = (shape.x1 + shape.x2) / 2 / WIDTH, (shape.y1 + shape.y2) / 2 / HEIGHT
    return f"{LABELS.index(shape.label)} {x:.6f} {y:.6f} {(shape.x2 - shape.x1) / WIDTH:.6f} {(shape.y2 - shape.y1) / HEIGHT:.6f}"


def yolo(folder: Path, count: int = 12) -> dict[str, list[Shape]]:
    """images/train, images/val and labels beside them, with a data.yaml whose paths are of another machine."""
    found = {}
    for number, (split, part) in enumerate((("train", count - count // 3), ("val", count // 3))):
        some = pictures(folder / "images" / split, part, seed=number)
        labels = folder / "labels" / split
        labels.mkdir(parents=True)
        for name, shapes in some.items():
            (labels / name).with_suffix(".txt").write_text("\n".join(map(yolo_line, shapes)) + "\n")
            found[f"{split}/{name}"] = shapes
    (folder / "data.yaml").write_text("path: /content/elsewhere\ntrain: images/train\nval: ../images/val\nnames: [disc, square]\n")
    return found


def voc_text(name: str, shapes: list[Shape], size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    objects = "".join(
        f"<object><name>{s.label}</name><bndbox><xmin>{s.x1}</xmin><ymin>{s.y1}</ymin><xmax>{s.x2}</xmax><ymax>{s.y2}</ymax>"
        "</bndbox></object>"
        for s in shapes
    )
    return f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"


def voc(folder: Path, count: int = 12) -> dict[str, list[Shape]]:
    """Annotations, JPEGImages and ImageSets/Main."""
    found = pictures(folder / "JPEGImages", count)
    (folder / "Annotations").mkdir()
    for name, shapes in found.items():
        (folder / "Annotations" / name).with_suffix(".xml").write_text(voc_text(name, shapes))
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    stems = [Path(name).stem for name in found]
    third = count // 4
    for split, some in (("test", stems[:third]), ("val", stems[third : 2 * third]), ("train", stems[2 * third :])):
        (sets / f"{split}.txt").write_text("\n".join(some) + "\n")
    return found


def csv(folder: Path, count: int = 12, shares: bool = False) -> dict[str, list[Shape]]:
    found = pictures(folder / "pictures", count)
    x, y = (WIDTH, HEIGHT) if shares else (1, 1)
    rows = [f"{name},{s.label},{s.x1 / x},{s.y1 / y},{s.x2 / x},{s.y2 / y}" for name, shapes in found.items() for s in shapes]
    (folder / "boxes.csv").write_text("\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows]) + "\n")
    return found


WRITERS = {"coco": coco, "yolo": yolo, "voc": voc, "csv": csv}
