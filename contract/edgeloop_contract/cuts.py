"""Where a model can be divided between device and server, as the manifest writes it."""

from typing import Literal

from edgeloop_contract.tensors import Part, TensorSpec

__all__ = ["Cascade", "Coding", "Cut", "Exit", "Packed", "Split"]

Coding = Literal["raw", "deflate", "4bit", "jpeg", "webp", "flac"]  # of what crosses from a device to a server (splitting.py)


class Packed(Part, frozen=True):
    """One coding of a boundary. `bytes`: mean of real samples; `agreement`: share of them with the whole model's answer (label)."""

    coding: Coding
    bytes: float
    agreement: float = 1.0


class Exit(Part, frozen=True):
    """An early answer from a boundary: the head's second output, float32 scores called `exit`.

    `threshold`: confidence from which it is used; chosen on validation data, where `share` of the samples went on, and
    `accuracy` came out (`whole`: of the whole network).
    """

    threshold: float
    share: float
    accuracy: float
    whole: float


class Cut(Part, frozen=True):
    """A tensor that every path from input to output goes through.

    `file`: the head, from the sample to this tensor ("" for the input itself). `head_us`, `tail_us`: batch 1, one thread,
    on `Split.machine`. `decoder`: of a learned bottleneck, whose output is the model's own tensor and whose input crosses.
    """

    name: str
    tensor: str
    boundary: TensorSpec
    packed: list[Packed]
    head_us: float
    tail_us: float
    file: str = ""
    decoder: str = ""
    exit: Exit | None = None


class Split(Part, frozen=True):
    """Cuts of one ONNX variant, from the input on."""

    variant: str
    machine: str
    whole_us: float
    cuts: list[Cut]

    def cut(self, name: str) -> Cut | None:
        return next((cut for cut in self.cuts if cut.name == name), None)


class Cascade(Part, frozen=True):
    """A larger model that answers where this one is not confident.

    `model`, `sha256`: of the larger one's bundle. `threshold`: confidence from which the small model's answer is used; chosen
    on validation data, where `share` of the samples were sent, and `accuracy` came out (`small`, `large`: of each alone).
    """

    model: str
    sha256: str
    threshold: float
    share: float
    accuracy: float
    small: float
    large: float
