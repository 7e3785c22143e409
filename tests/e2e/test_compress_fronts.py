"""Models that begin with a spectrum of the sound: that stays in float, equal constants are stored once, and growth is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from test_compress import compressed

import edgeloop
from bundles import F, onnx_file

POINTS, WINDOW, HOP, BANDS = 2048, 128, 64, 64
MEL = 24


def loud_and_quiet(path: Path, count: int) -> Path:
    """Tones over 70 dB: the quiet ones are below one step of 8 bits of the loud ones."""
    rng, t = np.random.default_rng(0), np.arange(POINTS) / 8000
    rows = [
        (np.sin(2 * np.pi * rng.uniform(200, 3500) * t) + rng.normal(0, 0.02, POINTS)) * 10 ** rng.uniform(-3.5, 0)
        for _ in range(count)
    ]
    np.save(path, np.stack(rows)[:, None, :].astype(np.float32))
    return path


def log_mel(learned: bool) -> bytes:
    """A logarithm of bands of a windowed Fourier transform by convolutions with reflected ends, as audio networks have it; twice, as
    in octaves; then, where `learned`, two convolutions and scores.
    """
    rng = np.random.default_rng(1)
    angles = 2 * np.pi * np.outer(np.arange(BANDS), np.arange(WINDOW)) / WINDOW
    window = np.hanning(WINDOW)
    constants = {
        "cosines": (np.cos(angles) * window)[:, None], "sines": (np.sin(angles) * window)[:, None],
        "again": (np.cos(angles) * window)[:, None], "ends": np.array([0, 0, HOP, 0, 0, HOP], np.int64),
        "mel": np.abs(rng.normal(0, 1, (BANDS, MEL))) / BANDS, "least": np.array(1e-10), "two": np.array(2.0),
        "w": rng.normal(0, 0.1, (96, MEL, 5)), "v": rng.normal(0, 0.1, (96, 96, 3)), "d": rng.normal(0, 0.7, (96, 4)),
    }  # fmt: skip
    step = {"kernel_shape": [WINDOW], "strides": [HOP]}
    nodes = [
        helper.make_node("Pad", ["sound", "ends"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "cosines"], ["a"], **step), helper.make_node("Conv", ["padded", "sines"], ["b"], **step),
        helper.make_node("Conv", ["padded", "again"], ["c"], **step), helper.make_node("Pow", ["a", "two"], ["aa"]),
        helper.make_node("Pow", ["b", "two"], ["bb"]), helper.make_node("Mul", ["c", "c"], ["cc"]),
        helper.make_node("Add", ["aa", "bb"], ["ab"]), helper.make_node("Add", ["ab", "cc"], ["power"]),
        helper.make_node("Transpose", ["power"], ["frames"], perm=[0, 2, 1]), helper.make_node("MatMul", ["frames", "mel"], ["bands"]),
        helper.make_node("Clip", ["bands", "least"], ["above"]), helper.make_node("Log", ["above"], ["level"]),
    ]  # fmt: skip
    if learned:
        nodes += [
            helper.make_node("Transpose", ["level"], ["first"], perm=[0, 2, 1]), helper.make_node("Conv", ["first", "w"], ["e"]),
            helper.make_node("Relu", ["e"], ["f"]), helper.make_node("Conv", ["f", "v"], ["g"]), helper.make_node("Relu", ["g"], ["h"]),
            helper.make_node("GlobalAveragePool", ["h"], ["p"]), helper.make_node("Flatten", ["p"], ["q"]),
            helper.make_node("MatMul", ["q", "d"], ["scores"]),
        ]  # fmt: skip
    output = ("scores", F, ["batch", 4]) if learned else ("level", F, ["batch", POINTS // HOP + 1, MEL])
    typed = {name: value if value.dtype == np.int64 else value.astype(np.float32) for name, value in constants.items()}
    read = {name for node in nodes for name in node.input}
    return onnx_file(nodes, [("sound", F, ["batch", 1, POINTS])], [output], **{n: v for n, v in typed.items() if n in read})


def files_of(found: dict[str, Any]) -> dict[str, Any]:
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    assert set(files) == {"onnx-int8", "tflite-int8"}
    return dict(files)


@pytest.mark.long
def test_a_spectrum_stays_in_float_and_what_follows_is_in_integers(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(log_mel(True))
    data = loud_and_quiet(tmp_path / "rows.npy", 96)
    found, said = compressed(tmp_path / "net.onnx", data, tmp_path / "small", "--measure", "signal")
    files = files_of(found)
    assert min(file["accuracy"]["value"] for file in files.values()) >= 0.99 and "please check: no layer" not in said
    result = next(stage for stage in found["stages"] if stage["name"] == "quantize")["metrics"]
    assert (result["spectrum_layers"], result["rounded_layers"]) == (4, 3)
    graph = onnx.load(tmp_path / "runs" / "small" / "onnx-int8.onnx").graph
    kernels = [tuple(i.dims) for i in graph.initializer if i.data_type == F and tuple(i.dims) == (BANDS, 1, WINDOW)]
    assert len(kernels) == 2  # the cosines that stand twice in the model stand once in the file
    assert all(file["bytes"] < (tmp_path / "net.onnx").stat().st_size for file in files.values())
    model = edgeloop.open(next((tmp_path / "runs" / "small").glob("*.edgeloop")))
    quiet = min(np.load(data), key=lambda row: float(np.abs(row).max()))
    (wanted,) = onnxruntime.InferenceSession(log_mel(True)).run(None, {"sound": quiet[None]})
    (got,) = model(quiet).tensors.values()
    assert np.square(got - wanted[0]).sum() < 0.01 * np.square(wanted).sum()


@pytest.mark.long
def test_where_nothing_is_worth_rounding_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(log_mel(False))
    data = loud_and_quiet(tmp_path / "rows.npy", 64)
    found, said = compressed(tmp_path / "net.onnx", data, tmp_path / "small")
    assert min(file["accuracy"]["value"] for file in files_of(found).values()) >= 0.9999
    assert "please check: no layer is in int8: they make a spectrum of the input" in said
    assert "the original file serves as well" in said


def evened() -> bytes:
    """A learned layer whose level is divided out, as a network of raw sound may have it: it is no spectrum."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["sound", "w"], ["a"], kernel_shape=[16], strides=[8]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["mean"]), helper.make_node("Add", ["mean", "least"], ["level"]),
        helper.make_node("Div", ["b", "level"], ["even"]), helper.make_node("Conv", ["even", "v"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]), helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "o"], ["vector"]),
    ]  # fmt: skip
    constants = {
        "w": rng.normal(0, 0.3, (16, 1, 16)), "v": rng.normal(0, 0.2, (32, 16, 5)), "o": rng.normal(0, 0.5, (32, 8)),
        "least": np.array(1e-7),
    }  # fmt: skip
    typed = {name: value.astype(np.float32) for name, value in constants.items()}
    return onnx_file(nodes, [("sound", F, ["batch", 1, POINTS])], [("vector", F, ["batch", 8])], **typed)


@pytest.mark.long
def test_a_first_layer_whose_rounding_costs_most_stays_in_float(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(evened())
    data = loud_and_quiet(tmp_path / "rows.npy", 96)
    found, said = compressed(tmp_path / "net.onnx", data, tmp_path / "small")
    steps = next(stage for stage in found["stages"] if stage["name"] == "quantize")["metrics"]["repair_steps"]
    kept = {step["name"]: step["kept"] for step in steps}
    assert kept["the first layer in float"] and steps[0]["metric"] < 0.9
    assert min(file["accuracy"]["value"] for file in files_of(found).values()) >= 0.98 and "keeps" not in said


@pytest.mark.long
def test_a_file_that_grows_is_said_with_the_reason(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weights = {f"w{i}": rng.normal(0, 1, (2, 2)).astype(np.float32) for i in range(6)}
    names = ["row", *(f"a{i}" for i in range(5)), "vector"]
    nodes = [n for i in range(6) for n in (
        helper.make_node("MatMul", [names[i], f"w{i}"], [f"m{i}" if i < 5 else "vector"]),
        *([helper.make_node("Tanh", [f"m{i}"], [names[i + 1]])] if i < 5 else []),
    )]  # fmt: skip
    (tmp_path / "net.onnx").write_bytes(onnx_file(nodes, [("row", F, ["batch", 2])], [("vector", F, ["batch", 2])], **weights))
    np.save(tmp_path / "rows.npy", rng.normal(0, 1, (64, 2)).astype(np.float32))
    found, said = compressed(tmp_path / "net.onnx", tmp_path / "rows.npy", tmp_path / "small")
    size = (tmp_path / "net.onnx").stat().st_size
    assert all(file["bytes"] > size for file in files_of(found).values())
    assert f"and the original {size:,}: each of its" in said and "rounded tensors needs a scale" in said
