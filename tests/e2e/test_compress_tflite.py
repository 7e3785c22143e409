"""`edgeloop compress` takes float TFLite files: every way to its end, and what cannot be read exactly is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from test_compress import compressed, pictures  # noqa: F401 (a fixture)

import edgeloop
from commands import edgeloop_here, sentence
from edgeloop_exporters.model_files.description import Metadata
from edgeloop_exporters.model_files.tflite_writing import tflite_with_metadata
from edgeloop_pipeline.recipe.recipe import load
from tflite_parts import Op, options, tflite_file

SIDE = 16


def segmenter() -> bytes:
    """A convolution with relu, and one with a sigmoid: a mask."""
    rng = np.random.default_rng(2)

    def layer(bend: int) -> object:
        sizes = dict.fromkeys(("strideH", "strideW", "dilationHFactor", "dilationWFactor"), 1)
        return options("Conv2D", padding=0, fusedActivationFunction=bend, **sizes)

    ops = [
        Op("CONV_2D", ["image", "w", "b"], {"c": (1, SIDE, SIDE, 8)}, layer(1)),
        Op("CONV_2D", ["c", "v", "d"], {"m": (1, SIDE, SIDE, 1)}, layer(0)),
        Op("LOGISTIC", ["m"], {"mask": (1, SIDE, SIDE, 1)}),
    ]
    constants = {
        "w": rng.normal(0, 0.4, (8, 3, 3, 3)).astype(np.float32), "b": np.zeros(8, np.float32),
        "v": rng.normal(0, 0.6, (1, 1, 1, 8)).astype(np.float32), "d": np.full(1, -0.3, np.float32),
    }  # fmt: skip
    return tflite_file({"image": (1, SIDE, SIDE, 3)}, ops, ["mask"], constants)


def test_a_float_file_becomes_a_verified_pair(pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "mask.tflite").write_bytes(segmenter())
    found, said = compressed(tmp_path / "mask.tflite", pictures, tmp_path / "small", "--normalize", "unit")
    verified = next(stage["metrics"] for stage in found["stages"] if stage["name"] == "verify")
    assert verified["metric"] == "mask IoU" and min(f["accuracy"]["value"] for f in verified["variants"].values()) > 0.8, said
    assert load(tmp_path / "small" / "recipe.yaml").head.model_card.startswith("mask.tflite")
    picture = np.asarray(Image.open(pictures / "05.png").resize((SIDE, SIDE)))
    interpreter = Interpreter(model_content=segmenter())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[None].astype(np.float32) / 255)
    interpreter.invoke()
    wanted = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    for variant in ("onnx-int8", "tflite-int8"):
        answer = edgeloop.open(next((tmp_path / "runs" / "small").glob("*.edgeloop")), variant=variant)(picture)
        assert answer.tensors is not None
        (mask,) = answer.tensors.values()
        assert np.abs(mask.reshape(wanted.shape) - wanted).max() < 0.05


@pytest.mark.parametrize(("labels", "counts"), [(1, "all"), (2, "all"), (3, "scores")])
def test_labels_without_a_score_each_choose_no_output(labels: int, counts: str, pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    """MediaPipe's palm detector names one label of 2,016 scores: its boxes must not be lost for that."""
    rng, rows = np.random.default_rng(4), 3
    ops = [
        Op("FULLY_CONNECTED", ["image", "w", "b"], {"flat": (1, 6)}, options("FullyConnected", fusedActivationFunction=0)),
        Op("RESHAPE", ["flat", "to"], {"boxes": (1, rows, 2)}),
        Op("FULLY_CONNECTED", ["flat", "v", "d"], {"scores": (1, rows)}, options("FullyConnected", fusedActivationFunction=0)),
    ]
    constants = {
        "w": rng.normal(0, 0.1, (6, 8 * 8 * 3)).astype(np.float32), "b": np.zeros(6, np.float32),
        "v": rng.normal(0, 0.6, (rows, 6)).astype(np.float32), "d": np.zeros(rows, np.float32), "to": np.array([1, rows, 2], np.int32),
    }  # fmt: skip
    content = tflite_file({"image": (1, 8, 8, 3)}, ops, ["boxes", "scores"], constants)
    named = Metadata(labels=("palm", "thumb", "arm")[:labels], labels_output="scores")
    (tmp_path / "palm.tflite").write_bytes(tflite_with_metadata(content, named))
    done = edgeloop_here(
        "compress",
        tmp_path / "palm.tflite",
        "--calibrate",
        pictures,
        "--out",
        tmp_path / "o",
        "--normalize",
        "unit",
        "--prepare-only",
    )
    assert done.returncode == 0, done.stderr
    imported = load(tmp_path / "o" / "recipe.yaml").head.imported
    assert imported is not None and imported.chosen == (("boxes", "scores") if counts == "all" else ("scores",))
    assert ("left out, all outputs count" in " ".join(done.stderr.split())) == (counts == "all")


def test_what_is_not_known_is_named(pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    whole = segmenter()
    for name, content in (("cut", whole[: len(whole) // 2]), ("other", whole.replace(b"TFL3", b"TFL9"))):
        (tmp_path / f"{name}.tflite").write_bytes(content)
        done = edgeloop_here("compress", tmp_path / f"{name}.tflite", "--calibrate", pictures, "--out", tmp_path / name)
        assert (
            str(tmp_path / f"{name}.tflite") in sentence(done, done.returncode)
            and done.returncode
            and not (tmp_path / name).exists()
        )
