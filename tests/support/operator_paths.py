"""What a network with one operator can become: int8 files of both runtimes, and a network with fewer channels. Only what ran counts."""

from __future__ import annotations

import copy
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from edgeloop_contract.errors import EdgeloopError
from edgeloop_exporters.convert import to_onnx, to_tflite
from edgeloop_exporters.graph import fold_batchnorm, trace
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.onnx_import import read_onnx
from edgeloop_exporters.quantization import choose_ranges, insert, plan, set_mode, settle
from edgeloop_exporters.quiet import quiet
from edgeloop_exporters.simplification import simplify
from edgeloop_pipeline.compression.pruning import Channels, remove_channels
from operator_parts import PARTS, Part

SAMPLES, WIDTH, CHANNELS = 24, 8, 3
LIMIT = 120
ALIKE = 0.03  # of the answers' energy: what the runtime's file and the quantized graph may differ by


@dataclass(frozen=True)
class Paths:
    """`yes`; `float`: only as a float file; `no`. `prune`: whether the layer before the operator lost channels."""

    onnx: str
    tflite: str
    prune: str
    why: str = ""

    @property
    def cells(self) -> str:
        return f"{self.onnx} | {self.tflite} | {self.prune}"


def model_of(part: Part) -> bytes:
    """conv → operator → conv or dense. The size behind the operator is what ONNX Runtime says."""
    rng = np.random.default_rng(3)

    def weights(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * 0.3).astype(np.float32)

    spread, kernel = ([WIDTH, WIDTH], [3, 3]) if part.picture else ([12], [3])
    constants = {"given_w": weights(8, CHANNELS, *kernel), "given_b": weights(8), **part.constants}
    first = helper.make_node("Conv", ["given", "given_w", "given_b"], ["a"], pads=[1] * 2 * len(kernel), name="first")
    nodes = [first, *part.nodes]

    def written(nodes: list[Any], output: str) -> bytes:
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("given", TensorProto.FLOAT, ["n", CHANNELS, *spread])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], [numpy_helper.from_array(v, k) for k, v in constants.items()],
        )  # fmt: skip
        return bytes(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", part.opset)], ir_version=10).SerializeToString()
        )

    session = onnxruntime.InferenceSession(written(nodes, "b"), providers=["CPUExecutionProvider"])
    shape = session.run(None, {"given": np.ones((1, CHANNELS, *spread), np.float32)})[0].shape
    if len(shape) == 4 and shape[1] > 1 and shape[2] > 2 and shape[3] > 2:
        constants |= {"end_w": weights(5, shape[1], 3, 3), "end_b": weights(5)}
        tail = [helper.make_node("Conv", ["b", "end_w", "end_b"], ["end_c"]), helper.make_node("GlobalAveragePool", ["end_c"], ["end_d"]),
                helper.make_node("Flatten", ["end_d"], ["end"])]  # fmt: skip
    elif len(shape) == 3:  # words or steps: their mean
        constants |= {"end_w": weights(shape[1], 5), "end_b": weights(5)}
        tail = [helper.make_node("GlobalAveragePool", ["b"], ["end_c"]), helper.make_node("Flatten", ["end_c"], ["end_d"]),
                helper.make_node("Gemm", ["end_d", "end_w", "end_b"], ["end"])]  # fmt: skip
    else:
        constants |= {"end_w": weights(int(np.prod(shape[1:])), 5), "end_b": weights(5)}
        tail = [helper.make_node("Flatten", ["b"], ["end_c"]), helper.make_node("Gemm", ["end_c", "end_w", "end_b"], ["end"])]
    return written([*nodes, *tail], "end")


def tried(name: str, told: Callable[[Paths], None] = lambda _: None) -> Paths:
    """The network of an operator on its ways; `told`: hears of each as it is known. Raises what the import raises: an operator that is refused has no ways."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        folder, part = Path(place), PARTS[name]
        (folder / "net.onnx").write_bytes(model_of(part))
        network = read_onnx(folder / "net.onnx").network
        shape = (WIDTH, WIDTH, CHANNELS) if part.picture else (12, CHANNELS)
        raw = np.random.default_rng(1).normal(size=(SAMPLES, *shape)).astype(np.float32)
        x = torch.from_numpy(np.moveaxis(raw, -1, 1).copy())
        reasons: list[str] = []
        found = Paths(_way(network, "onnx", x, raw, folder, reasons), "no", "no", "took too long")
        told(found)
        found = replace(found, tflite=_way(network, "tflite", x, raw, folder, reasons))
        told(found)
        found = replace(found, prune=_pruned(network, x, reasons), why="; ".join(reasons))
        told(found)
        return found


def tried_apart(name: str) -> Paths:
    """The same in a process of its own: converters keep memory, and a pruning that hangs ends after LIMIT seconds."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: tried(name, sender.send))
    process.start()
    sender.close()
    found, seen = Paths("no", "no", "no", f"took longer than {LIMIT} s"), False
    try:
        while receiver.poll(LIMIT):
            found, seen = receiver.recv(), True
    except EOFError as error:  # it is ready, or failed
        if not seen:
            raise RuntimeError(f"{name}: its process failed") from error
        return found
    finally:
        process.kill()
        process.join()
    return found


def _way(network: fx.GraphModule, runtime: str, x: torch.Tensor, raw: np.ndarray, folder: Path, reasons: list[str]) -> str:
    for quantized in (True, False):
        try:
            graph = _graph(network, x, quantized)
            _write(graph, runtime, raw, folder / f"net.{runtime}", quantized)
            with torch.no_grad():
                wanted = graph(x).numpy()
            found = _run(runtime, folder / f"net.{runtime}", raw)
            lost = float(((found - wanted) ** 2).sum() / max((wanted**2).sum(), 1e-12))
            if lost <= ALIKE:
                return "yes" if quantized else "float"
            reasons.append(f"{runtime} {'int8' if quantized else 'float'}: {lost:.2g} of the energy differs")
        except EdgeloopError as error:
            reasons.append(f"{runtime}: {' '.join(str(error).split())[:160]}")
        except Exception as error:  # a table says no, whatever it was; the reason is printed
            reasons.append(f"{runtime}: {type(error).__name__} {' '.join(str(error).split())[:160]}")
    return "no"


def _graph(network: fx.GraphModule, x: torch.Tensor, quantized: bool) -> fx.GraphModule:
    graph = trace(copy.deepcopy(network), x[:2])
    simplify(graph)
    fold_batchnorm(graph)
    if quantized:
        decided = plan(graph, None)
        insert(graph, decided)
        set_mode(graph, "observe", "off")
        with torch.no_grad():
            graph(x)
        choose_ranges(graph)
        settle(graph)
        set_mode(graph, "quantize", "quantize")
    return graph


def _write(graph: fx.GraphModule, runtime: str, raw: np.ndarray, path: Path, quantized: bool) -> None:
    normalization = InputNormalization("float32", (0.0,) * CHANNELS, (1.0,) * CHANNELS)
    (to_onnx if runtime == "onnx" else to_tflite)(graph, normalization, raw.shape[1:], path, quantized=quantized)


def _run(runtime: str, path: Path, raw: np.ndarray) -> np.ndarray:
    if runtime == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {session.get_inputs()[0].name: raw})[0])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    entry, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for sample in raw:
        interpreter.set_tensor(entry["index"], sample[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(answer["index"])[0])
    found = np.array(rows).astype(np.float32)
    scale, zero = answer["quantization"]
    return (found - zero) * scale if scale else found


def _pruned(network: fx.GraphModule, x: torch.Tensor, reasons: list[str]) -> str:
    smaller = copy.deepcopy(network)
    try:
        remove_channels(smaller, x[:2], Channels(keep=0.5, round_to=1, may_do_nothing=True))
    except Exception as error:  # pruning's libraries raise anything
        reasons.append(f"prune: {' '.join(str(error).split())[:160]}")
        return "no"
    first = smaller.get_submodule("first")
    assert isinstance(first, nn.Conv1d | nn.Conv2d)
    return "yes" if first.out_channels < 8 else "kept"
