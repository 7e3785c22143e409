"""Manifests whose numbers and shapes no device can use: refused when the bundle is opened, not at every sample."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from annotated_models import pointer
from bundles import accumulator
from edgeloop_contract.archive import Bundle
from edgeloop_contract.boxes import Distances, PointAxes, PointMaps, PointRows, outputs_of
from edgeloop_contract.consistency import problems
from edgeloop_contract.manifest import Manifest, TensorSpec
from edgeloop_contract.tasks import Keypoints
from edgeloop_contract.tensors import Quantization


def manifest_of(path: Path) -> Manifest:
    with Bundle.open(path) as bundle:
        return bundle.manifest


CONSTANTS = [
    ("uint8", 255.0, True), ("uint8", 300.0, False), ("uint8", -1.0, False), ("int8", 0.5, False), ("bool", 1.0, True),
    ("bool", 2.0, False), ("int64", 2.0**63, False), ("int64", -(2.0**63), True), ("float16", 65504.0, True), ("float16", 1e5, False),
    ("float32", float("nan"), False),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "value", "fits"), CONSTANTS)
def test_constants_and_first_states_lie_in_their_type(dtype: str, value: float, fits: bool, tmp_path: Path) -> None:
    manifest = manifest_of(accumulator(tmp_path / "a.edgeloop"))
    (variant,) = manifest.variants
    fixed = TensorSpec(dtype=dtype, shape=[1], name="k", tensor="k", constant=[value])  # type: ignore[arg-type]
    given = [replace(variant.inputs[0], name="x"), fixed]
    found = problems(replace(manifest, variants=[replace(variant, inputs=given)]))
    assert [f"a constant {value:g}, which no {dtype} is" in why for why in found] == [True] * (not fits)
    states = [replace(variant.states[0], dtype=dtype, initial=value)]  # type: ignore[arg-type]
    found = problems(replace(manifest, variants=[replace(variant, states=states)]))
    assert [f"begins as {value:g}, which no {dtype} is" in why for why in found] == [True] * (not fits)


def test_a_zero_point_that_no_type_holds(tmp_path: Path) -> None:
    manifest = manifest_of(accumulator(tmp_path / "a.edgeloop"))
    (variant,) = manifest.variants
    spec = replace(variant.outputs[0], quantization=Quantization(scale=1.0, zero_point=10**400))
    (why,) = problems(replace(manifest, variants=[replace(variant, outputs=[spec])]))
    assert "has a zero point beyond" in why


def turned(manifest: Manifest, *names: str) -> Manifest:
    """With the two axes of these outputs in the other order."""
    (variant,) = manifest.variants
    made = [replace(spec, shape=spec.shape[::-1]) if spec.name in names else spec for spec in variant.outputs]
    return replace(manifest, variants=[replace(variant, outputs=made)])


def test_points_beside_distances_lie_as_the_layout_says(tmp_path: Path) -> None:
    manifest = manifest_of(pointer(tmp_path / "p.edgeloop"))
    assert isinstance(manifest.task, Keypoints) and not problems(manifest)
    (why,) = problems(turned(manifest, "points"))
    assert "points need the output 'points'" in why and "as [" in why
    first = replace(manifest, task=replace(manifest.task, decode=Distances(strides=[16], channels="first")))
    assert sum("points need" in why for why in problems(first)) == 1
    assert not problems(turned(first, "boxes", "scores", "points"))


def test_boxes_have_as_many_values_as_the_layout_says(tmp_path: Path) -> None:
    manifest = manifest_of(pointer(tmp_path / "p.edgeloop"))
    (why,) = problems(replace(manifest, task=replace(manifest.task, decode=Distances(strides=[16], bins=8))))
    assert "boxes of 4 values; the layout distances has 32" in why


POSES = {
    "rows": PointRows(points=2, values=3, presence="there"), "maps": PointMaps(points=2), "offsets": PointMaps(points=2, offsets="moves"),
    "axes": PointAxes(points=2),
}  # fmt: skip
ODD: list[list[int]] = [[], [0], [-1, 4, 4], [2, 0, 4], [2, 1 << 14, 1 << 14], [3, 4, 4], [2, 4], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize("name", POSES)
def test_poses_of_odd_shapes_are_a_sentence(name: str, shape: list[int], tmp_path: Path) -> None:
    manifest = manifest_of(pointer(tmp_path / "p.edgeloop"))
    (variant,) = manifest.variants
    layout = POSES[name]
    task = Keypoints(labels=["thing"], points=["a", "b"], decode=layout)
    outputs = [
        replace(variant.outputs[0], name=output or "maps", tensor=output or "maps", shape=shape) for output in outputs_of(layout)
    ]
    assert problems(replace(manifest, task=task, variants=[replace(variant, outputs=outputs)]))
    several = replace(task, labels=["thing", "other"])
    found = problems(replace(manifest, task=several, variants=[replace(variant, outputs=outputs)]))
    assert "poses without boxes have one label, and the task has 2" in found
