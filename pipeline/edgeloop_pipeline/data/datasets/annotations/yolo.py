"""YOLO: a text file for each picture, a line for each box: class, middle x and y, width, height, as shares of the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations.pictures import Box, Findings, Given
from edgeloop_pipeline.data.datasets.annotations.places import beginning_of, split_of, text_of, visible
from edgeloop_pipeline.data.datasets.scanning import SPLITS, kind_of

NO_LABELS = ("classes", "readme", "license", "notes", "requirements", "train", "val", "valid", "test", "predefined_classes")
LOOKED_AT = 20
WHOLE = re.compile(r"\d+(\.0*)?")
MAX_BYTES = 16 << 20  # of one file


def files(root: Path) -> list[Path]:
    """The label files below the folder."""
    if root.is_file():
        return []
    there = visible(root)
    named = [p for p in there if p.suffix.lower() == ".txt" and p.stem.lower() not in NO_LABELS]
    if not any(kind_of(p) == "pictures" for p in there):
        return []
    some = named[:: max(1, len(named) // LOOKED_AT)][:LOOKED_AT]
    looks = [_looks_so(path) for path in some]
    return named if any(looks) and sum(found is not False for found in looks) * 2 > len(looks) else []


def _looks_so(path: Path) -> bool | None:
    """Whether the first lines are boxes; None where the file is empty, as that of a picture without boxes."""
    try:
        with path.open("rb") as file:
            lines = beginning_of(file.read(4096)).splitlines()[:5]
    except OSError:
        return False
    # Commas and 0.0 for a class are refused with their line when boxes are read (`_row`): they are meant as boxes.
    rows = [line.replace(",", " ").split() for line in lines if line.strip()]
    return all(len(row) >= 5 and WHOLE.fullmatch(row[0]) and _numbers(row) is not None for row in rows) if rows else None


def read(root: Path, findings: Findings) -> tuple[list[str], Iterator[Given]]:
    """Names of the classes in their order, and the pictures. Raises DataError."""
    described = _described(root)
    names, texts = described.names, files(root)
    if not names:
        listed = next((p for p in visible(root) if p.name.lower() in ("classes.txt", "predefined_classes.txt")), None)
        if listed is not None:
            names = _listed(listed)
    given = list(_given(root, texts, described, names, findings))
    if not names:
        found = sorted({int(box.label) for one in given for box in one.boxes})
        findings.notes.append("no data.yaml or classes.txt names the classes: their numbers are their names")
        return [str(number) for number in found], iter(given)
    if sorted(names) != list(range(len(names))):
        findings.notes.append(f"class numbers with gaps: {', '.join(map(str, sorted(names)[:20]))}")
    return [names[number] for number in sorted(names)], iter(given)


def _listed(path: Path) -> dict[int, str]:
    """The names of a classes.txt by number. Raises DataError for an empty line, after which numbers could be meant either way."""
    lines = text_of(path).rstrip().splitlines()
    for i, line in enumerate(lines, 1):
        if not line.strip():
            raise DataError(f"{path}: line {i} is empty, and a name's line is its class's number; write a name there, or remove it")
    return {i: line.strip() for i, line in enumerate(lines)}


@dataclass(frozen=True)
class _Described:
    """What a data.yaml says: names by number, and for folders or lists of pictures their split."""

    names: dict[int, str]
    places: dict[Path, str]
    listed: dict[Path, str]


def _described(root: Path) -> _Described:
    import yaml

    for path in visible(root):
        if path.suffix.lower() not in (".yaml", ".yml"):
            continue
        try:
            # All values as the texts that were written: YAML would read the names yes, no and 010 as true, false and 8.
            data = yaml.load(text_of(path), Loader=yaml.BaseLoader)
        except yaml.YAMLError as error:
            raise DataError(f"{path}: is no YAML ({' '.join(str(error).split())[:200]}); repair it") from error
        if isinstance(data, dict) and "names" in data:
            return _of_yaml(path, root, data)
    return _Described({}, {}, {})


def _of_yaml(path: Path, root: Path, data: dict[Any, Any]) -> _Described:
    given = data["names"]
    pairs = list(given.items()) if isinstance(given, dict) else list(enumerate(given)) if isinstance(given, list) else []
    try:
        names = {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: names: {error}; give a list, or a name for each number") from error
    if not names or len(set(names.values())) != len(names):
        raise DataError(f"{path}: names: no names, or two that are equal; give each class its own name")
    if any(not isinstance(name, str) for _, name in pairs):
        raise DataError(f"{path}: names: a name is a list or an object; give each class one text")
    places: dict[Path, str] = {}
    listed: dict[Path, str] = {}
    for key, split in (("train", "train"), ("val", "validation"), ("valid", "validation"), ("test", "test")):
        wanted = data.get(key)
        for text in wanted if isinstance(wanted, list) else [wanted] if wanted and isinstance(wanted, str) else []:
            place = _place(str(text), path.parent, root, str(data.get("path") or ""))
            if place is None:
                continue
            if place.is_dir():
                places[place] = split
            else:
                lines = text_of(place).splitlines()
                listed |= {(place.parent / line.strip()).resolve(): split for line in lines if line.strip()}
    return _Described(names, places, listed)


def _place(text: str, folder: Path, root: Path, base: str) -> Path | None:
    """A folder or list that a data.yaml names: its paths are often those of another machine, so their ends are tried too."""
    plain = Path(text)
    tries = [folder / base / plain, folder / plain, root / plain]
    parts = [part for part in plain.parts if part not in ("..", ".", "/")]
    tries += [base_ / Path(*parts[i:]) for base_ in (folder, root) for i in range(len(parts))]
    return next((place.resolve() for place in tries if place.exists() and place.resolve() not in (folder, root)), None)


def _given(root: Path, texts: list[Path], described: _Described, names: dict[int, str], findings: Findings) -> Iterator[Given]:
    by_stem: dict[str, list[Path]] = {}
    for path in texts:
        by_stem.setdefault(path.stem, []).append(path)
    used = set()
    bare = 0
    for picture in (p for p in visible(root) if kind_of(p) == "pictures"):
        there = by_stem.get(picture.stem, [])
        text = _labels_of(picture, there)
        if text is None and not there and not described.places and not described.listed:
            bare += 1  # in YOLO's own layout a picture without boxes may have no file
        if text is not None:
            used.add(text)
        boxes = _boxes(text, names, findings) if text is not None else []
        yield Given(picture, boxes, _split(picture, root, described), normalised=True)
    if bare:
        findings.notes.append(f"{bare} pictures have no text file: they count as pictures without boxes")
    if unused := [path for path in texts if path not in used]:
        findings.add("text files without a picture", unused[0].name, len(unused))


def _labels_of(picture: Path, there: list[Path]) -> Path | None:
    """The picture's text: in labels/ beside images/, or beside it; else the only one of its name."""
    folder = picture.parent
    for depth in range(len(folder.parts) - 1, -1, -1):
        if folder.parts[depth].lower() == "images":
            folder = Path(*folder.parts[:depth], "labels", *folder.parts[depth + 1 :])
            break
    for path in there:
        if path.parent in (folder, picture.parent):
            return path
    return there[0] if len(there) == 1 else None


def _split(picture: Path, root: Path, described: _Described) -> str:
    if described.listed and (split := described.listed.get(picture.resolve())):
        return split
    here = picture.resolve()
    for place, split in described.places.items():
        if here.is_relative_to(place):
            return split
    inside = picture.relative_to(root)
    named = next((SPLITS[part.lower()] for part in reversed(inside.parts[:-1]) if part.lower() in SPLITS), "")
    return named or split_of(inside.parent / "_")


def _boxes(path: Path, names: dict[int, str], findings: Findings) -> list[Box]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: more than {MAX_BYTES >> 20} MiB; it is no label file of a picture")
        lines = text_of(path).splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error
    boxes = []
    for number, line in enumerate(lines, 1):
        row = _row(path, number, line)
        if not row:
            continue
        values = _numbers(row[1:])
        if len(row) < 5 or not row[0].isdecimal() or values is None:
            findings.add("lines that are no boxes", path.name)
            continue
        label = names.get(int(row[0])) if names else row[0]
        if label is None:
            findings.add("boxes of a class that has no name", path.name)
            continue
        if len(values) > 5 and len(values) % 2 == 0:  # a polygon: its box
            x, y = values[::2], values[1::2]
            boxes.append(Box(label, min(x), min(y), max(x), max(y)))
            continue
        cx, cy, w, h = values[:4]
        boxes.append(Box(label, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    return boxes


def _row(path: Path, number: int, line: str) -> list[str]:
    """The words of a line. Raises DataError for boxes that are written in another way: the whole file is, most likely."""
    row = line.split()
    if "," in line and _numbers(line.replace(",", " ").split()) is not None:
        raise DataError(f"{path}: line {number} has commas; YOLO separates numbers by spaces: replace the commas")
    if len(row) >= 5 and not row[0].isdecimal() and WHOLE.fullmatch(row[0]):
        raise DataError(f"{path}: line {number} has the class {row[0]}; a class is a whole number: write {row[0].split('.')[0]}")
    return row


def _numbers(words: list[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None
