"""Finished boxes of which a file gives as many as there are things: a bundle's outputs have a fixed number of rows."""

from __future__ import annotations

from pathlib import Path

from edgeloop_contract.boxes import Final, outputs_of
from edgeloop_contract.tasks import Instances
from edgeloop_exporters.fixed_rows import with_fixed_rows
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.finished_boxes import finished_boxes
from edgeloop_exporters.model_files.onnx_file import read_onnx
from edgeloop_pipeline.packing.request import PackRequest

__all__ = ["closed"]

ROWS = 300  # torchvision gives 100 to 300, end-to-end exports of others 300


def closed(model: ModelFile, content: bytes, request: PackRequest, facts: list[str]) -> tuple[ModelFile, bytes]:
    """The file with a fixed number of rows, where its finished boxes are as many as there are things; else as it is."""
    axes = _open_axes(model, _finished(model, request)) if model.runtime == "onnx" else {}
    if not axes:
        return model, content
    changed = with_fixed_rows(content, axes, ROWS, model.path)
    facts.append(f"{', '.join(axes)}: as many rows as there are things; the bundle's file has {ROWS}, zeros behind them")
    return read_onnx(Path(model.path), changed), changed


def _finished(model: ModelFile, request: PackRequest) -> list[str]:
    """The outputs of finished boxes, the boxes first: as said, or by their names. [] for none."""
    if request.boxes is not None:
        layout = request.boxes.decode
        masks = [request.boxes.prototypes] if isinstance(request.boxes, Instances) else []
        names = [*outputs_of(layout), *masks] if isinstance(layout, Final) else []
        return [model.outputs[0].name] if names == [""] and len(model.outputs) == 1 else names
    if request.task not in (None, "detection"):
        return []
    shapes = {t.name: tuple(size or ROWS for size in t.shape) for t in model.outputs if t.shape is not None}
    found = finished_boxes(model, shapes, 1, 1)
    return outputs_of(found.layout) if found is not None else []


def _open_axes(model: ModelFile, names: list[str]) -> dict[str, int]:
    """Of each of these outputs that leaves its number of rows open, the axis of the rows: the first one, or behind the batch."""
    shapes = {tensor.name: tensor.shape for tensor in model.outputs if tensor.shape is not None}
    if not names or any(name not in shapes for name in names):
        return {}
    axis = len(shapes[names[0]]) - 2
    return {name: axis for name in names if axis in (0, 1) and len(shapes[name]) > axis and shapes[name][axis] is None}
