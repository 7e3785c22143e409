"""COCO: categories, images and annotations with boxes and masks; the model's answers in a file of their own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from edgeloop_contract.annotations import AnnotatedMask, Annotation
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import mask_of
from edgeloop_pipeline.fleet.label_formats.items import Item, named, points_of, with_unknown
from edgeloop_pipeline.fleet.label_formats.marks import MAX_PIXELS, Mark, Marks

Entries = list[dict[str, Any]]
SETTLED = "edgeloop_settled"  # of an image: people said all that is in it, also where that is nothing


def to_coco(items: list[Item], names: list[str]) -> dict[str, str]:
    """Images, and what people said of them; of one label alone a box around the image. Raises DataError for series and values."""
    if any(not item.is_image for item in items):
        raise DataError("coco: it holds images only, and these samples are series; use csv or label-studio")
    if any(item.part == "values" for item in items):
        raise DataError("coco: it holds no values; use csv or label-studio")
    labels = with_unknown(names, (label for item in items for label in _labels(item)))
    points = points_of(items)
    more = {"keypoints": points, "skeleton": []} if points else {}
    categories = [{"id": number, "name": name} | more for number, name in enumerate(labels, 1)]
    images = []
    for number, item in enumerate(items, 1):
        height, width = item.values.shape[:2]
        image: dict[str, Any] = {"id": number, "file_name": item.file, "width": width, "height": height}
        images.append(image | ({SETTLED: True} if item.settled else {}))
    files = {"coco.json": _text(images, [_said(item) for item in items], categories, labels)}
    if begun := [(image, item) for image, item in zip(images, items, strict=True) if item.prediction]:
        predicted = [_entries(item.prediction, item) for _, item in begun]
        files["coco-predictions.json"] = _text([image for image, _ in begun], predicted, categories, labels)
    return files


def _text(images: Entries, said: list[Entries], categories: Entries, labels: list[str]) -> str:
    entries = [(image["id"], entry) for image, entries in zip(images, said, strict=True) for entry in entries]
    annotations = [
        {"id": number, "image_id": image, "category_id": labels.index(entry["label"]) + 1}
        | {name: value for name, value in entry.items() if name != "label"}
        for number, (image, entry) in enumerate(entries, 1)
    ]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}, indent=1)


def _labels(item: Item) -> list[str]:
    return [entry["label"] for entry in (*_said(item), *_entries(item.prediction, item))]


def _said(item: Item) -> list[dict[str, Any]]:
    """What people said of an item, each with its label."""
    return _entries(item.settled, item) if item.part else [_whole(item.sample.label, item)] if item.sample.label else []


def _entries(annotation: Annotation | None, item: Item) -> list[dict[str, Any]]:
    if annotation is None:
        return []
    found: Entries = [_whole(label, item) for label in annotation.labels or []]
    for box in annotation.boxes or []:
        left, top, right, bottom = box.box
        entry: dict[str, Any] = {"label": box.label, "bbox": [left, top, right - left, bottom - top]}
        entry |= {"area": (right - left) * (bottom - top), "iscrowd": 0, "segmentation": []}
        if box.mask is not None:
            runs = {"size": list(box.mask.size), "counts": box.mask.counts}
            entry |= {"area": sum(box.mask.counts[1::2]), "segmentation": runs}
        if box.points is not None:
            entry["keypoints"] = [value for point in box.points for value in point]
            entry["num_keypoints"] = sum(point[2] > 0 for point in box.points)
        found.append(entry | ({} if box.score is None else {"score": box.score}))
    return found + [painted for mask in annotation.masks or [] if (painted := _of_mask(mask)) is not None]


def _whole(label: str, item: Item) -> dict[str, Any]:
    height, width = item.values.shape[:2]
    return {"label": label, "bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}


def _of_mask(mask: AnnotatedMask) -> dict[str, Any] | None:
    pixels = mask_of(mask.counts, *mask.size)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        return None
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return {
        "label": mask.label, "bbox": [left, top, right - left, bottom - top], "area": int(pixels.sum()), "iscrowd": 1,
        "segmentation": {"size": list(mask.size), "counts": mask.counts},
    }  # fmt: skip


def of_coco(found: dict[str, Any], empty: bool) -> list[Marks]:
    """`empty`: an image without annotations holds nothing. Annotations with a score are a model's. Raises DataError, KeyError, …"""
    names = {c["id"]: _name(c["name"]) for c in found["categories"]}
    points = {c["id"]: [_name(name) for name in c.get("keypoints") or []] for c in found["categories"]}
    images = {i["id"]: i for i in found["images"]}
    by_image: dict[Any, list[Mark]] = {i: [] for i, image in images.items() if empty or image.get(SETTLED)}
    predictions = 0
    for annotation in found["annotations"]:
        if annotation.get("score") is not None:
            predictions += 1
            continue
        image = images[annotation["image_id"]]
        category = annotation["category_id"]
        by_image.setdefault(image["id"], []).append(_mark(annotation, names[category], points[category], image))
    if predictions and predictions == len(found["annotations"]):
        raise DataError("all of its annotations have a score: these are a model's predictions, and nobody's labels")
    return [Marks(*named(images[number]["file_name"]), marks) for number, marks in by_image.items()]


def _mark(annotation: dict[str, Any], label: str, names: list[str], image: dict[str, Any]) -> Mark:
    """`names`: of the category's points."""
    segmentation, box = annotation.get("segmentation"), annotation.get("bbox")
    side = (float(image.get("width") or 0), float(image.get("height") or 0))
    edges = None
    if box:
        left, top, width, height = (float(value) for value in box)
        edges = (left, top, left + width, top + height)
    if isinstance(segmentation, dict):
        height, width = (int(length) for length in segmentation["size"])
        if height * width > MAX_PIXELS:
            raise DataError(f"a mask of {width} × {height} pixels; it may have {MAX_PIXELS}")
        counts = segmentation["counts"]
        return Mark(label, side, edges, mask=mask_of(unpacked(counts) if isinstance(counts, str) else counts, height, width))
    if (box or segmentation) and not all(side):
        raise DataError(f"image {image['file_name']!r} has no width and height")
    if segmentation and not (isinstance(segmentation, list) and all(isinstance(polygon, list) for polygon in segmentation)):
        raise DataError(f"image {image['file_name']!r}: a segmentation that is neither polygons nor run lengths")
    return Mark(label, side, edges, () if edges and names else segmentation or (), points=_points(annotation), point_names=names)


def _points(annotation: dict[str, Any]) -> list[tuple[float, float, float]] | None:
    given = annotation.get("keypoints")
    if given is None:
        return None
    values = [float(value) for value in given]
    if len(values) % 3:
        raise DataError(f"{len(values)} numbers of keypoints; each has x, y and 0, 1 or 2")
    return [(values[i], values[i + 1], values[i + 2]) for i in range(0, len(values), 3)]


def _name(name: object) -> str:
    """Some tools write numbers as names."""
    if not isinstance(name, str | int | float):
        raise DataError(f"a category is called {str(name)[:50]!r}; a name is a text")
    return str(name)


def unpacked(text: str) -> list[int]:
    """COCO's compressed run lengths: digits of 5 bits, the least significant first.

    From the fourth number on each is the difference from the one two places before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:
            continue
        if digit & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
