"""COCO: one JSON file, or one for each split, with pictures, categories and boxes as x, y, width, height in pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.boxes import POINT_VALUES
from edgeloop_pipeline.data.datasets.annotations.pictures import Box, Findings, Given
from edgeloop_pipeline.data.datasets.annotations.places import Pictures, split_of

MAX_BYTES = 1 << 30
NOTHING = (b"", b"[]", b"{}", b'""', b"null", b"[[]]")  # of a field


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: int = 0
    height: int = 0


class _Category(msgspec.Struct):
    id: int
    name: str
    keypoints: list[str] = []


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int
    bbox: list[float] | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"")
    keypoints: msgspec.Raw = msgspec.Raw(b"")
    iscrowd: int | bool | None = 0

    @property
    def is_outlined(self) -> bool:
        """Whether it says which pixels it is."""
        return bytes(self.segmentation) not in NOTHING


class Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation] = []
    categories: list[_Category] = []


def files(root: Path) -> list[Path]:
    """The annotation files below the folder (or the file itself)."""
    from edgeloop_pipeline.data.datasets.annotations.places import visible

    named = [root] if root.is_file() else [p for p in visible(root) if p.suffix.lower() == ".json"]
    return [path for path in named if _looks_so(path)]


def _looks_so(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head, size = file.read(1 << 20), path.stat().st_size
            file.seek(max(0, size - (1 << 16)))
            text = head + file.read()
    except OSError:
        return False
    return b'"images"' in text and (b'"annotations"' in text or b'"categories"' in text)


def read(root: Path, findings: Findings) -> tuple[list[str], Iterator[Given]]:
    """Names of the classes, and the pictures. Raises DataError."""
    found = {path: decoded(path) for path in files(root)}
    names = category_names(root, found, findings)
    pictures = Pictures(root if root.is_dir() else root.parent)
    several = len(found) > 1
    given = (one for path, data in found.items() for one in _given(path, data, names, pictures, several, findings))
    return list(names.values()), given


def category_names(root: Path, found: dict[Path, Coco], findings: Findings) -> dict[int, str]:
    """The categories of all files, by their ids in order. Raises DataError where there are none, or where files differ."""
    names: dict[int, str] = {}
    for path, data in found.items():
        for category in data.categories:
            if names.setdefault(category.id, category.name) != category.name:
                raise DataError(
                    f"{path}: category {category.id} is {category.name!r}, in another file {names[category.id]!r}; give it one name"
                )
    if not names:
        raise DataError(f"{next(iter(found))}: has no categories, and boxes get their labels from them; export it with categories")
    ids = sorted(names)
    if len(set(names.values())) != len(names):
        raise DataError(f"{root}: two categories have one name; give each its own")
    if ids and ids != list(range(ids[0], ids[0] + len(ids))):
        findings.notes.append(f"category ids with gaps: {', '.join(map(str, ids[:20]))} become 0 to {len(ids) - 1}")
    return {number: names[number] for number in ids}


def decoded(path: Path) -> Coco:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: more than {MAX_BYTES >> 20} MiB; split it by pictures")
        return msgspec.json.decode(path.read_bytes(), type=Coco, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not COCO: {error}; export it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error


def empty(path: Path, data: Coco) -> dict[str, list[Box]]:
    """No boxes yet for each picture, by its id as text: some tools write 7 as a number here and as a text there.

    Raises DataError where two pictures have one id: nobody could say whose the boxes are.
    """
    files: dict[str, str] = {}
    for image in data.images:
        before = files.setdefault(str(image.id), image.file_name)
        if before != image.file_name:
            raise DataError(f"{path}: two pictures have the id {image.id}: {before} and {image.file_name}; give each its own")
    return {number: [] for number in files}


def only_categories(path: Path) -> bool:
    """Whether no annotation of a file says where in its picture something is. Raises DataError."""
    found = decoded(path).annotations
    return bool(found) and not any(row.bbox or row.is_outlined or bytes(row.keypoints) not in NOTHING for row in found)


def only_outlines(root: Path) -> bool:
    """Whether annotations of COCO below a folder have outlines and no boxes. Raises DataError."""
    rows = [row for path in files(root) for row in decoded(path).annotations]
    return any(row.is_outlined for row in rows) and not any(row.bbox for row in rows)


def has_outlines(root: Path) -> bool:
    """Whether most annotations of COCO below a folder have outlines beside their boxes. Raises DataError."""
    rows = [row for path in files(root) for row in decoded(path).annotations]
    return sum(row.is_outlined for row in rows) * 2 > len(rows)


def has_keypoints(root: Path) -> bool:
    """Whether most annotations of COCO below a folder have points, and their categories name them. Raises DataError."""
    rows = [row for path in files(root) for row in decoded(path).annotations]
    return sum(bytes(row.keypoints) not in NOTHING for row in rows) * 2 > len(rows) and bool(point_names(root))


def point_names(root: Path) -> dict[str, tuple[str, ...]]:
    """The names of the points of each category that has some. Raises DataError where two files differ."""
    found: dict[str, tuple[str, ...]] = {}
    for path in files(root):
        for category in decoded(path).categories:
            points = tuple(category.keypoints)
            if len(set(points)) != len(points):
                raise DataError(f"{path}: category {category.name!r} names a keypoint twice; give each a name of its own")
            if points and found.setdefault(category.name, points) != points:
                raise DataError(f"{path}: category {category.name!r} has other keypoints than in another file; give it the same")
    return found


def _points(row: _Annotation, count: int, path: Path, findings: Findings) -> tuple[float, ...]:
    """x, y and visibility of each point; () where nobody marked any, or where they do not fit their category's names."""
    if not count or bytes(row.keypoints) in NOTHING:
        return ()
    try:
        values = msgspec.json.decode(row.keypoints, type=list[float])
    except msgspec.MsgspecError:
        values = []
    if len(values) != POINT_VALUES * count or not all(abs(value) < float("inf") for value in values):
        findings.add("boxes whose points are not those that their category names, taken without points", path.name)
        return ()
    return tuple(values)


def _given(path: Path, data: Coco, names: dict[int, str], pictures: Pictures, several: bool, findings: Findings) -> Iterator[Given]:
    split = split_of(path) if several else ""
    boxes = empty(path, data)
    wanted = {category.id: len(category.keypoints) for category in data.categories}
    for row in data.annotations:
        if str(row.image_id) not in boxes:
            findings.add("boxes of pictures that are not listed", path.name)
        elif row.category_id not in names:
            findings.add("boxes of a category that is not listed", path.name)
        elif row.iscrowd:
            findings.add("crowds, which are no single boxes, left out", path.name)
        elif row.bbox is None or len(row.bbox) != 4:
            findings.add("annotations without a box, left out", path.name)
        else:
            x, y, w, h = row.bbox
            points = _points(row, wanted.get(row.category_id, 0), path, findings)
            boxes[str(row.image_id)].append(Box(names[row.category_id], x, y, x + w, y + h, points))
    for image in data.images:
        place = pictures.named(image.file_name, near=path.parent, prefer=split)
        yield Given(place, boxes[str(image.id)], split, (image.width, image.height) if image.width and image.height else None)
