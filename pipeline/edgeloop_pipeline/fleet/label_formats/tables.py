"""CSV: a row for each sample; of boxes and of several labels a row for each of them."""

from __future__ import annotations

import csv
import io
from typing import Any

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.fleet.label_formats.items import Item, Row, named, refuse_points, rows_of
from edgeloop_pipeline.fleet.label_formats.marks import Mark, Marks

COLUMNS = ("file", "device", "key", "recording", "window", "guess", "confidence", "label")
EDGES = ("xmin", "ymin", "xmax", "ymax")
VALUE = "value "  # and the quantity: a column of a regression
STATES = ("labelled", "prediction", "open")  # of a row of boxes, several labels or values; people's rows are labelled


def to_csv(items: list[Item], names: list[str]) -> dict[str, str]:
    """One line a sample; fill in its last column. Of boxes, labels and values also its state: the model's rows are predictions."""
    part = items[0].part if items else ""
    refuse_points(items, "csv")
    if part == "masks":
        raise DataError("csv: it holds no masks; use coco or label-studio")
    more = {"boxes": ("state", "width", "height", *EDGES, "score"), "labels": ("state",)}.get(part, ())
    if part == "values":
        more = ("state", *(f"{VALUE}{name}" for name in names))
    columns = [*COLUMNS[:-1], *more[:1], COLUMNS[-1], *more[1:]]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for item in items:
        writer.writerows(_rows(item, names))
    return {"labels.csv": out.getvalue()}


def _rows(item: Item, names: list[str]) -> list[dict[str, Any]]:
    sample = item.sample
    row = {
        "file": item.file, "device": sample.device, "key": sample.key, "recording": sample.recording, "window": sample.window,
        "guess": sample.prediction, "confidence": sample.confidence, "label": sample.label or "",
    }  # fmt: skip
    if not item.part:
        return [row]
    shown = item.settled or item.answer
    row["state"] = "labelled" if item.settled else "prediction" if item.answer else "open"
    if item.part == "values":
        return [
            row | {f"{VALUE}{name}": value for name, value in zip(names, (shown.values if shown else None) or [], strict=False)}
        ]
    return [row | _fields(one, item) for one in rows_of(shown) or [Row()]]


def _fields(row: Row, item: Item) -> dict[str, Any]:
    fields: dict[str, Any] = {"label": row.label}
    if item.part == "boxes":
        fields |= {"height": item.values.shape[0], "width": item.values.shape[1]}
        fields |= dict(zip(EDGES, row.box or (), strict=False)) | ({} if row.score is None else {"score": row.score})
    return fields


def of_csv(path: object, text: str) -> list[Marks]:
    """The samples that somebody labelled. Raises DataError that names the line."""
    found: dict[tuple[str, str], Marks] = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
        state = row.get("state") or ""
        values = {
            name.removeprefix(VALUE): text
            for name, text in row.items() if isinstance(name, str) and name.startswith(VALUE) and isinstance(text, str) and text
        }  # fmt: skip
        if state not in ("", *STATES):
            raise DataError(f"{path}:{number}: a state {state[:50]!r}; it is {', '.join(STATES)}")
        if state in STATES[1:] or not (row.get("label") or values or state == "labelled"):
            continue
        place = _place(row, f"{path}:{number}")
        marks = found.setdefault(place, Marks(*place))
        try:
            marks.values.update({name: float(text) for name, text in values.items()})
            if row.get("label"):
                marks.marks.append(_mark(row))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}:{number}: a box or a value that is no number ({error})") from error
    return list(found.values())


def _place(row: dict[str, Any], where: str) -> tuple[str, str]:
    if row.get("device") and row.get("key"):
        return row["device"], row["key"]
    if row.get("file"):
        return named(row["file"])
    raise DataError(f"{where}: a label without device and key, or file")


def _mark(row: dict[str, Any]) -> Mark:
    if not any(row.get(name) for name in EDGES):
        return Mark(row["label"])
    left, top, right, bottom = (float(row[name]) for name in EDGES)
    side = (float(row["width"]), float(row["height"])) if row.get("width") and row.get("height") else None
    return Mark(row["label"], side, (left, top, right, bottom))
