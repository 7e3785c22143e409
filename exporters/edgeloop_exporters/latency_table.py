"""Latency of integer layers on ONNX Runtime, here or on a device: each layer size is measured once, and a network is their sum.

Multiply-adds predict little (an odd number of channels can be slower than all of them); a table of measured layers predicts more
(Yang et al. 2018). The latency of a whole network is measured as well, and a factor fits the sum to it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract.errors import DeviceError
from edgeloop_exporters.onnx_columns import columns_as_channels

__all__ = ["LatencyTable", "Layer", "layers_of", "model_of"]

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

    def __str__(self) -> str:
        """Such as '16x28x28 to 24, k3x3 s1x1 p1x1 d1x1 g1': what a probe's variants are called."""
        sizes = ("k", self.kernel), ("s", self.stride), ("p", self.padding), ("d", self.dilation)
        rest = "".join(f" {letter}{'x'.join(map(str, values))}" for letter, values in sizes if values)
        return f"{'x'.join(map(str, self.input))} to {self.outputs},{rest} g{self.groups}"

    @classmethod
    def parse(cls, text: str) -> Layer:
        """The inverse of `str`. Raises ValueError."""
        given, _, rest = text.partition(", ")
        shape, _, outputs = given.partition(" to ")
        values = {word[0]: tuple(int(n) for n in word[1:].split("x")) for word in rest.split()}
        kernel, stride, padding, dilation = (values.get(letter, ()) for letter in "kspd")
        return cls(tuple(int(n) for n in shape.split("x")), int(outputs), kernel, stride, padding, dilation, values["g"][0])

    def covers(self, other: Layer) -> bool:
        """Whether `other` is the same kind of layer and in no size larger."""
        same = (self.kernel, self.stride, self.padding, self.dilation, self.input[1:]) == (
            other.kernel, other.stride, other.padding, other.dilation, other.input[1:]
        )  # fmt: skip
        depthwise, others = (layer.groups == layer.input[0] for layer in (self, other))
        alike = depthwise == others and (depthwise or self.groups == other.groups)
        return same and alike and self.input[0] >= other.input[0] and self.outputs >= other.outputs


def layers_of(network: nn.Module, sample: Tensor) -> list[Layer]:
    """Every convolution and linear layer that runs, in order. `sample`: (1, channels, ...)."""
    layers: list[Layer] = []

    def see(module: Any, given: Any, _: object) -> None:
        shape = tuple(given[0].shape[1:])
        if isinstance(module, nn.Linear):
            layers.append(Layer((module.in_features,), module.out_features))
        else:
            padding = module.padding if isinstance(module.padding, tuple) else tuple((k - 1) // 2 for k in module.kernel_size)
            sizes = (module.kernel_size, module.stride, padding, module.dilation)
            layers.append(Layer(shape, module.out_channels, *sizes, groups=module.groups))

    chosen = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    hooks = [m.register_forward_hook(see) for m in chosen]
    try:
        with torch.no_grad():
            network.eval()(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


@dataclass
class LatencyTable:
    """Measured microseconds of each layer, batch 1; on this machine as they are asked for, or as another one measured them."""

    measured: dict[Layer, float] = field(default_factory=dict)
    machine: str = ""  # the machine that measured; '' is this one

    def microseconds(self, layers: list[Layer]) -> float:
        """Sum over `layers`. Raises DeviceError for a layer that the other machine did not measure."""
        return sum(self._one(layer) for layer in layers)

    def _one(self, layer: Layer) -> float:
        if layer not in self.measured:
            self.measured[layer] = self._next_larger(layer) if self.machine else _measure(layer)
        return self.measured[layer]

    def _next_larger(self, layer: Layer) -> float:
        """Latency of the cheapest measured layer that covers this one: an upper estimate."""
        latencies = [took for known, took in self.measured.items() if known.covers(layer)]
        if not latencies:
            raise DeviceError(
                f"{self.machine} has not measured a layer of {layer}; make a new probe of this recipe and measure it there:"
                " edgeloop probe RECIPE"
            )
        return min(latencies)


def _measure(layer: Layer) -> float:
    session = session_of(model_of(layer))
    x = {"x": np.random.default_rng(0).integers(0, 255, (1, *layer.input)).astype(np.uint8)}
    taken = []
    for _ in range(WARM_UP + RUNS):
        start = time.perf_counter()
        session.run(None, x)
        taken.append(time.perf_counter() - start)
    return 1e6 * statistics.median(taken[WARM_UP:])


def model_of(layer: Layer) -> bytes:
    """The layer alone, uint8 to uint8 with int8 weights."""
    rng = np.random.default_rng(0)
    shape = (layer.outputs, layer.input[0] // layer.groups, *layer.kernel)
    weight = rng.integers(-127, 128, shape).astype(np.int8)
    if not layer.kernel:
        weight = weight.T
    constants = {
        "s": np.float32(0.02), "z": np.uint8(128), "w": weight, "ws": np.full(layer.outputs, 0.01, np.float32),
        "wz": np.zeros(layer.outputs, np.int8), "b": np.zeros(layer.outputs, np.float32),
    }  # fmt: skip
    if layer.kernel:
        attributes = {
            "kernel_shape": layer.kernel, "strides": layer.stride, "pads": (*layer.padding, *layer.padding),
            "dilations": layer.dilation, "group": layer.groups,
        }  # fmt: skip
        nodes = [
            helper.make_node("DequantizeLinear", ["x", "s", "z"], ["x_floats"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["w_floats"], axis=0),
            helper.make_node("Conv", ["x_floats", "w_floats", "b"], ["y_floats"], **attributes),
            helper.make_node("QuantizeLinear", ["y_floats", "s", "z"], ["y"]),
        ]
    else:
        del constants["b"]
        nodes = [helper.make_node("QLinearMatMul", ["x", "s", "z", "w", "ws", "wz", "s", "z"], ["y"])]
    graph = helper.make_graph(
        nodes, "layer", [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, *layer.input))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    columns_as_channels(model)  # as the files that ship are
    return bytes(model.SerializeToString())
