"""What a model's input is: its layout, the values it takes, and the steps that make it of a recording."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_contract.preprocessing import (
    Bgr,
    CenterCrop,
    Colour,
    Grayscale,
    Letterbox,
    Normalize,
    Resample,
    Resize,
    ResizeShorter,
    Step,
    Window,
    prepare,
)  # fmt: skip
from edgeloop_exporters.model_files.description import InputMetadata, ModelFile, Tensor
from edgeloop_pipeline.importing.graph_hints import takes_counts
from edgeloop_pipeline.importing.request import CompressRequest

__all__ = ["NORMALIZATIONS", "SOUND", "Entry", "entry_of"]

MAX_VALUES = 1 << 26  # of one sample
# Name → mean and std in counts from 0 to 255.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision and timm
    "unit": ((0.0,), (255.0,)),
    "symmetric": ((127.5,), (127.5,)),
    "counts": ((0.0,), (1.0,)),
}
SOUND = {"waveform": ((0.0,), (32768.0,)), "counts": NORMALIZATIONS["counts"]}  # of the 16 bits that sound is read in
Ask = Callable[[str, list[str]], str | None]  # a question and its answers; None: nobody is there


@dataclass
class Entry:
    """The input of the network. `facts` and `guesses` as in `Meaning`; `sample`: of arrays in one file."""

    layout: str
    shape: list[int]
    steps: list[Step]
    normalize: tuple[tuple[float, ...], tuple[float, ...]]
    sample: tuple[int, ...] = ()
    facts: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)


def entry_of(model: ModelFile, content: bytes, request: CompressRequest, kind: str, first: np.ndarray, ask: Ask) -> Entry:
    """The meaning of the only input. `kind`: pictures, sound, tables or arrays; `first`: a recording, for arrays one row.

    Raises UsageError where something has to be said, and DataError for a recording that does not fit.
    """
    given = model.inputs[0]
    meaning = next((m for m in model.metadata.inputs if m.name in (given.name, "")), InputMetadata(name=""))
    sizes = _sizes(given, meaning, request)
    said = list(sizes) if given.shape is not None and tuple(given.shape[1:]) != sizes else []
    entry = Entry("as_it_is", said, list(request.steps), request.normalize or NORMALIZATIONS["counts"])
    if not entry.steps and kind == "pictures":
        _picture(entry, given, sizes, meaning, model, content, request, ask)
    elif kind == "sound" and all(isinstance(step, Resample | Window) for step in entry.steps):
        _sound(entry, given, sizes, content, request, ask)
    elif request.normalize is None and kind != "pictures":
        entry.facts.append("values go in as they are (--normalize changes them)")
    if request.steps and model.metadata.preprocessing is None:
        entry.facts.append("preprocessing, as said")
    _place(entry, given, sizes, first, kind)
    return entry


def _sizes(given: Tensor, meaning: InputMetadata, request: CompressRequest) -> tuple[int, ...]:
    """The shape of one sample at the input. Raises UsageError for a size that neither the file nor its metadata say."""
    if given.shape is None:
        raise UsageError(f"{request.model}: does not say how many axes {given.name} has; export it with shapes")
    inner = given.shape[1:]
    if request.shape:
        if len(request.shape) != len(inner) or any(a is not None and a != b for a, b in zip(inner, request.shape, strict=True)):
            raise UsageError(
                f"--size {'x'.join(map(str, request.shape))}: {given.name} has {_shown(given.shape)}; give what follows the batch"
            )
        return _bounded(request.shape, given, request.model)
    if len(inner) == 3 and meaning.size is not None and inner[0] in (1, 3):  # channels first, as exporters with such metadata write
        inner = (inner[0], *(said if size is None else size for size, said in zip(inner[1:], meaning.size, strict=True)))
    if any(size is None or size < 1 for size in inner):
        raise UsageError(
            f"{request.model}: {given.name} {_shown(given.shape)} leaves sizes open; say one sample's, such as --size 3x224x224"
        )
    return _bounded(tuple(size for size in inner if size is not None), given, request.model)


def _bounded(sizes: tuple[int, ...], given: Tensor, path: Path) -> tuple[int, ...]:
    if math.prod(sizes) > MAX_VALUES:
        raise UsageError(f"{path}: a sample of {given.name} has {math.prod(sizes):,} values; at most {MAX_VALUES:,} are taken")
    return sizes


def _shown(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _picture(
    entry: Entry, given: Tensor, sizes: tuple[int, ...], meaning: InputMetadata, model: ModelFile, content: bytes,
    request: CompressRequest, ask: Ask,
) -> None:  # fmt: skip
    last = _channels_last(given, sizes, request.model)
    height, width, channels = sizes if last else (sizes[1], sizes[2], sizes[0]) if len(sizes) == 3 else (*sizes, 1)
    if channels not in (1, 3):
        raise UsageError(
            f"{request.model}: {given.name} has {channels} channels; pictures have 1 or 3: say the steps with --preprocess"
        )
    entry.steps = [Grayscale() if channels == 1 else Colour()]
    entry.steps += _fitted(entry, meaning, request, height, width)
    if request.bgr or (request.bgr is None and meaning.colour == "bgr"):
        entry.steps.append(Bgr())
        entry.facts.append("channels are blue, green, red" + ("" if request.bgr else ", from the file's metadata"))
    elif channels == 3 and request.bgr is None and meaning.colour is None and not request.maker:
        entry.guesses.append("channels are taken as red, green, blue (--bgr: the other order)")
    if request.normalize is not None:
        entry.facts.append(f"normalization {_normalization(request.normalize)}, {request.source('normalize')}")
        return
    entry.normalize = _known_normalization(entry, given, meaning, model, content, request, ask)


def _sound(entry: Entry, given: Tensor, sizes: tuple[int, ...], content: bytes, request: CompressRequest, ask: Ask) -> None:
    """A model that takes the sound itself: its points, and what they are divided by."""
    points = max(sizes, default=0)
    if not entry.steps and math.prod(sizes) == points > 1:
        entry.steps = [Window(length=points, hop=points, short="pad")]
        entry.guesses.append(
            f"sound is cut into pieces of {points:,} points at its own rate, and short recordings are padded; where the model wants"
            " another rate, say a resample and a window step with --preprocess"
        )
    if request.normalize is not None:
        entry.facts.append(f"normalization {_normalization(request.normalize)}, {request.source('normalize')}")
    elif hint := takes_counts(content, given.name):
        entry.facts.append(f"the network takes 16-bit sound as it is ({hint})")
    else:
        answer = ask(f"Which values does {given.name} take?", list(SOUND))
        if answer is None:
            raise UsageError(
                f"{request.model}: does not say which values {given.name} takes; say --normalize waveform (−1 to 1), counts"
                " (−32,768 to 32,767), or MEAN/STD in counts, as in the code that trained it"
            )
        entry.normalize = SOUND[answer]
        entry.facts.append(f"normalization {answer}, as answered")


def _fitted(entry: Entry, meaning: InputMetadata, request: CompressRequest, height: int, width: int) -> list[Step]:
    """The steps that give a picture its size."""
    if request.fit == "letterbox" or (request.fit is None and meaning.letterbox):
        entry.facts.append(f"pictures go into a letterbox of {height} × {width}, {_source(request.fit)}")
        return [Letterbox(height=height, width=width)]
    if request.fit == "crop" or (request.fit is None and meaning.crop is not None):
        shorter = min(meaning.size) if meaning.size else math.ceil(min(height, width) / 0.875)
        entry.facts.append(f"the shorter side becomes {shorter}, then {height} × {width} from the middle")
        return [ResizeShorter(size=max(shorter, height, width)), CenterCrop(height=height, width=width)]
    if request.fit is None:
        entry.guesses.append(f"pictures are stretched to {height} × {width} (--fit crop or letterbox keep the aspect)")
    return [Resize(height=height, width=width, antialias=True)]


def _source(said: object) -> str:
    return "from the file's metadata" if said is None else "as said"


def _known_normalization(
    entry: Entry, given: Tensor, meaning: InputMetadata, model: ModelFile, content: bytes, request: CompressRequest, ask: Ask
) -> tuple[tuple[float, ...], tuple[float, ...]]:  # fmt: skip
    """From metadata, from the graph, or asked for. Raises UsageError where nobody can say."""
    own = next((s for s in model.metadata.preprocessing or () if isinstance(s, Normalize)), None)
    if own is not None or meaning.normalization is not None:
        found = own if own is not None else meaning.normalization
        assert found is not None
        said = (tuple(found.mean), tuple(found.std))
        entry.facts.append(f"normalization {_normalization(said)}, from the file's metadata")
        return said
    hint = takes_counts(content, given.name)
    if hint:
        entry.facts.append(f"the network normalizes by itself ({hint}): counts from 0 to 255 go in")
        return NORMALIZATIONS["counts"]
    answer = ask(f"Which values does {given.name} take?", list(NORMALIZATIONS))
    if answer is None:
        raise UsageError(
            f"{request.model}: does not say which values {given.name} takes; say --normalize imagenet (torchvision, timm), unit"
            " (0 to 1), symmetric (-1 to 1), counts (0 to 255), or MEAN/STD in counts, as in the code that trained it"
        )
    entry.facts.append(f"normalization {answer}, as answered")
    return NORMALIZATIONS[answer]


def _normalization(found: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    one = tuple(part if len(set(part)) > 1 else part[:1] for part in found)
    name = next((name for name, known in {**NORMALIZATIONS, **SOUND}.items() if known == one), "")
    mean, std = (", ".join(f"{v:g}" for v in (part if len(set(part)) > 1 else part[:1])) for part in found)
    return name or f"(x − {mean}) / {std}"


def _channels_last(given: Tensor, sizes: tuple[int, ...], path: Path) -> bool:
    """Whether a picture's channels are the last axis: as a convolution reads it, else by their number. Raises UsageError."""
    if len(sizes) == 2:
        return False
    if len(sizes) != 3:
        raise UsageError(f"{path}: {given.name} has samples of shape {list(sizes)}, no pictures; say the steps with --preprocess")
    if given.layout in ("NCHW", "NHWC"):
        return given.layout == "NHWC"
    first, last = sizes[0] in (1, 3), sizes[2] in (1, 3)
    return last and not first


def _place(entry: Entry, given: Tensor, sizes: tuple[int, ...], first: np.ndarray, kind: str) -> None:
    """Sets the layout: what has to be moved so that a prepared sample is the input. Raises DataError where nothing helps."""
    if kind == "arrays" and not entry.steps:
        entry.sample = sizes
    prepared = prepare(entry.steps, first).values
    if not len(prepared):
        raise DataError("the first recording gives no sample: it is shorter than a window")
    got = tuple(prepared.shape[1:])
    if len(entry.normalize[0]) not in (1, got[-1]):
        raise UsageError(f"--normalize: {len(entry.normalize[0])} values for {got[-1]} channels; give one for all, or one for each")
    moved = (got[-1], *got[:-1])
    if kind != "arrays" and moved == sizes and (got != sizes or given.layout != "NHWC"):
        entry.layout = "channels_first"
    elif kind != "arrays" and got == sizes:
        entry.layout = "channels_last"
    elif math.prod(got) != math.prod(sizes):
        raise DataError(
            f"a prepared sample has shape {list(got)}, and {given.name} takes {list(sizes)}; give data of that shape, or say the"
            " steps with --preprocess"
        )
