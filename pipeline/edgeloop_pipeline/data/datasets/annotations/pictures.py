"""One form of annotated pictures, whatever format they come in, and the checks that all formats share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.boxes import POINT_VALUES

__all__ = ["AnnotatedPicture", "Annotations", "Box", "Findings", "Given", "annotated", "size_of", "turned"]

ORIENTATION = 274  # the EXIF tag
TURNED = (5, 6, 7, 8)  # orientations that swap width and height
LEAST_PIXELS = 1.0  # of a box's side; what is smaller has no area
MAX_NAMED = 3
MOSTLY = 0.5
MAX_SHARE = 1.5  # rounding makes 1.0001; pixels are far above


class Box(NamedTuple):
    """A labelled box: edges in pixels of the picture as it is shown upright. `points`: x, y and visibility of each, one by one."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float
    points: tuple[float, ...] = ()

    @property
    def edges(self) -> tuple[float, float, float, float]:
        return self[1:5]


@dataclass(frozen=True)
class AnnotatedPicture:
    """A picture's file with its boxes. `split`: "train", "validation", "test", or "" where the data do not say."""

    path: Path
    width: int
    height: int
    boxes: tuple[Box, ...]
    split: str = ""


@dataclass
class Findings:
    """What was found besides boxes, counted, with the first files' names for each."""

    counts: Counter[str] = field(default_factory=Counter)
    files: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, file: str, count: int = 1) -> None:
        self.counts[what] += count
        named = self.files.setdefault(what, [])
        if file not in named and len(named) <= MAX_NAMED:
            named.append(file)

    def lines(self) -> list[str]:
        """One line for each kind, the most frequent first."""
        found = []
        for what, count in self.counts.most_common():
            named = self.files[what]
            more = " …" if len(named) > MAX_NAMED else ""
            found.append(f"{count} {what} ({', '.join(named[:MAX_NAMED])}{more})")
        return [*found, *self.notes]


@dataclass(frozen=True)
class Annotations:
    """All pictures of a data set. `labels`: names of the classes that have boxes, in the order of the data."""

    root: Path
    format: str
    labels: tuple[str, ...]
    pictures: tuple[AnnotatedPicture, ...]
    findings: Findings

    @property
    def splits(self) -> set[str]:
        return {picture.split for picture in self.pictures} - {""}


@dataclass(frozen=True)
class Given:
    """A picture as a format gives it. `size`: the annotated (width, height), if the format says one; boxes are unchecked."""

    path: Path
    boxes: Sequence[Box]
    split: str = ""
    size: tuple[int, int] | None = None
    normalised: bool = False  # boxes from 0 to 1


def size_of(path: Path) -> tuple[int, int, int]:
    """Width and height as stored, and the EXIF orientation, from the file's head alone. Raises DataError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return (*image.size, int(image.getexif().get(ORIENTATION, 1)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is no picture that can be read ({type(error).__name__}); repair or remove it") from error


def annotated(root: Path, kind: str, names: Sequence[str], given: Iterable[Given], findings: Findings) -> Annotations:
    """Check every box against its picture, and count what is kept out. Raises DataError where nothing useful is left.

    `names`: of classes in the data's order; those without a box are left out and said.
    """
    pictures: list[AnnotatedPicture] = []
    at: dict[Path, str] = {}
    total = wrong = 0
    for picture in given:
        file = picture.path.name
        if picture.path in at:
            if at[picture.path] != picture.split:
                raise DataError(
                    f"{picture.path}: is in {at[picture.path] or 'no split'} and in {picture.split or 'no split'};"
                    " leave it in one, or the test would show what was learnt by heart"
                )
            findings.add("pictures listed twice", file)
            continue
        if not picture.path.is_file():
            findings.add("pictures that are annotated and not there", file)
            continue
        at[picture.path] = picture.split
        made = _checked(picture, findings)
        if made is None:
            continue
        total += len(picture.boxes)
        wrong += len(picture.boxes) - len(made.boxes)
        if not made.boxes:
            findings.add("pictures without boxes, kept as they are", file)
        pictures.append(made)
    if wrong > MOSTLY * total:
        units = "shares of the picture (0 to 1)" if kind == "yolo" else "pixels"
        first = findings.lines()[0] if findings.lines() else ""
        raise DataError(f"{root}: {wrong} of {total} boxes cannot be used: {first}; {kind} takes {units}")
    used = Counter(box.label for picture in pictures for box in picture.boxes)
    for name in used:
        if not name.strip() or len(name.splitlines()) > 1:
            raise DataError(f"{root}: the label {name!r} is {'empty' if not name.strip() else 'more than one line'}; rename it")
    if not used:
        lost = [line for line in findings.lines()[: len(findings.counts)] if "kept as they are" not in line]
        why = f" can be used: {'; '.join(lost[:MAX_NAMED])}; repair that" if lost else "; annotate them first"
        raise DataError(f"{root}: no box in {len(pictures)} pictures{why}")
    empty = [name for name in names if not used[name]]
    if empty:
        findings.notes.append(f"classes without a box, left out: {', '.join(empty)}")
    return Annotations(root, kind, tuple(name for name in names if used[name]), tuple(pictures), findings)


def _checked(picture: Given, findings: Findings) -> AnnotatedPicture | None:
    """The picture with its good boxes; None where the annotation is of another picture."""
    file = picture.path.name
    try:
        stored_width, stored_height, orientation = size_of(picture.path)
    except DataError:
        findings.add("files that are no readable pictures", file)
        return None
    width, height = (stored_height, stored_width) if orientation in TURNED else (stored_width, stored_height)
    as_stored = False
    if picture.size is not None and 0 not in picture.size and picture.size != (width, height):
        if picture.size != (stored_width, stored_height):
            findings.add("pictures of another size than annotated", file)
            return None
        as_stored = True  # annotated by a tool that does not look at EXIF
    boxes = []
    for box in picture.boxes:
        if picture.normalised:
            w, h = (stored_width, stored_height) if as_stored else (width, height)
            if max(box.edges) > MAX_SHARE:
                findings.add("boxes in pixels where shares are expected", file)
                continue
            box = Box(box.label, box.x1 * w, box.y1 * h, box.x2 * w, box.y2 * h)
        if as_stored:
            box = turned(box, stored_width, stored_height, orientation)
        good = _inside(box, width, height, file, findings)
        if good is not None:
            boxes.append(good)
    if orientation != 1:
        what = "boxes turned with it" if as_stored else "boxes taken as upright"
        findings.add(f"pictures turned by EXIF, {what}", file)
    return AnnotatedPicture(picture.path, width, height, tuple(boxes), picture.split)


def _inside(box: Box, width: int, height: int, file: str, findings: Findings) -> Box | None:
    """The box within its picture; None where nothing is left of it."""
    if not all(abs(edge) < float("inf") for edge in box.edges):
        findings.add("boxes that are no numbers", file)
        return None
    if box.x2 <= box.x1 or box.y2 <= box.y1:
        findings.add("boxes without area", file)
        return None
    cut = box._replace(
        x1=max(0.0, box.x1), y1=max(0.0, box.y1), x2=min(float(width), box.x2), y2=min(float(height), box.y2)
    )  # fmt: skip
    if cut.x2 <= cut.x1 or cut.y2 <= cut.y1:
        findings.add("boxes outside the picture", file)
        return None
    if cut.x2 - cut.x1 < LEAST_PIXELS or cut.y2 - cut.y1 < LEAST_PIXELS:
        findings.add("boxes smaller than a pixel", file)
        return None
    if max(box.x2 - width, box.y2 - height, -box.x1, -box.y1) > LEAST_PIXELS:
        findings.add("boxes cut off at the picture's edge", file)
    return _with_points_inside(cut, width, height, file, findings)


def _with_points_inside(box: Box, width: int, height: int, file: str, findings: Findings) -> Box:
    """The box, with points beyond the picture as points that nobody knows: no network sees them."""
    points = list(box.points)
    for i in range(0, len(points), POINT_VALUES):
        x, y, known = points[i : i + POINT_VALUES]
        if known > 0 and not (0 <= x <= width and 0 <= y <= height):
            points[i + 2] = 0.0
            findings.add("points outside the picture, taken as not known", file)
    return box._replace(points=tuple(points))


def turned(box: Box, width: int, height: int, orientation: int) -> Box:
    """A box of a stored picture of `width` × `height` in the picture as EXIF shows it (orientations 1 to 8)."""
    mirrored, flipped, swapped = orientation in (2, 3, 7, 8), orientation in (3, 4, 6, 7), orientation in TURNED

    def moved(x: float, y: float) -> tuple[float, float]:
        x, y = width - x if mirrored else x, height - y if flipped else y  # before a transposition
        return (y, x) if swapped else (x, y)

    (ax, ay), (bx, by) = moved(box.x1, box.y1), moved(box.x2, box.y2)
    points = [
        value for i in range(0, len(box.points), 3)
        for value in (*moved(box.points[i], box.points[i + 1]), box.points[i + 2])
    ]  # fmt: skip
    return Box(box.label, min(ax, bx), min(ay, by), max(ax, bx), max(ay, by), tuple(points))
