"""Boxes of one model cropped into another one: detect, then classify, then read. One answer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edgeloop_agent.box_answers import Box, Part
from edgeloop_agent.config import Chain
from edgeloop_agent.engine import Answer, Engine
from edgeloop_agent.fitting import fitted
from edgeloop_agent.mask_answers import Mask
from edgeloop_agent.regions import in_whole
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError, UsageError
from edgeloop_contract.manifest import Manifest
from edgeloop_contract.settings import nearest
from edgeloop_contract.tasks import Detection

__all__ = ["Chains", "check_chains"]

MIN_SIDE = 2  # pixels of a crop


def check_chains(chains: Sequence[Chain], manifests: Mapping[str, Manifest], first: str) -> None:
    """Raises UsageError for a chain that cannot work with these models."""
    reached = {first}
    for number, chain in enumerate(chains):
        where, boxes_of = f"chain[{number}]", chain.boxes_of or first
        for key, name in (("boxes_of", boxes_of), ("model", chain.model)):
            if name not in manifests:
                raise UsageError(f"{where}.{key}: no bundle of the config is {name!r}{nearest(name, manifests)}")
        task, into = manifests[boxes_of].task, manifests[chain.model]
        if not isinstance(task, Detection):
            raise UsageError(f"{where}.boxes_of: {boxes_of} answers no boxes; name a detector")
        if boxes_of not in reached:
            raise UsageError(f"{where}.boxes_of: no chain before this one asks {boxes_of}; write that chain first")
        if chain.model in reached:
            raise UsageError(f"{where}.model: {chain.model} is asked already; a chain leads to each model once")
        if len(into.inputs) != 1 or len(into.sample.shape) != 3:
            raise UsageError(f"{where}.model: {chain.model} answers no crops; name a model whose one input is a picture")
        for label in chain.labels:
            if label not in task.labels:
                raise UsageError(f"{where}.labels: {boxes_of} has no label {label!r}{nearest(label, task.labels)}")
        reached.add(chain.model)


class _Place(NamedTuple):
    """Where a crop lies in the first picture: its left and top, and that picture's height and width."""

    corner: tuple[int, int]
    whole: Sequence[int]


class Chains:
    """The chains of a config. `engine`: the loaded model of this name, whatever its version is now."""

    def __init__(self, chains: Sequence[Chain], first: str, engine: Callable[[str], Engine]) -> None:
        self._engine, self._first = engine, first
        self._by_model: dict[str, list[Chain]] = {}
        for chain in chains:
            self._by_model.setdefault(chain.boxes_of or first, []).append(chain)

    def answered(self, boxes: list[Box], picture: Array) -> tuple[list[Box], dict[str, float]]:
        """Each box with what the next models say of it in `then`, and milliseconds by model. `boxes`: in pixels of `picture`."""
        spent: defaultdict[str, float] = defaultdict(float)
        found = self._with_parts(self._first, boxes, picture, _Place((0, 0), picture.shape[:2]), spent)
        return found, {name: round(ms, 3) for name, ms in spent.items()}

    def _with_parts(
        self, model: str, boxes: list[Box], picture: Array, place: _Place, spent: defaultdict[str, float]
    ) -> list[Box]:  # fmt: skip
        """`place`: of `picture` in the first one."""
        for chain in self._by_model.get(model, ()):
            left = chain.most
            for number, box in enumerate(boxes):
                if left and box.score >= chain.min_score and (not chain.labels or box.label in chain.labels):
                    left -= 1
                    part = self._part(chain, box, picture, place, spent)
                    boxes[number] = msgspec.structs.replace(box, then={**(box.then or {}), chain.model: part})
        return boxes

    def _part(self, chain: Chain, box: Box, picture: Array, place: _Place, spent: defaultdict[str, float]) -> Part:
        rows, columns = _crop(box.box, chain.margin, picture.shape[:2], place.corner)
        crop = picture[rows, columns]
        if min(crop.shape[:2]) < MIN_SIDE:
            return Part(refused="the box is too small")
        engine = self._engine(chain.model)
        manifest = engine.manifest
        try:
            values = fitted(manifest.preprocessing, manifest.sample.shape, np.ascontiguousarray(crop))
            answer = next(iter(engine.answers(values)), None)
        except (DataError, DeviceError) as error:
            return Part(refused=str(error))
        if answer is None or answer.refused:
            return Part(refused=answer.refused if answer is not None else "no sample in it")
        spent[chain.model] += answer.milliseconds
        left, top = place.corner[0] + columns.start, place.corner[1] + rows.start
        region = (left, top, left + crop.shape[1], top + crop.shape[0])
        found, masks = in_whole(answer.boxes, answer.masks, region, place.whole)
        if found is not None:
            found = self._with_parts(chain.model, found, crop, place._replace(corner=(left, top)), spent)
        return _part_of(answer, found, masks)


def _crop(box: Sequence[float], margin: float, size: Sequence[int], corner: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the box with `margin` of its sides around it, as far as the picture goes."""
    x1, y1, x2, y2 = box[0] - corner[0], box[1] - corner[1], box[2] - corner[0], box[3] - corner[1]
    wide, high = margin * (x2 - x1), margin * (y2 - y1)
    top, left = max(0, math.floor(y1 - high)), max(0, math.floor(x1 - wide))
    return slice(top, max(top, min(size[0], math.ceil(y2 + high)))), slice(left, max(left, min(size[1], math.ceil(x2 + wide))))


def _part_of(answer: Answer, boxes: list[Box] | None, masks: list[Mask] | None) -> Part:
    tensors = None if answer.tensors is None else {name: values.tolist() for name, values in answer.tensors.items()}
    labels = None if answer.labels is None else {one.label: one.score for one in answer.labels}
    return Part(answer.label, answer.probabilities, answer.values, answer.score, labels, boxes, tensors, masks=masks)
