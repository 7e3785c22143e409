"""Which kernels a runtime uses, integer or float, counted in the optimised graph."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from edgeloop_agent.runtimes import RuntimeOptions, open_runtime
from edgeloop_contract.manifest import Variant
from edgeloop_exporters.figures import KernelCounts

__all__ = ["KernelCounts", "count", "reasons"]

# Everything else in an ONNX graph moves or reshapes data, or crosses between integers and floats.
ONNX_FLOAT = {
    "Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Mul", "Sub", "Div",
    "ReduceMean", "GlobalAveragePool", "AveragePool", "Relu", "Clip", "Sigmoid", "Tanh", "Softmax", "HardSigmoid",
    "HardSwish", "Gelu", "LayerNormalization", "BatchNormalization", "GRU", "LSTM", "QuickGelu",
}  # fmt: skip
CROSSINGS = {"QuantizeLinear", "DequantizeLinear", "QUANTIZE", "DEQUANTIZE", "Cast", "CAST"}
ONNX_MOVES = {"Transpose", "Pad", "Concat", "Gather", "Slice"}  # a reshape costs nothing there
TFLITE_MOVES = {
    "RESHAPE", "TRANSPOSE", "PAD", "PADV2", "SQUEEZE", "EXPAND_DIMS", "STRIDED_SLICE", "SLICE", "SHAPE", "PACK", "DELEGATE",
}  # fmt: skip
MANY_MOVES = 3  # the input's and the output's are usual


def count(variant: Variant, model: bytes) -> KernelCounts:
    """Load the model as a device would and count. Raises DeviceError when the runtime is missing."""
    return _onnx(variant, model) if variant.runtime == "onnx" else _tflite(model)


def _onnx(variant: Variant, model: bytes) -> KernelCounts:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        open_runtime(variant, model, 1, RuntimeOptions(optimised_model=str(path)))
        names = [node.op_type for node in onnx.load(str(path)).graph.node]
    integer = Counter(n for n in names if n.startswith("Q") and n not in CROSSINGS and n != "QuickGelu")
    floating = Counter(n for n in names if n in ONNX_FLOAT)
    moves = Counter(n for n in names if n in ONNX_MOVES)
    return KernelCounts(dict(integer), dict(floating), dict(Counter(n for n in names if n in CROSSINGS)), dict(moves))


def _tflite(model: bytes) -> KernelCounts:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    plain.allocate_tensors()
    dtypes = {t["index"]: t["dtype"].__name__ for t in plain.get_tensor_details()}
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    crossings: Counter[str] = Counter()
    moves: Counter[str] = Counter()
    for operation in plain._get_ops_details():
        name = operation["op_name"]
        if name in CROSSINGS:
            crossings[name] += 1
        elif name in TFLITE_MOVES:
            moves[name] += 1
        else:
            is_float = any(dtypes.get(int(i)) == "float32" for i in operation["outputs"])
            (floating if is_float else integer)[name] += 1
    default = Interpreter(model_content=model)
    default.allocate_tensors()
    names = [o["op_name"] for o in default._get_ops_details()]
    delegated = "DELEGATE" in names
    note = f"{names.count('DELEGATE')} XNNPACK partitions" if delegated else "not delegated to XNNPACK"
    return KernelCounts(dict(integer), dict(floating), dict(crossings), dict(moves), note, delegated)


def reasons(kernels: KernelCounts, int8: bool, left: int, anyway: int = 0) -> list[str]:
    """Why an int8 model may be slow here, in words. `left`: how many layers with weights were left in float on purpose; `anyway`:
    how many that make boxes or a spectrum are float in every file.
    """
    if not int8:
        return []
    sentences: list[Any] = []
    if left:
        sentences.append(
            f"layers left in float, because int8 loses too much there: {left}; a lower floor or max_float_layers leaves fewer"
        )
    heavy = {
        op: count
        for op, count in kernels.floating.items()
        if op.startswith(("Conv", "FusedConv", "Gemm", "MatMul", "CONV", "FULLY", "DEPTHWISE", "TRANSPOSE_CONV"))
    }
    if sum(heavy.values()) > left + anyway:
        sentences.append(f"{', '.join(heavy)} still run in float: this runtime has no integer kernel for their form")
    transposes = sum(n for op, n in kernels.moves.items() if op.upper() == "TRANSPOSE")
    if transposes >= MANY_MOVES:
        sentences.append(f"{transposes} transposes move data between layouts around layers that the converter left channels first")
    if not kernels.delegated:
        sentences.append("the interpreter did not hand the graph to XNNPACK, and its own kernels are slow")
    return sentences
