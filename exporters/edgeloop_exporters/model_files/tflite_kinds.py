"""TFLite operators as kinds of the common graph."""

from __future__ import annotations

from edgeloop_exporters.model_files.graph import Kind

__all__ = ["CUSTOM", "FUSING", "KINDS", "OPERANDS", "SUMS"]


def _table() -> dict[str, Kind]:
    kinds: dict[Kind, str] = {
        "convolution": "CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV CONV_3D CONV_3D_TRANSPOSE Convolution2DTransposeBias",
        "pool": "MAX_POOL_2D AVERAGE_POOL_2D L2_POOL_2D MaxPoolingWithArgmax2D MaxUnpooling2D",
        "linear": "FULLY_CONNECTED BATCH_MATMUL",
        "recurrent": "LSTM UNIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_LSTM RNN UNIDIRECTIONAL_SEQUENCE_RNN "
        "BIDIRECTIONAL_SEQUENCE_RNN SVDF",
        "softmax": "SOFTMAX",
        "log_softmax": "LOG_SOFTMAX",
        "sigmoid": "LOGISTIC",
        "argmax": "ARG_MAX",
        "quantize": "QUANTIZE",
        "dequantize": "DEQUANTIZE",
        "same": "CAST DENSIFY",
        "reshape": "RESHAPE SQUEEZE EXPAND_DIMS BROADCAST_TO",
        "transpose": "TRANSPOSE",
        "pad": "PAD PADV2 MIRROR_PAD RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR",
        "concat": "CONCATENATION PACK",
        "part": "SLICE STRIDED_SLICE SPLIT SPLIT_V UNPACK GATHER GATHER_ND",
        "pointwise": "SUB MUL DIV POW RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU PRELU TANH ELU GELU HARD_SWISH EXP LOG NEG "
        "ABS SQRT RSQRT SQUARE MINIMUM MAXIMUM",
        "add": "ADD",
        "detections": "TFLite_Detection_PostProcess",
    }
    return {name: kind for kind, names in kinds.items() for name in names.split()}


KINDS = _table()
OPERANDS: dict[str, tuple[int, ...]] = {"TRANSPOSE_CONV": (2, 1), "CONV_3D_TRANSPOSE": (2, 1), "SPLIT": (1,)}
SUMS = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "FULLY_CONNECTED", "ADD"}
# Operators whose options name a function that is applied to their sums: the options' class.
FUSING = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "TRANSPOSE_CONV": "TransposeConvOptions",
    "CONV_3D": "Conv3DOptions", "FULLY_CONNECTED": "FullyConnectedOptions", "ADD": "AddOptions",
}  # fmt: skip
# Custom operators that LiteRT's Python packages run, tried with ai-edge-litert 2.3: its own kernels, and XNNPACK's.
CUSTOM = {
    "TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram", "NumericVerify",
    "Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D",
}  # fmt: skip
