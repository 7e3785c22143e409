"""Label Studio's JSON: tasks with the model's predictions and what people said, in percent of the picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import quoteattr

from edgeloop_contract.annotations import Annotation
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import mask_of
from edgeloop_pipeline.fleet.label_formats.brush import packed, unpacked
from edgeloop_pipeline.fleet.label_formats.items import Item, named, refuse_points
from edgeloop_pipeline.fleet.label_formats.marks import MAX_PIXELS, Mark, Marks

PERCENT = (100.0, 100.0)
PLACES = ("x", "points", "rle")
KEYS = ("rectanglelabels", "polygonlabels", "brushlabels", "labels", "choices")  # of what a result says


def to_label_studio(items: list[Item], names: list[str]) -> dict[str, str]:
    """Tasks with the model's prediction, and the labelling interface that fits them."""
    refuse_points(items, "label-studio")
    tasks = []
    for item in items:
        kind = "image" if item.is_image else "csv"
        data = {kind: item.file, **{k: getattr(item.sample, k) for k in ("device", "key", "recording", "window")}}
        task: dict[str, Any] = {"data": data}
        predicted, said = _predicted(item, names), _said(item, names)
        if predicted is not None:
            task["predictions"] = [{"model_version": item.sample.model, "score": item.sample.confidence, "result": predicted}]
        if said is not None:
            task["annotations"] = [{"result": said}]
        tasks.append(task)
    return {"label-studio.json": json.dumps(tasks, indent=1), "label-studio.xml": _interface(items, names)}


def _predicted(item: Item, names: list[str]) -> list[dict[str, Any]] | None:
    if item.part:
        return None if item.answer is None else _results(item.answer, item, names)
    return [_choices([item.sample.prediction])] if item.sample.prediction else None


def _said(item: Item, names: list[str]) -> list[dict[str, Any]] | None:
    if item.part:
        return None if item.settled is None else _results(item.settled, item, names)
    return [_choices([item.sample.label])] if item.sample.label else None


def _choices(names: list[str]) -> dict[str, Any]:
    return {"from_name": "label", "to_name": "sample", "type": "choices", "value": {"choices": names}}


def _results(annotation: Annotation, item: Item, names: list[str]) -> list[dict[str, Any]]:
    if annotation.labels is not None:
        return [_choices(annotation.labels)] if annotation.labels else []
    if annotation.values is not None:
        return [
            {"from_name": f"value_{i}", "to_name": "sample", "type": "number", "value": {"number": value}}
            for i, value in enumerate(annotation.values)
        ]
    height, width = item.values.shape[:2]
    drawn = {"from_name": "label", "to_name": "sample", "original_width": width, "original_height": height, "image_rotation": 0}
    results: list[dict[str, Any]] = []
    for box in annotation.boxes or []:
        left, top, right, bottom = box.box
        value = {"x": left / width * 100, "y": top / height * 100, "rotation": 0, "rectanglelabels": [box.label]}
        value |= {"width": (right - left) / width * 100, "height": (bottom - top) / height * 100}
        score = {} if box.score is None else {"score": box.score}
        results.append({"id": f"box{len(results)}", **drawn, "type": "rectanglelabels", "value": value, **score})
    for mask in annotation.masks or []:
        painted = {"format": "rle", "rle": packed(mask_of(mask.counts, *mask.size)), "brushlabels": [mask.label]}
        results.append({"id": f"mask{len(results)}", **drawn, "type": "brushlabels", "value": painted})
    return results


def _interface(items: list[Item], names: list[str]) -> str:
    part = items[0].part if items else ""
    if not items or items[0].is_image:
        shown = '  <Image name="sample" value="$image"/>\n'
    else:
        channels = items[0].values.reshape(len(items[0].values), -1).shape[1]
        columns = "".join(f'    <Channel column="channel_{c}"/>\n' for c in range(channels))
        shown = f'  <TimeSeries name="sample" valueType="url" value="$csv" timeColumn="step">\n{columns}  </TimeSeries>\n'
    if part == "values":
        asked = "".join(
            f'  <Header value={quoteattr(name)}/>\n  <Number name={quoteattr(f"value_{i}")} toName="sample" required="true"/>\n'
            for i, name in enumerate(names)
        )
    elif part in ("boxes", "masks"):
        tag = "RectangleLabels" if part == "boxes" else "BrushLabels"
        labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
        asked = f'  <{tag} name="label" toName="sample">\n{labels}  </{tag}>\n'
    else:
        choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names)
        asked = f'  <Choices name="label" toName="sample" choice="{"multiple" if part else "single"}">\n{choices}  </Choices>\n'
    return f"<View>\n{shown}{asked}</View>\n"


def of_label_studio(tasks: list[dict[str, Any]]) -> Iterator[Marks]:
    """From Label Studio's whole export, or from the short one (JSON-MIN). Raises DataError, KeyError, …"""
    for task in tasks:
        data = task.get("data", task)
        if "device" in data and "key" in data:
            device, key = str(data["device"]), str(data["key"])
        else:
            device, key = named(data.get("image") or data["csv"])
        if "data" in task:
            for annotation in task.get("annotations", []):
                if not annotation.get("was_cancelled"):
                    yield _marks(device, key, [_flat(one) for one in annotation["result"] if isinstance(one.get("value"), dict)])
        elif results := [flat for name, value in task.items() for flat in _short(name, value)]:
            yield _marks(device, key, results)


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    """A result of the whole export as the short one has it."""
    return {
        **{name: result[name] for name in ("id", "original_width", "original_height", "from_name") if name in result},
        **result["value"],
    }


def _short(name: str, value: Any) -> list[dict[str, Any]]:
    """What a field of the short export says: a list of results; a choice as a text or as several; a number."""
    if name in ("label", "choice"):
        if isinstance(value, str) and value:
            return [{"choices": [value]}]
        if isinstance(value, dict) and "choices" in value:
            return [value]
        if isinstance(value, list):
            return [one for one in value if isinstance(one, dict)]
    if name.startswith("value_") and isinstance(value, int | float):
        return [{"number": value, "from_name": name}]
    return []


def _marks(device: str, key: str, results: list[dict[str, Any]]) -> Marks:
    said = Marks(device, key)
    labelled = {result.get("id") for result in results if any(result.get(name) for name in KEYS)}
    for result in results:
        if "number" in result:
            said.values[str(result.get("from_name"))] = float(result["number"])
            continue
        labels: list[Any] = next((result[name] for name in KEYS if result.get(name)), [])
        if not labels and (result.get("id") in labelled or not any(name in result for name in PLACES)):
            continue  # a box whose label is a result of its own; a text, a rating
        if not labels:
            raise DataError(f"{device}-{key}: something was marked without a label: give it one")
        many = labels if "choices" in result else labels[:1]
        said.marks.extend(_mark(str(label), result) for label in many)
    return said


def _mark(label: str, result: dict[str, Any]) -> Mark:
    if "rle" in result:
        width, height = int(result["original_width"]), int(result["original_height"])
        if width * height > MAX_PIXELS:
            raise DataError(f"{label!r}: a mask of {width} × {height} pixels; it may have {MAX_PIXELS}")
        return Mark(label, mask=unpacked(result["rle"], height, width))
    if "points" in result:
        return Mark(label, PERCENT, polygons=[[float(value) for point in result["points"] for value in point]])
    if "x" not in result:
        return Mark(label)
    x, y, across, down = (float(result[name]) for name in ("x", "y", "width", "height"))
    turned = math.radians(float(result.get("rotation") or 0))
    if not turned:
        return Mark(label, PERCENT, (x, y, x + across, y + down))
    # A box that was turned about its upper left corner: what encloses it. Percent of width and height differ, so pixels are turned.
    wide, tall = float(result["original_width"]) / 100, float(result["original_height"]) / 100
    corners = [(a * across * wide, b * down * tall) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    xs = [x + (a * math.cos(turned) - b * math.sin(turned)) / wide for a, b in corners]
    ys = [y + (a * math.sin(turned) + b * math.cos(turned)) / tall for a, b in corners]
    return Mark(label, PERCENT, (min(xs), min(ys), max(xs), max(ys)))
