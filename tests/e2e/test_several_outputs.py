"""A model with several outputs through `edgeloop compress`: each keeps its name, its order and a scale of its own, to the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from PIL import Image
from test_compress import compressed, pictures, takes_the_originals_place  # noqa: F401 (a fixture)

import edgeloop
from bundles import F, onnx_file
from commands import edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import ModelError
from edgeloop_contract.tasks import Tensors
from edgeloop_exporters.named_outputs import Output, joined, separate
from edgeloop_exporters.outputs import Joining

SIDE = 16
NAMES = ["relu", "masks", "vector"]  # the first is what exporters call inner values


def detector(whole: bool = False, presence: bool = False) -> bytes:
    """Distances of some hundred, masks up to 1, and a vector up to a hundredth: one scale for all would leave nothing of two.

    `presence`: also a score of what is in none of the pictures.
    """
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.normal(0, 0.3, (16, 3, 3, 3)), "b": rng.normal(0, 0.1, 16), "wb": rng.normal(0, 0.3, (4, 16, 1, 1)),
        "wm": rng.normal(0, 0.5, (2, 16, 1, 1)), "d": rng.normal(0, 0.01, (16, 6)), "e": np.zeros(6), "far": np.array(200.0), "s": rng.normal(0, 0.1, (16, 1)), "never": np.array([-12.0]),
    }  # fmt: skip
    constants = {key: value.astype(np.float32) for key, value in weights.items()}
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "wb"], ["near"], kernel_shape=[1, 1]),
        helper.make_node("Mul", ["near", "far"], ["relu"]),
        helper.make_node("Conv", ["r", "wm"], ["m"], kernel_shape=[1, 1]),
        helper.make_node("Sigmoid", ["m"], ["masks"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "d", "e"], ["vector"]),
        helper.make_node("Gemm", ["f", "s", "never"], ["absent"]),
        helper.make_node("Sigmoid", ["absent"], ["presence"]),
        *([helper.make_node("ArgMax", ["vector"], ["best"], axis=1)] if whole else []),
    ]
    half = SIDE // 2
    outputs = [("relu", F, ["batch", 4, half, half]), ("masks", F, ["batch", 2, half, half]), ("vector", F, ["batch", 6])]
    outputs += [("presence", F, ["batch", 1])] if presence else []
    outputs += [("best", onnx.TensorProto.INT64, ["batch", 1])] if whole else []
    return onnx_file(nodes, [("image", F, ["batch", 3, SIDE, SIDE])], outputs, **constants)


def kept(wanted: np.ndarray, found: np.ndarray) -> float:
    return 1 - float(((wanted - found) ** 2).sum() / (wanted**2).sum())


def test_all_outputs_arrive_by_name_each_with_its_own_scale(pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "net.onnx").write_bytes(detector(presence=True))
    found, said = compressed(
        tmp_path / "net.onnx", pictures, tmp_path / "small", "--normalize", "imagenet", "--io", "original"
    )  # fmt: skip
    assert "4 outputs: relu [4, 8, 8], masks [2, 8, 8], vector [6], presence [1]" in said and "of the worst output" in said
    verified = next(stage["metrics"] for stage in found["stages"] if stage["name"] == "verify")
    assert min(file["accuracy"]["value"] for file in verified["variants"].values()) >= 0.99
    rows = {row["name"]: row for row in verified["outputs"]}
    assert set(rows) == {*NAMES, "presence"} and [name for name, row in rows.items() if row["silent"]] == ["presence"]
    assert "presence (up to" in said and "scores near 0 in all these data" in said
    run = tmp_path / "runs" / "small"
    path = next(run.glob("*.edgeloop"))
    picture = np.asarray(Image.open(pictures / "03.png"))
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        assert isinstance(manifest.task, Tensors) and manifest.drift is not None
        assert {"mean of relu", "spread of masks"} <= set(manifest.drift.features)
        assert manifest.canary is not None and set(manifest.canary.golden) == {*NAMES, "presence"}
        for variant in manifest.variants:
            assert [spec.name for spec in variant.outputs] == [*NAMES, "presence"]
            scales = [spec.quantization.scale for spec in variant.outputs if spec.quantization is not None]
            assert variant.runtime == "onnx" or max(scales) > 100 * min(scales)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for variant in ("onnx-int8", "tflite-int8"):
        model = edgeloop.open(path, variant=variant)
        answer = model(picture)
        assert answer.tensors is not None and list(answer.tensors) == [*NAMES, "presence"]
        from edgeloop_contract.preprocessing import prepare

        counts = prepare(manifest.preprocessing, picture).values.astype(np.float32)
        x = (counts - np.array([123.675, 116.28, 103.53], np.float32)) / np.array([58.395, 57.12, 57.375], np.float32)
        wanted = session.run(NAMES, {"image": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
        for name, original in zip(NAMES, wanted, strict=True):
            assert kept(original[0], answer.tensors[name].reshape(original[0].shape)) > 0.98, (variant, name)
    takes_the_originals_place(tmp_path / "net.onnx", run)
    report = (run / "report.html").read_text("utf-8")
    assert "relu: [" in report and "vector: [" in report and "Per output" in report


def test_some_of_the_outputs_can_be_chosen(pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "net.onnx").write_bytes(detector(whole=True))
    base = ["compress", tmp_path / "net.onnx", "--calibrate", pictures, "--normalize", "imagenet", "--prepare-only"]
    done = edgeloop_here(*base, "--out", tmp_path / "whole")
    assert "its output best gives int64" in sentence(done, 2) and "--output" in done.stderr and not (tmp_path / "whole").exists()
    done = edgeloop_here(*base, "--out", tmp_path / "labels", "--output", "masks", "--output", "vector", "--labels", "a,b")
    assert "say which holds the scores with --output" in sentence(done, 2)
    done = edgeloop_here(*base, "--out", tmp_path / "two", "--output", "vector", "--output", "masks")
    assert done.returncode == 0, done.stderr
    assert '"outputs": ["vector", "masks"]' in (tmp_path / "two" / "recipe.yaml").read_text()
    done = edgeloop_here(*base, "--out", tmp_path / "none", "--output", "nothing")
    assert "--output nothing" in sentence(done, 2)


@pytest.mark.long
def test_the_smaller_network_learns_all_outputs(pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    """Pruned, it learns from the original: the gradient goes through what joins the outputs."""
    (tmp_path / "net.onnx").write_bytes(detector())
    found, _ = compressed(
        tmp_path / "net.onnx", pictures, tmp_path / "small", "--normalize", "imagenet", "--prune", "0.25", "--epochs", "2"
    )  # fmt: skip
    stages = {stage["name"]: stage["metrics"] for stage in found["stages"]}
    assert stages["distill"]["validation_accuracy"] > stages["prune"]["validation_accuracy"]


def test_joined_outputs_come_apart_and_give_gradients() -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"b": x[:, :2].reshape(-1, 2, 1) * 2, "a": x.sum(1), "more": x}

    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    outputs = [Output("a", ()), Output("b", (2, 1))]
    scores = Joining(Two(), ["a", "b"])(x)
    parts = separate(scores, outputs)
    assert parts["a"].tolist() == [3.0, 12.0] and parts["b"].shape == (2, 2, 1)
    (parts["a"].sum() + (parts["b"] ** 2).sum()).backward()
    assert x.grad is not None and x.grad.tolist() == [[1.0, 9.0, 1.0], [25.0, 33.0, 1.0]]
    array = scores.detach().numpy()
    assert np.array_equal(joined(list(separate(array, outputs).values())), array)
    with pytest.raises(ModelError, match="without c"):
        Joining(Two(), ["a", "c"])(x)
    with pytest.raises(ModelError, match="an answer has 3 values; its outputs have 2"):
        separate(array, outputs[1:])
