"""Fourier transforms of TFLite files. A complex tensor is (..., 2) in ONNX: its real and its imaginary part."""

from __future__ import annotations

import numpy as np

from edgeloop_exporters.tflite_import.table import Step, Unsupported, rule

TYPES = {0: 1, 2: 6, 4: 7, 6: 9}  # TFLite's number of a type → ONNX's: float, int32, int64, bool


@rule("RFFT2D")
def _rfft(step: Step) -> None:
    lengths, shape = step.ints(1), step.shape(0)
    if lengths[0] != 1 or shape[-2] != 1:
        raise Unsupported("along two axes")
    write = step.write
    parts = write.node("Unsqueeze", [write.get(step.inputs[0]), write.ints(-1)])
    axis = write.constant(np.array(len(shape) - 1, np.int64))
    length = write.constant(np.array(lengths[1], np.int64))
    write.put_complex(step.outputs[0], write.node("DFT", [parts, length, axis], onesided=1))


@rule("COMPLEX_ABS")
def _magnitude(step: Step) -> None:
    write, x = step.write, step.write.get(step.inputs[0])
    total = write.node("ReduceSum", [write.node("Mul", [x, x]), write.ints(-1)], keepdims=0)
    step.put(write.node("Sqrt", [total]), False)


@rule("REAL", "IMAG", "CAST")
def _cast(step: Step) -> None:
    write = step.write
    if step.inputs[0] in write.complex:
        part = write.constant(np.array(int(step.op == "IMAG"), np.int64))
        return step.put(write.node("Gather", [write.get(step.inputs[0]), part], axis=-1), False)
    kind = TYPES.get(int(step.option("outDataType")))
    if kind is None or step.op != "CAST":
        raise Unsupported("to such a type")
    return step.put(write.node("Cast", [write.get(step.inputs[0])], to=kind), False)


@rule("REVERSE_V2")
def _reverse(step: Step) -> None:
    write, axes = step.write, step.axes(1)
    ends = [write.ints(*[value] * len(axes)) for value in (-1, -(1 << 40))]
    turned = [*ends, write.ints(*axes), write.ints(*[-1] * len(axes))]
    step.put(write.node("Slice", [write.get(step.inputs[0]), *turned]), False)
