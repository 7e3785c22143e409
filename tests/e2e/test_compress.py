"""`edgeloop compress`: somebody's trained model and a folder become int8 files, a report and a bundle; the original is the measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from bundles import F, onnx_file
from commands import edgeloop_here, sentence
from edgeloop_agent.engine import Engine
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.tasks import Classification, Tensors
from edgeloop_exporters.tensorrt_rules import violations
from edgeloop_pipeline.bundling.drop_in_words import programs
from edgeloop_pipeline.recipe.recipe import load

SIDE, CLASSES = 16, 4


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of one colour each and some noise, of different sizes; two of them are equal."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(40):
        height, width = (int(v) for v in rng.integers(12, 40, 2))
        noisy = np.clip(rng.integers(0, 256, 3) + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:02}.png")
    (folder / "again.png").write_bytes((folder / "00.png").read_bytes())
    return folder


def classifier(batch: int | str = "batch", softmax: bool = True, last: bool = False, divide: float = 0.0) -> bytes:
    """A small network of pictures, as an exporter writes it. `last`: channels last; `divide`: by what it scales its input."""
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.normal(0, 0.3, (8, 3, 3, 3)), "b": rng.normal(0, 0.1, 8), "d": rng.normal(0, 0.7, (8, CLASSES)),
        "e": np.zeros(CLASSES),
    }  # fmt: skip
    name, nodes = "image", []
    constants = {key: value.astype(np.float32) for key, value in weights.items()}
    if divide:
        constants["scale"] = np.array(divide, np.float32)
        nodes.append(helper.make_node("Div", [name, "scale"], ["scaled"]))
        name = "scaled"
    if last:
        nodes.append(helper.make_node("Transpose", [name], ["first"], perm=[0, 3, 1, 2]))
        name = "first"
    nodes += [
        helper.make_node(
            "Conv", [name, "w", "b"], ["c"], name="/stem/Conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "d", "e"], ["g"], name="/head/Gemm"),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["g"], ["out"], axis=1))
    shape = [batch, SIDE, SIDE, 3] if last else [batch, 3, SIDE, SIDE]
    return onnx_file(nodes, [("image", F, shape)], [("out" if softmax else "g", F, [batch, CLASSES])], **constants)


def compressed(model: Path, data: Path, out: Path, *more: object) -> tuple[dict, str]:
    done = edgeloop_here("compress", model, "--calibrate", data, "--out", out, "--runs", out.parent / "runs", "--json", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_file_and_a_folder_become_a_verified_pair_and_a_bundle(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(classifier())
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\ngrey\n")
    found, said = compressed(
        tmp_path / "net.onnx", pictures, tmp_path / "small", "--normalize", "imagenet", "--labels", tmp_path / "names.txt",
        "--io", "original",
    )  # fmt: skip
    operators = [node.op_type for node in onnx.load(tmp_path / "runs" / "small" / "onnx-int8.onnx").graph.node]
    assert operators.index("Reshape") < operators.index("Sub")  # what keeps the normalization behind the change to channels first
    stages = {stage["name"]: stage["metrics"] for stage in found["stages"]}
    assert stages["verify"]["metric"] == "agreement" and set(stages["verify"]["variants"]) == {"onnx-int8", "tflite-int8"}
    assert min(file["accuracy"]["value"] for file in stages["verify"]["variants"].values()) >= 0.9
    # What a picture's own rounding costs stands beside it.
    assert stages["verify"]["moved"]["value"] >= 0.9
    assert "nobody labelled the data" in said and "please check: pictures are stretched" in said
    run = next((tmp_path / "runs" / "small").glob("*.edgeloop"))
    with Bundle.open(run) as bundle:
        manifest = bundle.manifest
        assert isinstance(manifest.task, Classification) and manifest.task.labels == ["red", "green", "blue", "grey"]
        # What is kept of the original's answers is no accuracy.
        assert all(variant.accuracy is None for variant in manifest.variants) and "Nobody labelled the data" in manifest.model_card
        engine = Engine(bundle, VariantChoice("onnx-int8", 1, ""))
        picture = np.asarray(Image.open(pictures / "03.png"))
        from edgeloop_contract.preprocessing import prepare

        (answer,) = [engine.scored(prepare(manifest.preprocessing, picture).values).scores]
        assert answer.shape[-1] == CLASSES
    report = (tmp_path / "runs" / "small" / "report.html").read_text("utf-8")
    shown = ("What the model sees and answers", "data:image/png", "where each value of these pictures moves by one at most")
    assert all(words in report for words in shown) and "accuracy" not in report.split("<h2>Sources")[0]
    takes_the_originals_place(tmp_path / "net.onnx", tmp_path / "runs" / "small")
    # The project is a recipe like any other: nothing runs again.
    again = edgeloop_here("run", tmp_path / "small", "--runs", tmp_path / "runs", "--json")
    assert again.returncode == 0 and all(
        stage["cached"] for stage in json.loads(again.stdout)["stages"] if stage["name"] != "report"
    )


def takes_the_originals_place(original: Path, run: Path) -> None:
    """drop-in.onnx has the original's names, order, types and shapes, and nearly its answers; the snippet runs."""
    large, small = (onnxruntime.InferenceSession(path) for path in (original, run / "drop-in.onnx"))
    for of in ("get_inputs", "get_outputs"):
        theirs, ours = getattr(large, of)(), getattr(small, of)()
        assert [(door.name, door.type) for door in ours] == [(door.name, door.type) for door in theirs]
        assert all(a[1:] == b[1:] for a, b in zip([d.shape for d in ours], [d.shape for d in theirs], strict=True))
    (door,) = large.get_inputs()
    x = np.random.default_rng(4).normal(0, 1, (1, *door.shape[1:])).astype(np.float32)
    answers, ours = (session.run(None, {door.name: x}) for session in (large, small))
    for wanted, found in zip(answers, ours, strict=True):
        assert np.abs(found - wanted).max() < 0.25 * max(1.0, np.abs(wanted).max()) and found.shape == wanted.shape
    done = subprocess.run([sys.executable, "drop-in.py"], cwd=run, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == " ".join(str(wanted.shape) for wanted in answers), done.stderr
    assert f'{{"{door.name}"}}' in (run / "drop-in.cpp").read_text()


@pytest.mark.long
def test_a_file_for_tensorrt_comes_beside_the_others(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(classifier())
    found, _ = compressed(tmp_path / "net.onnx", pictures, tmp_path / "small", "--normalize", "imagenet", "--symmetric")
    content = (tmp_path / "runs" / "small" / "onnx-int8-symmetric.onnx").read_bytes()
    assert [str(broken) for broken in violations(content)] == []
    with Bundle.open(Path(found["bundle"])) as bundle:
        assert {v.name: v.provider for v in bundle.manifest.variants}["onnx-int8-symmetric"] == "TensorRT"
        both = [Engine(bundle, VariantChoice(name, 1, "asked for")) for name in ("onnx-int8-symmetric", "onnx-int8")]
        picture = np.asarray(Image.open(pictures / "03.png"))
        assert len({next(iter(engine.answers(picture))).label for engine in both}) == 1


def test_a_name_from_a_file_ends_no_text_of_a_snippet() -> None:
    text = programs("net", [('a"]); print("here"); ("', "float32", (1, 3))], ["b"])["drop-in.py"]
    assert 'print(\\"here\\")' in text and compile(text, "drop-in.py", "exec")


@pytest.mark.long
def test_channels_last_take_the_originals_place_too(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(classifier(last=True, divide=255.0, softmax=False, batch=1))
    compressed(tmp_path / "net.onnx", pictures, tmp_path / "small", "--task", "classification", "--io", "original")
    takes_the_originals_place(tmp_path / "net.onnx", tmp_path / "runs" / "small")


def test_folders_named_after_the_labels_measure_accuracy(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for label, colour in (("red", (220, 30, 30)), ("green", (30, 220, 30))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(16):
            noisy = np.clip(np.array(colour) + rng.normal(0, 20, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "data" / label / f"{i}.png")
    (tmp_path / "net.onnx").write_bytes(classifier(divide=255.0))
    found = prepared(tmp_path / "net.onnx", tmp_path / "data", tmp_path / "small", "--labels", "red,green,blue,grey")
    assert "it divides by 255" in found and "accuracy is measured" in found
    recipe = load(tmp_path / "small" / "recipe.yaml").head
    assert recipe.imported is not None and recipe.imported.measure is None and recipe.normalize is not None
    assert (list(recipe.normalize.mean), list(recipe.normalize.std)) == ([0.0], [1.0])


def prepared(*words: object) -> str:
    model, data, out, *more = words
    done = edgeloop_here("compress", model, "--calibrate", data, "--out", out, "--prepare-only", *more)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("model", "layout", "words"),
    [
        (classifier(), "channels_first", "the share of samples with the same answer"),
        (classifier(batch=1), "channels_first", "4 classes without names (softmax"),
        (classifier(last=True), "channels_last", ""),
        (classifier(softmax=False), "channels_first", "4 values are taken as numbers"),
    ],
    ids=["free batch", "batch of one", "channels last", "no softmax"],
)
def test_what_a_file_shows_is_understood(model: bytes, layout: str, words: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(model)
    said = prepared(tmp_path / "net.onnx", pictures, tmp_path / "small", "--normalize", "unit")
    assert words in said
    imported = load(tmp_path / "small" / "recipe.yaml").head.imported
    assert imported is not None and imported.layout == layout


@pytest.mark.long
@pytest.mark.parametrize(("last", "measure"), [("Tanh", "cosine similarity"), ("Identity", "R²")])
def test_arrays_of_any_shape_go_to_the_end(last: str, measure: str, tmp_path: Path) -> None:
    """Numbers of a regression are judged by what varies: a cosine of answers that all point one way is 1 whatever is lost."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]), helper.make_node(last, ["a"], ["y"]),
    ]  # fmt: skip
    weights = {name: rng.normal(0, 0.2, size).astype(np.float32) for name, size in (("w", (24, 6)), ("b", 6))}
    (tmp_path / "net.onnx").write_bytes(onnx_file(nodes, [("x", F, [1, 4, 6])], [("y", F, [1, 6])], **weights))
    np.save(tmp_path / "samples.npy", rng.normal(size=(64, 4, 6)))
    found, _ = compressed(tmp_path / "net.onnx", tmp_path / "samples.npy", tmp_path / "small")
    verified = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]
    assert verified["metric"] == measure and all(file["accuracy"]["value"] > 0.999 for file in verified["variants"].values())
    with Bundle.open(next((tmp_path / "runs" / "small").glob("*.edgeloop"))) as bundle:
        assert isinstance(bundle.manifest.task, Tensors) and bundle.manifest.drift is not None


def stateful() -> bytes:
    nodes = [helper.make_node("Add", ["x", "s"], ["y"])]
    return onnx_file(nodes, [("x", F, [1, 4]), ("s", F, [1, 4])], [("y", F, [1, 4])])


def quantized() -> bytes:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants = {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)}
    return onnx_file(nodes, [("x", F, ["n", 3, 8, 8])], [("y", F, ["n", 3, 8, 8])], **constants)


def looping() -> bytes:
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)]
    return onnx_file(nodes, [("x", F, ["n", 3, 8, 8])], [("y", F, ["a", "b"])])


@pytest.mark.parametrize(
    ("model", "more", "code", "words"),
    [
        (b"no model at all", (), 4, "not a whole ONNX file"),
        (classifier()[:300], (), 4, "not a whole ONNX file"),
        (b"\x80\x04pickle", (), 4, "a pickle"),
        (stateful(), (), 3, "the model has several inputs: give .npz files"),
        (quantized(), ("--normalize", "unit"), 4, "already quantized"),
        (looping(), ("--normalize", "unit"), 4, "NonZero"),
        (classifier(), (), 2, "say --normalize imagenet"),
        (classifier(), ("--normalize", "unit", "--labels", "a,b"), 2, "gives 4 scores"),
        (classifier(), ("--normalize", "unit", "--output", "nothing"), 2, "has out"),
        (classifier(), ("--normalize", "1/0"), 2, "std above 0"),
        (classifier(), ("--normalize", "unit", "--size", "3x8x8"), 2, "give what follows the batch"),
    ],
)
def test_what_cannot_be_compressed_is_one_sentence_and_leaves_nothing(
    model: bytes, more: tuple[str, ...], code: int, words: str, pictures: Path, tmp_path: Path
) -> None:  # fmt: skip
    (tmp_path / "net.onnx").write_bytes(model)
    done = edgeloop_here("compress", tmp_path / "net.onnx", "--calibrate", pictures, "--out", tmp_path / "small", *more)
    assert words in sentence(done, code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("black", "every value of its"),
        ("one picture", "1 different recordings"),
        ("nothing", "holds no picture"),
        ("missing", "no such file or folder"),
        ("texts as pictures", "repair or remove it"),
        ("two kinds", "one kind of files"),
    ],
)
def test_data_that_calibrate_nothing_are_refused(name: str, words: str, pictures: Path, tmp_path: Path) -> None:
    data = tmp_path / ("nowhere" if name == "missing" else "data")
    (tmp_path / "data").mkdir()
    for i in range(12 if name in ("black", "texts as pictures", "two kinds") else 0):
        Image.fromarray(np.zeros((8 + i, 8, 3), np.uint8)).save(data / f"{i}.png")
        if name == "texts as pictures":
            (data / f"{i}.png").write_text(f"picture {i}")
    if name == "two kinds":
        np.save(data / "a.npy", np.zeros((4, 4), np.float32))
    if name == "one picture":
        (data / "a.png").write_bytes((pictures / "00.png").read_bytes())
    (tmp_path / "net.onnx").write_bytes(classifier())
    done = edgeloop_here("compress", tmp_path / "net.onnx", "--calibrate", data, "--out", tmp_path / "small", "--normalize", "unit")
    assert words in sentence(done, 3) and not (tmp_path / "small").exists() and not list(tmp_path.glob(".small*"))


def test_the_importers_code_is_in_the_keys_of_imported_recipes(pictures: Path, tmp_path: Path) -> None:
    from edgeloop_pipeline.recipe.project import Project
    from edgeloop_pipeline.run.cache_key import code_in_key
    from edgeloop_pipeline.stages.quantize import Quantize

    (tmp_path / "net.onnx").write_bytes(classifier())
    prepared(tmp_path / "net.onnx", pictures, tmp_path / "small", "--normalize", "unit")
    named = code_in_key(Project(load(tmp_path / "small" / "recipe.yaml")), Quantize())
    for module in ("data.original_answers", "data.datasets.recordings", "networks.imported"):
        assert f"edgeloop_pipeline.{module}" in named
    assert "edgeloop_exporters.onnx_import.convolution" in named
