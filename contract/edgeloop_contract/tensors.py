"""Named tensors: what a sample is, what a model file takes and gives, and how the one becomes the other."""

from enum import Enum
from typing import Literal

import msgspec

from edgeloop_contract.arrays import DtypeName

__all__ = ["Batch", "Part", "Precision", "Quantization", "Reset", "Runtime", "State", "TensorSpec"]

Runtime = Literal["onnx", "tflite"]
Layout = Literal["channels-last", "channels-first"]
Batch = Literal["any", "one", "none"]
Reset = Literal["recording", "never"]


class Part(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of every manifest structure: immutable, encoded without its defaults. Fields of a later release are ignored."""


class Quantization(Part, frozen=True):
    """real = scale × (integer − zero_point)."""

    scale: float
    zero_point: int


class TensorSpec(Part, frozen=True):
    """One tensor. `shape`: of one sample, without the batch dimension; channels last unless `layout` says otherwise.

    `name`: the same in every file of a bundle; "" where the tensor is the only one. `tensor`: its name inside the model file; "":
    the file has one. `batch`: "any" number of samples at once, a leading 1 ("one"), or no batch dimension at all ("none").
    `constant`: values that this input always has. `of`: the bundle's input that feeds it; "": the first one.
    """

    dtype: DtypeName
    shape: list[int]
    quantization: Quantization | None = None
    name: str = ""
    tensor: str = ""
    layout: Layout = "channels-last"
    batch: Batch = "any"
    constant: list[float] | None = None
    of: str = ""

    @property
    def sample_shape(self) -> list[int]:
        """The shape of a prepared sample for it: channels last, whatever the file's layout."""
        return self.shape if self.layout == "channels-last" else [*self.shape[1:], *self.shape[:1]]


class State(Part, frozen=True):
    """An output of the model file that is its input at the next window. Both are tensors of the file, of one dtype and shape.

    It begins as `initial` throughout: zeros, or a quantized tensor's zero point. `reset`: "recording": so again at each recording's
    first window; "never": windows of all recordings are one stream.
    """

    input: str
    output: str
    dtype: DtypeName
    shape: list[int]
    reset: Reset = "recording"
    initial: float = 0.0


class Precision(str, Enum):
    """The arithmetic of a model file, as the manifest writes it."""

    INT8 = "int8"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8_WEIGHTS = "int8-weights"  # stored in 8 bits, computed in float

    def __str__(self) -> str:
        return self.value
