"""ONNX operators as kinds of the common graph."""

from __future__ import annotations

from edgeloop_exporters.model_files.graph import Kind

__all__ = ["FEEDS", "KINDS", "OPERANDS"]


def _table() -> dict[str, Kind]:
    kinds: dict[Kind, str] = {
        "convolution": "Conv ConvTranspose QLinearConv ConvInteger QLinearConvTranspose FusedConv NhwcConv NhwcFusedConv",
        "pool": "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool "
        "QLinearAveragePool QLinearGlobalAveragePool",
        "linear": "Gemm MatMul QLinearMatMul MatMulInteger QGemm FusedMatMul FusedGemm MatMulIntegerToFloat DynamicQuantizeMatMul "
        "MatMulNBits LinearRegressor",
        "recurrent": "LSTM GRU RNN DynamicQuantizeLSTM",
        "softmax": "Softmax QLinearSoftmax",
        "log_softmax": "LogSoftmax",
        "sigmoid": "Sigmoid QLinearSigmoid",
        "argmax": "ArgMax",
        "quantize": "QuantizeLinear",
        "dequantize": "DequantizeLinear",
        "same": "Identity Cast CastLike Dropout DynamicQuantizeLinear",
        "reshape": "Reshape Squeeze Unsqueeze Flatten Expand",
        "transpose": "Transpose",
        "pad": "Pad Resize Upsample DepthToSpace SpaceToDepth",
        "concat": "Concat QLinearConcat",
        "part": "Slice Split Gather GatherND GatherElements",
        "pointwise": "Sub Mul Div Pow Relu LeakyRelu PRelu Clip Tanh HardSigmoid HardSwish Elu Selu Gelu Erf Exp Log Neg Abs Sqrt "
        "BatchNormalization InstanceNormalization LRN Max Min Sum Where QLinearAdd QLinearMul QLinearLeakyRelu",
        "add": "Add",
    }
    return {name: kind for kind, names in kinds.items() for name in names.split()}


KINDS = _table()
# Places of the data and the weight, where they are not the first two inputs. Mul and Sub of (1 − x) keep the data in either.
OPERANDS: dict[str, tuple[int, ...]] = {
    "QLinearConv": (0, 3),
    "QLinearConvTranspose": (0, 3),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3),
    "QLinearAveragePool": (0,),
    "QLinearGlobalAveragePool": (0,),
    "QLinearSigmoid": (0,),
    "QLinearSoftmax": (0,),
    "QLinearLeakyRelu": (0,),
}
# (input, output) places of a recurrent layer's states; its first output repeats the newest hidden state.
FEEDS = {
    "LSTM": ((5, 1), (5, 0), (6, 2)),
    "DynamicQuantizeLSTM": ((5, 1), (5, 0), (6, 2)),
    "GRU": ((5, 1), (5, 0)),
    "RNN": ((5, 1), (5, 0)),
}
