"""What is wrong with lines and zones that a config counts at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeloop_agent.config.settings import MAX_SHAPES, Config, CountedLine, CountedShape, Point

FEWEST_CORNERS, MOST_CORNERS = 3, 64
NO_FRAMES = ("none", "microphone", "arecord", "pcm")  # sources that give no pictures
SMALLEST_AREA = 1e-6  # of the square that holds a zone, in shares of the picture


def problems_of_tracking(config: Config) -> Iterator[str]:
    """One sentence for each contradiction of `[tracking]`."""
    tracking = config.tracking
    if not tracking.enabled:
        if tracking.line or tracking.zone:
            yield "tracking.enabled: there are lines or zones, and tracking is off; set tracking.enabled = true, or take them out"
        return
    if config.source.kind in NO_FRAMES:
        yield f"tracking.enabled: boxes are followed in pictures of a source, and source.kind is {config.source.kind!r}; name one"
    for kind, shapes in (("line", tracking.line), ("zone", tracking.zone)):
        if len(shapes) > MAX_SHAPES:
            yield f"tracking.{kind}: {len(shapes)} of them; at most {MAX_SHAPES} are counted"
        names = [shape.name for shape in shapes]
        for number, shape in enumerate(shapes):
            where = f"tracking.{kind}[{number}]"
            if shape.name in names[:number]:
                yield f"{where}.name: {shape.name!r} is there twice; give each {kind} a name of its own"
            yield from _problems_of_shape(f"{where}.points", shape)


def _problems_of_shape(where: str, shape: CountedShape) -> Iterator[str]:
    points = shape.points
    outside = next((point for point in points if not all(0 <= share <= 1 for share in point)), None)
    if outside is not None:
        yield (f"{where}: {list(outside)} is outside of the picture; write shares of its width and height, from 0 to 1")
    elif isinstance(shape, CountedLine):
        if len(points) != 2:
            yield f"{where}: {len(points)} points; a line has two, [[x, y], [x, y]]"
        elif points[0] == points[1]:
            yield f"{where}: both are {list(points[0])}; a line needs two different points"
    elif not FEWEST_CORNERS <= len(points) <= MOST_CORNERS:
        yield f"{where}: {len(points)} corners; a zone has {FEWEST_CORNERS} to {MOST_CORNERS}"
    elif _is_flat(points):
        yield f"{where}: all corners lie on one line, so that nothing is inside; move one of them"


def _is_flat(points: Sequence[Point]) -> bool:
    """Whether all points lie on one line through the first two different ones."""
    (x, y), *others = points
    far = max(others, key=lambda point: (point[0] - x) ** 2 + (point[1] - y) ** 2)
    return all(abs((far[0] - x) * (b - y) - (far[1] - y) * (a - x)) < SMALLEST_AREA for a, b in others)
