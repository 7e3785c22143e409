"""What the files of a run say of themselves."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from commands import HERE
from edgeloop_contract.preprocessing import Colour, Counts, Grayscale, Resize, Window
from edgeloop_exporters.model_files.description import Metadata, ModelFile
from edgeloop_exporters.model_files.reading import read
from edgeloop_pipeline.bundling.file_metadata import growth, metadata_of, stamped
from edgeloop_pipeline.data.types import PreparedSplits, Samples

GOLDEN = HERE / "goldens" / "v0.3" / "exercise_watch-1.edgeloop"


def model_files(bundle: Path, folder: Path) -> list[ModelFile]:
    with zipfile.ZipFile(bundle) as archive:
        names = [name for name in archive.namelist() if name.startswith("models/")]
        archive.extractall(folder, names)
    return [read(folder / name) for name in names]


def test_the_files_of_a_run_carry_labels_preprocessing_and_version(tiny_run: dict[str, Any], tmp_path: Path) -> None:
    files = model_files(Path(tiny_run["bundle"]), tmp_path)
    assert len(files) == 4
    for file in files:
        said = file.metadata
        assert (said.name, said.version, said.task) == ("tiny", "1", "classification")
        assert said.labels == ("slow", "fast", "still") and said.description == "Classifies into 3 labels; its scores are logits."
        assert said.preprocessing == (Window(32, 32), Counts([0.001, 0.002]))
        assert file.outputs[0].scores == "logits"
        assert "/" not in "".join(said.more.values())  # no path of this machine
    measured = {name: size for s in tiny_run["stages"] if s["name"] == "export" for name, size in s["metrics"]["bytes"].items()}
    assert sorted(measured.values()) == sorted(Path(file.path).stat().st_size for file in files)


def splits(task: str, labels: tuple[str, ...], truth: np.ndarray) -> PreparedSplits:
    rows = np.arange(len(truth))
    samples = Samples(np.zeros((len(truth), 8, 8, 3), np.uint8), truth, rows, rows.astype(str))
    return PreparedSplits(labels, samples, samples, samples, task=task)


REGRESSION = splits("regression", ("hz", "db"), np.array([[1.0, 10.0], [3.0, 30.0]], np.float32))
ANOMALY = splits("anomaly", ("normal", "odd"), np.zeros(4, np.int64))
CLASSES = splits("classification", ("cat", "dog"), np.array([0, 1]))


def test_each_task_says_what_its_scores_are() -> None:
    regression = metadata_of(REGRESSION, [], "pitch", 3)
    assert regression.labels == ("hz", "db") and {k: json.loads(v) for k, v in regression.more.items()} == {
        "score_mean": [2, 20], "score_std": [1, 10],
    }  # fmt: skip
    assert metadata_of(ANOMALY, [], "odd", 3).labels == ()
    assert "logits" in metadata_of(CLASSES, [], "pets", 3).description


def test_integer_inputs_carry_the_normalization_that_gives_them(tmp_path: Path) -> None:
    """As readers of TFLite metadata compute the input: normalize the count, then quantize it by the tensor's own scale."""
    with zipfile.ZipFile(GOLDEN) as bundle:
        content = bundle.read("models/tflite-int8.tflite")
    path, scale, zero_point = tmp_path / "m.tflite", 1 / 64.5, 127
    for steps, colour in (
        ([Resize(8, 8)], "rgb"),
        ([Colour()], "rgb"),
        ([Window(8, 8)], None),
        ([Grayscale(), Resize(8, 8)], "grey"),
    ):
        said = metadata_of(CLASSES, steps, "pets", 1)
        shape = (8, 8, 1 if colour == "grey" else 3)
        path.write_bytes(stamped(content, "tflite", said, shape, (scale, zero_point)))
        (entry,) = read(path).metadata.inputs
        assert entry.colour == colour and entry.normalization is not None
        counts = np.arange(256)
        normalized = (counts - entry.normalization.mean[0]) / entry.normalization.std[0]
        assert (np.rint(normalized / scale) + zero_point - 128 == counts - 128).all()
        path.write_bytes(stamped(content, "tflite", said, shape))
        (entry,) = read(path).metadata.inputs
        assert entry.normalization is not None and (entry.normalization.mean, entry.normalization.std) == ((0.0,), (1.0,))


def test_budgets_count_what_is_written_later() -> None:
    with zipfile.ZipFile(GOLDEN) as bundle:
        for runtime in ("onnx", "tflite"):
            content = bundle.read(f"models/{runtime}-int8.{runtime}")
            most = growth(content, runtime, CLASSES, [Window(100, 50)])
            for name, version in (("a", 1), ("n" * 64, 10**6)):
                said: Metadata = metadata_of(CLASSES, [Window(100, 50)], name, version)
                assert 0 < len(stamped(content, runtime, said, (8, 8, 3))) - len(content) <= most < 1500
