"""`edgeloop pack`: files that exist already become bundles, as they are; what is not known is absent, and said."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from bundles import F, accumulator, onnx_file, two_inputs
from commands import command, edgeloop_here, sentence
from edgeloop_agent.engine import Engine
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import BundleError
from serving import GOLDEN, RECORDING

NAMES = ("onnx-int8", "onnx-float32", "tflite-int8", "tflite-float32")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The golden bundle's model files, as somebody has them who has no bundle."""
    folder = tmp_path_factory.mktemp("files")
    with Bundle.open(GOLDEN) as bundle:
        variants = {v.name: v for v in bundle.manifest.variants}
        for name in NAMES:
            (folder / f"{name}.{variants[name].runtime}").write_bytes(bundle.read(variants[name].file))
    return {name: next(folder.glob(f"{name}.*")) for name in NAMES}


def packed(*words: object) -> dict:
    done = edgeloop_here("pack", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_several_files_of_one_model_answer_as_the_bundle_that_they_come_from(files: dict[str, Path], tmp_path: Path) -> None:
    with Bundle.open(GOLDEN) as golden:
        manifest = golden.manifest
    import msgspec

    steps, labels = msgspec.json.encode(manifest.preprocessing).decode(), ",".join(manifest.task.labels)
    (tmp_path / "data" / manifest.task.labels[0]).mkdir(parents=True)
    (tmp_path / "data" / manifest.task.labels[0] / "one.csv").write_bytes(RECORDING.read_bytes())
    out = tmp_path / "watch.edgeloop"
    said = packed(
        *files.values(),
        "--out",
        out,
        "--labels",
        labels,
        "--preprocess",
        steps,
        "--scores",
        "logits",
        "--samples",
        tmp_path / "data",
    )
    assert said["variants"] == [*NAMES] and said["schema"] == 2
    shown = command("edgeloop-agent", "inspect", out).stdout
    assert f"classification: {', '.join(manifest.task.labels)}" in shown and "not known: accuracy" in shown
    for name in NAMES:
        words = ("--source", RECORDING, "--variant", name, "--state", tmp_path / "s")
        mine, theirs = (command("edgeloop-agent", "run", bundle, *words) for bundle in (out, GOLDEN))
        assert mine.returncode == theirs.returncode == 0, mine.stderr
        rows = [[json.loads(line) for line in done.stdout.splitlines()] for done in (mine, theirs)]
        assert [row["probabilities"] for row in rows[0]] == [row["probabilities"] for row in rows[1]] and rows[0]
    config = tmp_path / "agent.toml"
    config.write_text(f'bundles = ["{GOLDEN}"]\nstate = "state"\n')
    from edgeloop_agent.updates.canary import CanaryResult, try_out

    result = try_out(config, out, 60)
    assert isinstance(result, CanaryResult) and result.samples == 1 and result.steps <= 1


def test_what_nobody_said_is_absent_and_a_device_checks_the_structure(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "plain.edgeloop"
    said = packed(files["tflite-int8"], "--out", out)
    assert any("structure only" in line for line in said["unknown"]) and any("accuracy" in line for line in said["unknown"])
    with Bundle.open(out) as bundle:
        manifest = bundle.manifest
        assert manifest.canary is None and manifest.provenance is None and manifest.drift is None and manifest.name == "tflite-int8"
        assert bundle.read(manifest.variants[0].file) == files["tflite-int8"].read_bytes(), "the file goes in as it is"
        engine = Engine(bundle, VariantChoice(manifest.variants[0].name, 1, ""))
    sample = np.random.default_rng(0).integers(-9999, 9999, (1, *manifest.sample.shape)).astype(manifest.sample.dtype)
    with Bundle.open(GOLDEN) as golden:
        bare = Engine(golden, VariantChoice("tflite-int8", 1, ""))
    (answer,) = engine.outputs({"input": sample}, {}).values()
    assert np.array_equal(answer, bare.scored(sample).scores)
    from edgeloop_agent.updates.canary import CanaryResult, try_out

    (tmp_path / "agent.toml").write_text(f'bundles = ["{out}"]\nstate = "state"\n')
    result = try_out(tmp_path / "agent.toml", out, 60)
    assert isinstance(result, CanaryResult) and result.samples == 0


def keyword(path: Path) -> Path:
    """Softmax inside, channels first, one size open: what exporters write. The first of three scores grows with the mean."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]), helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]), helper.make_node("Softmax", ["f"], ["p"], axis=-1),
    ]  # fmt: skip
    weights = np.zeros((3, 3, 1, 1), np.float32)
    weights[0] = 4.0
    path.write_bytes(onnx_file(nodes, [("x", F, ["n", 3, 8, 8])], [("p", F, ["n", 3])], w=weights))
    return path


def test_probabilities_are_given_as_they_are(tmp_path: Path) -> None:
    """A softmax of a softmax once made 0.1975 of 0.996."""
    from PIL import Image

    model = keyword(tmp_path / "keyword.onnx")
    picture = np.full((8, 8, 3), 128, np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    said = packed(model, "--out", tmp_path / "a.edgeloop", "--labels", "yes,no,other")
    assert any("probabilities" in fact for fact in said["facts"])
    done = command("edgeloop-agent", "run", tmp_path / "a.edgeloop", "--source", tmp_path / "a.png", "--state", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    session = onnxruntime.InferenceSession(str(model))
    (wanted,) = session.run(None, {"x": picture.transpose(2, 0, 1)[None].astype(np.float32)})[0]
    assert row["label"] == "yes" and list(row["probabilities"].values()) == pytest.approx(wanted.tolist(), abs=1e-4)


def test_an_open_first_size_is_the_batch_only_where_it_is_said_to_be_1(tmp_path: Path) -> None:
    """Sound of any length, frames of any number: sizes that are said are the sample's, and none of them is lost."""
    for shape, open_sizes, whole in (("x=6", ["n"], [6]), ("x=5x4", ["n", 4], [5, 4]), ("x=1x4", ["n", 4], [4])):
        model = tmp_path / "m.onnx"
        model.write_bytes(onnx_file([helper.make_node("Identity", ["x"], ["y"])], [("x", F, open_sizes)], [("y", F, open_sizes)]))
        packed(model, "--out", tmp_path / "a.edgeloop", "--shape", shape)
        with Bundle.open(tmp_path / "a.edgeloop") as bundle:
            engine = Engine(bundle, VariantChoice("onnx-float32", 1, "test"))
        assert bundle.manifest.sample.shape == whole
        (answer,) = engine.answers(np.arange(np.prod(whole), dtype=np.float32).reshape(whole))
        np.testing.assert_array_equal(answer.tensors["y"].ravel(), np.arange(np.prod(whole)))


def state_file(path: Path) -> Path:
    nodes = [helper.make_node("Add", ["x", "h"], ["y"]), helper.make_node("Identity", ["y"], ["hn"])]
    path.write_bytes(onnx_file(nodes, [("x", F, [1, 2]), ("h", F, [1, 2])], [("y", F, [1, 2]), ("hn", F, [1, 2])]))
    return path


def test_state_by_its_pair(tmp_path: Path) -> None:
    packed(state_file(tmp_path / "gru.onnx"), "--out", tmp_path / "a.edgeloop", "--state", "h=hn")
    with Bundle.open(tmp_path / "a.edgeloop") as bundle:
        engine = Engine(bundle, VariantChoice("onnx-float32", 1, ""))
    memory = engine.new_memory()
    sums = [engine.outputs({"input": np.full((1, 2), v, np.float32)}, memory)["y"].tolist() for v in (1, 2)]
    assert sums == [[[1, 1]], [[3, 3]]]


def pickled(folder: Path) -> Path:
    (folder / "m.onnx").write_bytes(pickle.dumps({"a": 1}))
    return folder / "m.onnx"


def cut(folder: Path) -> Path:
    keyword(folder / "m.onnx").write_bytes((folder / "m.onnx").read_bytes()[:-40])
    return folder / "m.onnx"


def cranes(folder: Path) -> Path:
    """ImageNet's own labels, as public files carry them."""
    import onnx

    model = onnx.load(keyword(folder / "m.onnx"))
    model.metadata_props.add(key="names", value="{0: 'crane', 1: 'cock', 2: 'crane'}")
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def data(folder: Path) -> Path:
    np.save(folder / "wrong.npy", np.zeros((3, 3)))
    return folder / "wrong.npy"


BAD: dict[str, tuple[Callable[[Path], Path], tuple[object, ...], int, str]] = {
    "a pickle": (pickled, (), 4, "is a pickle"),
    "half a file": (cut, (), 4, "not a whole ONNX file"),
    "no file": (lambda folder: folder / "none.onnx", (), 3, "cannot be read"),
    "labels that do not fit": (lambda f: keyword(f / "m.onnx"), ("--labels", "a,b"), 2, "2 labels, and no output of so many"),
    "a label twice in the file": (cranes, (), 2, "'crane' 2 times; give different ones with --labels, or --task tensors"),
    "a label twice": (lambda f: keyword(f / "m.onnx"), ("--labels", "a,b,a"), 2, "twice"),
    "scores of what": (lambda f: keyword(f / "m.onnx"), ("--task", "classification"), 2, "--labels"),
    "an unknown output": (lambda f: keyword(f / "m.onnx"), ("--labels", "a,b,c", "--output", "z"), 2, "the model gives p"),
    "an unknown step": (lambda f: keyword(f / "m.onnx"), ("--preprocess", "[{step: magic}]"), 2, "magic"),
    "no YAML": (lambda f: keyword(f / "m.onnx"), ("--preprocess", "[{"), 2, "--preprocess"),
    "steps of no input": (lambda f: keyword(f / "m.onnx"), ("--preprocess", "z=[{step: colour}]"), 2, "the model's inputs are x"),
    "a state of nothing": (lambda f: state_file(f / "m.onnx"), ("--state", "h=z"), 2, "inputs are x, h; outputs are y, hn"),
    "state that is not said": (lambda f: state_file(f / "m.onnx"), (), 2, "say --state h=hn, or --no-states"),
    "a constant too short": (lambda f: state_file(f / "m.onnx"), ("--no-states", "--constant", "h=1"), 2, "needs 2"),
    "all constant": (
        lambda f: state_file(f / "m.onnx"), ("--no-states", "--constant", "h=1,2", "--constant", "x=1,2"), 4, "no input is left"),
    "samples of another shape": (lambda f: keyword(f / "m.onnx"), ("--samples", data), 3, "wrong.npy: "),
    "no samples": (lambda f: keyword(f / "m.onnx"), ("--samples", "nowhere"), 3, "no such file or folder"),
    "a size of no input": (lambda f: keyword(f / "m.onnx"), ("--shape", "z=1x4"), 2, "no such input; the model's inputs are x"),
    "a constant of no input": (lambda f: keyword(f / "m.onnx"), ("--constant", "z=1"), 2, "no such input; the model's inputs are x"),
    "a size that the file has not": (lambda f: keyword(f / "m.onnx"), ("--shape", "x=1x9x9"), 2, "the file has "),
    "another ending": (lambda f: keyword(f / "m.onnx"), ("--out", "a.zip"), 2, "ends in .edgeloop"),
    "a folder that is not there": (lambda f: keyword(f / "m.onnx"), ("--out", "nowhere/a.edgeloop"), 2, "make it first"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    make, words, code, said = BAD[name]
    given = [word(tmp_path) if callable(word) else word for word in words]
    done = edgeloop_here("pack", make(tmp_path), "--out", tmp_path / "a.edgeloop", *given)
    assert said in sentence(done, code) and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.edgeloop*"))


def test_files_of_two_models_are_not_one_bundle(files: dict[str, Path], tmp_path: Path) -> None:
    done = edgeloop_here("pack", files["onnx-int8"], keyword(tmp_path / "k.onnx"), "--out", tmp_path / "a.edgeloop")
    assert "Names and shapes do not tell" in sentence(done, 2)
    with pytest.raises(BundleError):
        Bundle.open(tmp_path / "a.edgeloop")


def test_enough_samples_are_the_drift_reference(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "few").mkdir()
    for i in range(240):
        for folder in ("many/yes", "many/no", "few"):
            if folder != "few" or i < 3:
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                np.save(
                    tmp_path / folder / f"{i:03}.npy",
                    rng.integers(0, 2 + 200 * (folder == "many/yes"), (8, 8, 3)).astype(np.float32),
                )
    model = keyword(tmp_path / "k.onnx")
    said = packed(model, "--out", tmp_path / "a.edgeloop", "--labels", "yes,no,other", "--samples", tmp_path / "many")
    assert not any("drift" in line for line in said["unknown"])
    with Bundle.open(tmp_path / "a.edgeloop") as bundle:
        drift = bundle.manifest.drift
        assert drift is not None and drift.samples == 480 and len(drift.reliability) > 0 and bundle.manifest.canary.labels
    said = packed(model, "--out", tmp_path / "b.edgeloop", "--labels", "yes,no,other", "--samples", tmp_path / "few")
    assert any("3 samples do not say" in fact for fact in said["facts"])


def test_a_server_gets_every_tensor(tmp_path: Path) -> None:
    two = two_inputs(tmp_path / "two.edgeloop")
    assert edgeloop_here("export-triton", two, tmp_path / "models").returncode == 0
    (config,) = (tmp_path / "models").rglob("config.pbtxt")
    text = config.read_text()
    assert all(f'name: "{name}"' in text for name in ("motion", "sound", "s", "p")) and "dynamic_batching" in text
    done = edgeloop_here("export-triton", accumulator(tmp_path / "sum.edgeloop"), tmp_path / "more")
    assert "has state" in sentence(done, 5)


def test_quantized_answers_are_compared_in_their_own_steps(tmp_path: Path) -> None:
    """A step of a thousandth would be a fifth of an int8 probability's: kernels of another CPU would fail the canary."""
    scale = 1 / 256
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Softmax", ["f"], ["p"], axis=-1),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["q"]),
    ]  # fmt: skip
    model = onnx_file(nodes, [("x", F, [1, 3, 1])], [("q", TensorProto.UINT8, [1, 3])], s=np.float32(scale), z=np.uint8(0))
    (tmp_path / "m.onnx").write_bytes(model)
    np.save(tmp_path / "a.npy", np.array([[1.0], [2.0], [3.0]], np.float32))
    packed(tmp_path / "m.onnx", "--out", tmp_path / "a.edgeloop", "--labels", "a,b,c", "--scores", "probabilities",
           "--samples", tmp_path / "a.npy")  # fmt: skip
    with Bundle.open(tmp_path / "a.edgeloop") as bundle:
        (golden,) = bundle.manifest.canary.golden.values()
    assert golden.step == pytest.approx(scale)
