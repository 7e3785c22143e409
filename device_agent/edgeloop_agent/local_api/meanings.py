"""What a request asks for beside raw tensors: boxes, masks or labels, by sample, in pixels of the sample that was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgeloop_agent.box_answers import box_answers
from edgeloop_agent.label_answers import label_answers
from edgeloop_agent.mask_answers import mask_answers
from edgeloop_contract import inference
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import Manifest
from edgeloop_contract.tasks import Detection, Multilabel, Segmentation

__all__ = ["EXTENSIONS", "asked_for", "meanings"]

Outputs = Mapping[str, Array]


def _boxes(manifest: Manifest, outputs: Outputs) -> list[Any]:
    task = manifest.task
    if not isinstance(task, Detection):
        raise DataError(f"the parameter boxes is for models that find boxes; {manifest.name} does not")
    height, width = manifest.sample.shape[:2]
    return [box_answers(task, row, height, width, None) for row in _rows(outputs)]


def _masks(manifest: Manifest, outputs: Outputs) -> list[Any]:
    task = manifest.task
    if not isinstance(task, Segmentation):
        raise DataError(f"the parameter masks is for models that label pixels; {manifest.name} does not")
    height, width = manifest.sample.shape[:2]
    return [mask_answers(task, row, height, width, None) for row in _rows(outputs)]


def _labels(manifest: Manifest, outputs: Outputs) -> list[Any]:
    task = manifest.task
    if not isinstance(task, Multilabel):
        raise DataError(f"the parameter labels is for models with several labels a sample; {manifest.name} has none")
    return [label_answers(task, next(iter(row.values()))) for row in _rows(outputs)]


_MAKERS: dict[str, Callable[[Manifest, Outputs], list[Any]]] = {"boxes": _boxes, "masks": _masks, "labels": _labels}
EXTENSIONS = [f"edgeloop_{name}" for name in _MAKERS]


def asked_for(parameters: dict[str, Any]) -> list[str]:
    """Names of the meanings that a request's parameters ask for. Raises DataError for a value that is not true or false."""
    return [name for name in _MAKERS if inference.flag(parameters, name)]


def meanings(asked: list[str], manifest: Manifest, outputs: Outputs) -> dict[str, list[Any]]:
    """By name, what each sample's outputs mean. Raises DataError where the model has no such meaning."""
    return {name: _MAKERS[name](manifest, outputs) for name in asked}


def _rows(outputs: Outputs) -> Iterator[dict[str, Array]]:
    count = len(next(iter(outputs.values())))
    return ({name: values[i : i + 1] for name, values in outputs.items()} for i in range(count))
