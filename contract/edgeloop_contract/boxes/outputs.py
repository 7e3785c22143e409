"""The outputs that a layout reads, and those of one sample by their names."""

from __future__ import annotations

from collections.abc import Mapping

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes.layouts import Distances, Final, Heatmap, Layout, PointAxes, PointMaps, PointRows, Priors, Rows
from edgeloop_contract.errors import DataError

__all__ = ["NamedOutputs", "outputs_of"]


def outputs_of(layout: Layout) -> list[str]:
    """The names of the outputs that the layout reads; "" is the only one."""
    if isinstance(layout, Distances | Priors):
        return list(dict.fromkeys([layout.boxes, layout.scores]))
    if isinstance(layout, Heatmap):
        return [layout.scores, layout.sizes, *([layout.offsets] if layout.offsets else [])]
    if isinstance(layout, PointRows):
        return [layout.rows, *([layout.presence] if layout.presence else [])]
    if isinstance(layout, PointAxes):
        return [layout.x, layout.y]
    if isinstance(layout, PointMaps):
        return [layout.maps, *([layout.offsets] if layout.offsets else [])]
    more = [layout.scores] if isinstance(layout, Rows) else [layout.scores, layout.labels] if isinstance(layout, Final) else []
    return [layout.rows, *filter(None, more)]


class NamedOutputs:
    """The named outputs; "" is the only one."""

    def __init__(self, named: Mapping[str, Array]) -> None:
        self._named = named

    def whole(self, name: str) -> Array:
        """An output as it is. Raises DataError where there is none."""
        if name in self._named:
            return self._named[name]
        if not name and len(self._named) == 1:
            return next(iter(self._named.values()))
        raise DataError(f"boxes need the output {name!r}; the model gives {', '.join(self._named) or 'none'}")

    def __call__(self, name: str, rank: int) -> Array:
        """An output of one sample with `rank` axes. Raises DataError."""
        values = self.whole(name)
        if values.ndim == rank + 1 and values.shape[0] == 1:
            values = values[0]
        if values.ndim != rank:
            raise DataError(f"the output {name or 'of boxes'} has shape {values.shape}; {rank} axes are needed")
        return values
