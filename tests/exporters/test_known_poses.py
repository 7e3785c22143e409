"""Which outputs are taken for poses without boxes, and which are not: labels of pixels, embeddings, boxes."""

from __future__ import annotations

import pytest

from edgeloop_contract.tensors import Precision
from edgeloop_exporters.model_files.description import Metadata, ModelFile, Tensor
from edgeloop_exporters.model_files.detectors import detector_of

SIZE = (256, 192)
# shapes of one sample's outputs, whether they are poses, and whether that is sure
SHAPES: dict[str, tuple[dict[str, tuple[int, ...]], bool | None]] = {
    "MoveNet": ({"Identity": (1, 17, 3)}, True),
    "MoveNet of several": ({"Identity": (6, 56)}, True),
    "YOLO's poses": ({"output0": (56, 1008)}, None),
    "maps of persons": ({"output": (17, 64, 48)}, False),
    "maps by name": ({"heatmaps": (68, 64, 48)}, True),
    "labels of pixels": ({"output": (21, 32, 24)}, None),
    "maps of another size": ({"output": (17, 60, 48)}, None),
    "SimCC": ({"simcc_x": (133, 384), "simcc_y": (133, 512)}, True),
    "SimCC, y first": ({"simcc_y": (17, 512), "simcc_x": (17, 384)}, True),
    "SimCC without names": ({"a": (17, 384), "b": (17, 512)}, False),
    "two arrays": ({"a": (5, 384), "b": (5, 512)}, None),
    "boxes and scores": ({"boxes": (100, 4), "scores": (100, 92)}, None),
    "a face": ({"conv2d_21": (1, 1, 1404), "conv2d_31": (1, 1, 1)}, False),
    "a body": ({"Identity": (195,), "Identity_1": (1,), "Identity_2": (256, 192, 1)}, False),
    "an embedding": ({"embedding": (63,)}, None),
    "an embedding and another": ({"embedding": (64,), "score": (1,)}, None),
    "PoseNet": ({"float_heatmaps": (9, 7, 17), "float_short_offsets": (9, 7, 34), "float_mid_offsets": (9, 7, 64)}, True),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_a_pose(name: str) -> None:
    shapes, sure = SHAPES[name]
    outputs = tuple(Tensor(name=output, dtype="float32", shape=(1, *shape)) for output, shape in shapes.items())
    model = ModelFile(path="m.onnx", runtime="onnx", precision=Precision.FLOAT32, inputs=(), outputs=outputs, metadata=Metadata())
    known = detector_of(model, shapes, *SIZE)
    posed = known is not None and known.layout.__struct_config__.tag in ("point_rows", "point_maps", "point_axes")
    assert posed == (sure is not None) and (not posed or (known is not None and known.sure == sure))


def test_a_file_that_says_it_detects_has_no_poses() -> None:
    output = Tensor(name="output0", dtype="float32", shape=(1, 6, 56))
    model = ModelFile(
        path="m.onnx", runtime="onnx", precision=Precision.FLOAT32, inputs=(), outputs=(output,), metadata=Metadata(task="detect")
    )  # fmt: skip
    known = detector_of(model, {"output0": (6, 56)}, *SIZE)
    assert known is None or known.layout.__struct_config__.tag != "point_rows"
