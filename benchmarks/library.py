"""`import edgeloop` against the bare runtime: import, the first answer, a call; and what a model of named tensors costs the agent.

The model of some milliseconds is three convolutions with random weights, which this script writes; the small one is the golden
bundle of exercise_watch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent import by_turns, loop_of
from agent_api import parts_of
from bundles import F, onnx_file, two_inputs, write
from harness import Row, at_most, each, main
from serving import GOLDEN

IMPORT = "import time, numpy; s = time.perf_counter(); import edgeloop; print(time.perf_counter() - s)"
NAMES = "import time, numpy; s = time.perf_counter(); import edgeloop; edgeloop.open; print(time.perf_counter() - s)"
# Both sides print the time from the model's file to one answer, and the same with their imports; numpy and its array are there.
BARE = """
import time, sys, numpy as np
x = np.load(sys.argv[2])
began = time.perf_counter()
if sys.argv[3] == "onnx":
    import onnxruntime
else:
    from ai_edge_litert.interpreter import Interpreter
s = time.perf_counter()
if sys.argv[3] == "onnx":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(open(sys.argv[1], "rb").read(), options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: x[None]})
else:
    interpreter = Interpreter(model_content=open(sys.argv[1], "rb").read(), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[None])
    interpreter.invoke()
    interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
print(time.perf_counter() - s, time.perf_counter() - began)
"""
OURS = """
import time, sys, numpy as np
x = np.load(sys.argv[2])
began = time.perf_counter()
import edgeloop
edgeloop.open
if sys.argv[4] == "onnx":
    import onnxruntime
elif sys.argv[4] == "tflite":
    from ai_edge_litert.interpreter import Interpreter
s = time.perf_counter()
edgeloop.open(sys.argv[1], state=sys.argv[3])(x)
print(time.perf_counter() - s, time.perf_counter() - began)
"""


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, imports, first_answer, calls, named_tensors)


def best(code: str, *words: object, tries: int = 9) -> list[float]:
    """Milliseconds that fresh interpreters print, the least of each. Modules are compiled, as those of an installed package are."""
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    rows = []
    for _ in range(tries):
        words_given = [sys.executable, "-c", code, *map(str, words)]
        done = subprocess.run(words_given, capture_output=True, text=True, check=True, env=compiled)
        rows.append([1e3 * float(each) for each in done.stdout.split()])
    return [min(column) for column in zip(*rows, strict=True)]


def imports(_: bool) -> Iterator[Row]:
    yield at_most("import edgeloop, beyond numpy", round(best(IMPORT)[0], 1), "ms", 50)
    yield Row("… and the name edgeloop.open", round(best(NAMES)[0], 1), "ms")


def first_answer(quick: bool) -> Iterator[Row]:
    """From the bundle's path to an answer, its fastest variant chosen and remembered before."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, bundle in (
            ("exercise_watch", GOLDEN), ("convolutions", convolutions(folder / "conv.edgeloop")),
            ("5 M parameters", mobile(folder / "mobile.edgeloop")),
        ):  # fmt: skip
            for described, model, sample in variants_of(bundle, quick):
                one, kind = folder / f"{name}-{described.name}.edgeloop", described.runtime
                alone(bundle, described.name, one)
                (folder / "model").write_bytes(model)
                np.save(folder / "x.npy", sample)
                ours = [one, folder / "x.npy", folder / "state", kind]
                best(OURS, *ours, tries=2)
                (bare, bare_whole), (mine, whole) = best(BARE, folder / "model", folder / "x.npy", kind), best(OURS, *ours)
                what = f"{name}, {described.name}: open to answer"
                yield at_most(what, round(mine / bare, 2), f"× {bare:.1f} ms", 1.1)
                yield Row(f"{what}, imports included", round(whole / bare_whole, 2), f"× {bare_whole:.1f} ms")
        np.save(folder / "x.npy", next(iter(variants_of(GOLDEN, True)))[2])
        ours = [GOLDEN, folder / "x.npy", folder / "state", "none"]
        yield Row("exercise_watch, 4 variants: the first time, all measured", round(best(OURS, *ours, tries=1)[0]), "ms")
        yield Row("exercise_watch, 4 variants: the choice remembered", round(best(OURS, *ours)[0]), "ms")


def variants_of(bundle: Path, quick: bool) -> Iterator[tuple[Any, bytes, Any]]:
    from edgeloop_contract.archive import Bundle

    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        sample = np.zeros(manifest.sample.shape, manifest.sample.dtype)
        names = [v.name for v in manifest.variants if v.name in ("onnx-float32", "onnx-int8", "tflite-float32")]
        for name in names[:1] if quick and len(names) == 1 else names:
            described = manifest.variant(name)
            yield described, opened.read(described.file), sample.astype(described.input.dtype)


def alone(bundle: Path, variant: str, out: Path) -> None:
    """The bundle with this variant alone, as a person has it who packs one file."""
    import msgspec

    from edgeloop_contract import archive
    from edgeloop_contract.archive import Bundle

    with Bundle.open(bundle) as opened:
        only = opened.manifest.variant(variant)
        files = {only.file: opened.read(only.file)}
        manifest = msgspec.structs.replace(opened.manifest, schema=2, variants=[only], canary=None, files=archive.describe(files))
    archive.write(out, manifest, files)


def convolutions(path: Path) -> Path:
    """About 5 ms on one core, small answers: four convolutions of 64 channels on 48 × 48."""
    return of_layers(path, [(3, 64, 3, 1, 1)] + [(64, 64, 3, 1, 1)] * 3, 48)


def mobile(path: Path) -> Path:
    """The size of EfficientNet-Lite0, as networks on devices are: depthwise 3 × 3 and pointwise convolutions on 224 × 224."""
    layers, channels = [(3, 32, 3, 2, 1)], 32
    for out, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 8, (1024, 2), (1024, 1)]:
        layers += [(channels, channels, 3, stride, channels), (channels, out, 1, 1, 1)]
        channels = out
    return of_layers(path, [*layers, (1024, 1024, 1, 1, 1)], 224)


def of_layers(path: Path, layers: list[tuple[int, int, int, int, int]], size: int) -> Path:
    """A bundle of convolutions with random weights: channels in and out, kernel, stride, groups."""
    from onnx import helper

    from edgeloop_contract.manifest import Input, TensorSpec

    rng = np.random.default_rng(0)
    nodes, last, weights = [], "x", {}
    for number, (given, out, kernel, stride, groups) in enumerate(layers):
        name, fan = f"w{number}", given // groups * kernel**2
        weights[name] = rng.normal(0, (2 / fan) ** 0.5, (out, given // groups, kernel, kernel)).astype(np.float32)
        settings = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": groups}
        nodes += [
            helper.make_node("Conv", [last, name], [f"c{name}"], **settings),
            helper.make_node("Relu", [f"c{name}"], [f"r{name}"]),
        ]
        last = f"r{name}"
    nodes += [helper.make_node("GlobalAveragePool", [last], ["g"]), helper.make_node("Flatten", ["g"], ["y"])]
    model = onnx_file(nodes, [("x", F, [1, 3, size, size])], [("y", F, [1, out])], **weights)
    spec = {"dtype": "float32", "batch": "one"}
    return write(
        path, model, [Input(name="input", sample=TensorSpec(dtype="float32", shape=[3, size, size]))],
        [TensorSpec(**spec, shape=[3, size, size], tensor="x")], [TensorSpec(**spec, shape=[out], tensor="y", name="y")],
        name="convolutions",
    )  # fmt: skip


def calls(quick: bool) -> Iterator[Row]:
    import onnxruntime

    import edgeloop

    with tempfile.TemporaryDirectory() as folder:
        bundle = convolutions(Path(folder) / "conv.edgeloop")
        model = edgeloop.open(bundle, state=folder)
        ((_, content, _),) = variants_of(bundle, True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session, other = (onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]) for _ in range(2))
        sample = np.random.default_rng(0).normal(size=(3, 48, 48)).astype(np.float32)
        feed = {"x": sample[None]}
        turns = [lambda: session.run(None, feed), lambda: model(sample), lambda: other.run(None, feed)]
        bare, ours, again = by_turns(turns, 6.0 if quick else 30.0)
        yield at_most(f"a call, more than the bare {bare / 1e3:.1f} ms", round(100 * (ours / bare - 1), 2), "%", 3)
        yield Row("… a second bare session in the same turns", round(100 * (again / bare - 1), 2), "%")
        assert np.array_equal(model(sample).tensors["y"], session.run(None, feed)[0][0])
    small = edgeloop.open(GOLDEN, variant="tflite-int8", threads=1)
    _, _, inputs = parts_of(GOLDEN, "tflite-int8")
    (taken,) = by_turns([lambda: small(inputs[0])], 2.0)
    yield Row("a call on exercise_watch, whole", round(taken, 1), "µs")


def named_tensors(_: bool) -> Iterator[Row]:
    """One prepared recording through the service's loop, less the runtime's own call."""
    import onnxruntime

    from edgeloop_agent.sources import Recording

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for what, bundle, variant in (
            ("one input and one output", GOLDEN, "onnx-float32"),
            ("two inputs and two outputs", two_inputs(folder / "two.edgeloop"), "onnx-float32"),
        ):
            (content,) = [c for d, c, _ in variants_of(bundle, False) if d.name == variant]
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            loop = loop_of(bundle, variant, folder / what)
            if bundle == GOLDEN:
                sample = parts_of(bundle, variant)[2][0]
                recording, feed = Recording("a", sample), {session.get_inputs()[0].name: sample[None]}
            else:
                parts = {name: np.ones(2, np.float32) for name in ("motion", "sound")}
                recording, feed = Recording("a", None, inputs=parts), {name: values[None] for name, values in parts.items()}
            bare, ours = by_turns(
                [lambda s=session, f=feed: s.run(None, f), lambda o=loop, r=recording: o.output.write(list(o.answering.lines(r)))]
            )
            yield Row(f"the agent's overhead: {what}", round(ours - bare, 1), "µs", None, None, "≤ 30", ours - bare <= 30)


if __name__ == "__main__":
    main(measure)
