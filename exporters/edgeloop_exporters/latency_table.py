"""What an integer layer of given sizes takes on this machine's ONNX Runtime: measured alone, remembered, added up.

Multiply-adds say little (an odd number of channels can be slower than all of them); a table of measured layers says more
(Yang et al. 2018). What a whole network takes is measured as well, and the two are brought together by a factor.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

RUNS, WARM_UP = 60, 10


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer as it runs: sizes of its input without the batch (channels first), and of itself."""

    input: tuple[int, ...]
    outputs: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1


def layers_of(network: nn.Module, sample: Tensor) -> list[Layer]:
    """Every convolution and linear layer that runs, in order. `sample`: (1, channels, ...)."""
    found: list[Layer] = []

    def see(module: Any, given: Any, _: object) -> None:
        shape = tuple(given[0].shape[1:])
        if isinstance(module, nn.Linear):
            found.append(Layer((module.in_features,), module.out_features))
        else:
            padding = module.padding if isinstance(module.padding, tuple) else tuple((k - 1) // 2 for k in module.kernel_size)
            sizes = (module.kernel_size, module.stride, padding, module.dilation)
            found.append(Layer(shape, module.out_channels, *sizes, groups=module.groups))

    chosen = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    hooks = [m.register_forward_hook(see) for m in chosen]
    try:
        with torch.no_grad():
            network.eval()(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass
class Table:
    """Measured microseconds of each layer, one thread, batch 1."""

    measured: dict[Layer, float] = field(default_factory=dict)

    def microseconds(self, layers: list[Layer]) -> float:
        for layer in layers:
            if layer not in self.measured:
                self.measured[layer] = _measure(layer)
        return sum(self.measured[layer] for layer in layers)


def _measure(layer: Layer) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_model(layer), options, providers=["CPUExecutionProvider"])
    x = {"x": np.random.default_rng(0).integers(0, 255, (1, *layer.input)).astype(np.uint8)}
    taken = []
    for _ in range(WARM_UP + RUNS):
        start = time.perf_counter()
        session.run(None, x)
        taken.append(time.perf_counter() - start)
    return 1e6 * statistics.median(taken[WARM_UP:])


def _model(layer: Layer) -> bytes:
    """The layer alone, uint8 to uint8 with int8 weights."""
    rng = np.random.default_rng(0)
    shape = (layer.outputs, layer.input[0] // layer.groups, *layer.kernel)
    weight = rng.integers(-127, 128, shape).astype(np.int8)
    if not layer.kernel:
        weight = weight.T
    constants = {
        "s": np.float32(0.02), "z": np.uint8(128), "w": weight, "ws": np.full(layer.outputs, 0.01, np.float32),
        "wz": np.zeros(layer.outputs, np.int8), "b": np.zeros(layer.outputs, np.int32),
    }  # fmt: skip
    quantized = ["x", "s", "z", "w", "ws", "wz", "s", "z"]
    if layer.kernel:
        attributes = {
            "kernel_shape": layer.kernel, "strides": layer.stride, "pads": (*layer.padding, *layer.padding),
            "dilations": layer.dilation, "group": layer.groups,
        }  # fmt: skip
        node = helper.make_node("QLinearConv", [*quantized, "b"], ["y"], **attributes)
    else:
        node = helper.make_node("QLinearMatMul", quantized, ["y"])
    graph = helper.make_graph(
        [node], "layer", [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, *layer.input))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())
