"""Pictures and series with several labels each, and lists of them in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from annotated import LABELS, pictures

NAMES = ("disc", "square")


def labelled_pictures(folder: Path, count: int, seed: int = 0) -> dict[str, list[str]]:
    """images/ with `count` pictures of shapes, and the labels of each by its name: disc, square, both."""
    found = pictures(folder / "images", count, seed)
    return {name: sorted({shape.label for shape in shapes}) for name, shapes in found.items()}


def table(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def one_column(folder: Path, found: dict[str, list[str]]) -> None:
    table(folder / "labels.csv", ["filename", "labels"], [[name, ";".join(has)] for name, has in found.items()])


def zero_one(folder: Path, found: dict[str, list[str]]) -> None:
    rows = [[Path(name).stem, 7.5, *(int(label in has) for label in LABELS)] for name, has in found.items()]
    table(folder / "labels.csv", ["image_id", "age", *LABELS], rows)


def row_a_label(folder: Path, found: dict[str, list[str]]) -> None:
    table(folder / "labels.csv", ["file", "label"], [[f"images/{name}", label] for name, has in found.items() for label in has])


def json_lines(folder: Path, found: dict[str, list[str]]) -> None:
    lines = [json.dumps({"file_name": name, "labels": has}) for name, has in found.items()]
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n")


def coco_categories(folder: Path, found: dict[str, list[str]]) -> None:
    ids = {name: number + 3 for number, name in enumerate(LABELS)}
    images = [{"id": number, "file_name": name} for number, name in enumerate(found)]
    rows = [{"image_id": number, "category_id": ids[label]} for number, has in enumerate(found.values()) for label in has]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    (folder / "labels.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": rows}))


FORMATS = {
    "one column": one_column, "columns of 0 and 1": zero_one, "a row for each label": row_a_label, "JSON lines": json_lines,
    "COCO": coco_categories,
}  # fmt: skip


def series(folder: Path, count: int) -> dict[str, list[str]]:
    """Files of one column `x` with a slow or a fast tone, both, or none; the labels of each."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    found = {}
    t = np.arange(64) / 50
    for i in range(count):
        has = [name for name, hertz in (("slow", 1.5), ("fast", 8.0)) if rng.random() < 0.5]
        wave = rng.normal(0, 0.2, 64) + sum(np.sin(2 * np.pi * {"slow": 1.5, "fast": 8.0}[name] * t) for name in has)
        np.savetxt(folder / f"r{i:03d}.csv", wave, header="x", comments="", fmt="%.5f")
        found[f"r{i:03d}.csv"] = has
    return found
