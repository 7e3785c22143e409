"""What a model file says of itself: tensors, precision, states, and the metadata that its maker wrote into it."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeloop_contract.manifest import Precision, Quantization, Runtime
from edgeloop_contract.preprocessing import Step

__all__ = ["Activation", "InputMetadata", "Metadata", "ModelFile", "Normalization", "StatePair", "Tensor"]

# The last operation before an output, where the graph proves it. "linear": plain sums, so logits if the task is classification.
Activation = Literal["softmax", "sigmoid", "log_softmax", "linear", "argmax"]
Shape = tuple[int | None, ...]  # None: free


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output. `dtype`: numpy's name, "bfloat16", "string", or "sequence", "map" and the like for what is no tensor.

    `shape`: with the batch; None where the file does not say how many dimensions there are. `quantization`: per tensor.
    `signature`: the name in a TFLite file's signature, which people gave it; `name` is the tensor's, often a converter's.
    `layout`: one letter a dimension, as "NHWC", where a convolution or a pool reads this input. `activation`: of outputs.
    `answers`: what an output of TFLite's detection postprocessing holds: boxes, labels, scores or count.
    """

    name: str
    dtype: str
    shape: Shape | None
    quantization: Quantization | None = None
    layout: str | None = None
    activation: Activation | None = None
    signature: str = ""
    answers: str = ""

    @property
    def scores(self) -> Literal["logits", "probabilities"] | None:
        """What the values are if they are scores of classes; None where the graph does not prove it."""
        if self.activation in ("softmax", "sigmoid"):
            return "probabilities"
        return "logits" if self.activation == "linear" else None


class StatePair(msgspec.Struct, frozen=True):
    """An output that is the next call's input. `why`: in words, for people."""

    input: str
    output: str
    why: str


class Normalization(msgspec.Struct, frozen=True):
    """The file takes (x − mean) / std, where x are raw counts: 0 to 255 for pictures. One number each, or one per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class InputMetadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an input's values are, as the maker wrote it. `size`, `crop`: (height, width); `resample`: Pillow's name.

    `letterbox`: pictures keep their aspect and lie in the middle of a border.
    """

    name: str
    normalization: Normalization | None = None
    colour: Literal["rgb", "bgr", "grey"] | None = None
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    resample: str = ""
    letterbox: bool = False
    rate_hz: int | None = None
    channels: int | None = None


class Metadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What people wrote into the file, or beside it. Every text is cleaned and bounded.

    `labels_output`: the output that the labels belong to, "" if it is not said. `points`: how many a box has, and how many
    values each of them; `point_names`: theirs. `preprocessing`: of edgeloop's own files.
    `sources`: field → where it was found. `more`: what is written there besides, as text.
    """

    name: str = ""
    version: str = ""
    description: str = ""
    author: str = ""
    licence: str = ""
    task: str = ""
    labels: tuple[str, ...] = ()
    labels_output: str = ""
    points: tuple[int, int] = (0, 0)
    point_names: tuple[str, ...] = ()
    inputs: tuple[InputMetadata, ...] = ()
    preprocessing: tuple[Step, ...] | None = None
    sources: dict[str, str] = {}
    more: dict[str, str] = {}


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model file, read and not run.

    `states`: proven by the graph; `guessed_states`: by names and shapes alone. `variables`: state that the runtime itself keeps
    from call to call, as in streaming TFLite files. `external`: files beside it that hold weights. `operators`: kinds, sorted.
    """

    path: str
    runtime: Runtime
    precision: Precision
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    states: tuple[StatePair, ...] = ()
    guessed_states: tuple[StatePair, ...] = ()
    variables: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    metadata: Metadata = Metadata()
    notes: tuple[str, ...] = ()
