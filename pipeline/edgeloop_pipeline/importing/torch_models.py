"""Models of torch that become an ONNX file first: an exported program, a function in a file, or a name that a library knows."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from edgeloop_contract.errors import EdgeloopError, ModelError, UsageError
from edgeloop_pipeline.importing.request import CompressRequest, Fit

__all__ = ["is_torch", "with_onnx_file"]

LIBRARIES = ("timm", "torchvision", "hf")
REFERENCE = re.compile(rf"(?P<library>{'|'.join(LIBRARIES)}):(?P<name>.+)|(?P<file>.+\.py:\w+)|(?P<program>.+\.pt2)")
OPSET, MAX_ERROR = 18, 1e-3  # of the file's answers, as a share of the network's largest
OUTSIDE = (Exception, SystemExit)  # what other people's code can raise


@dataclass(frozen=True)
class _Network:
    """`module`: takes (N, *shape); what its maker says of pictures and labels, where it says it."""

    module: Any
    shape: tuple[int, ...] = ()
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    fit: Fit | None = None
    labels: list[str] = field(default_factory=list)


def is_torch(model: str) -> bool:
    """Whether MODEL names no file that a runtime reads, but a network of torch."""
    return REFERENCE.fullmatch(model) is not None


def with_onnx_file(request: CompressRequest, path: Path) -> CompressRequest:
    """The request with the network of `request.reference` as the ONNX file `path`, and what its maker says of it.

    Raises UsageError and ModelError, with what to do.
    """
    found = REFERENCE.fullmatch(request.reference)
    assert found is not None
    if found["program"] and request.weights is not None:
        raise UsageError("--weights: a .pt2 file has its own weights; leave it out")
    from edgeloop_exporters.quiet import quiet

    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        if found["program"]:
            network = _Network(_program(Path(request.reference)), request.shape)
        else:
            network = _of_file(found["file"]) if found["file"] else MAKERS[found["library"]](found["name"], request)
            if request.weights is not None:
                _load(network.module, request.weights)
        shape = request.shape or network.shape
        if not shape and not request.shape_of and not found["program"]:
            raise UsageError(f"{request.reference}: say one sample's shape at the network, such as --size 3x224x224")
        _write(request.reference, network.module, request.shape_of or {"": shape}, path)
    told = {name: getattr(network, name) for name in ("normalize", "fit", "labels") if not getattr(request, name)}
    told = {name: value for name, value in told.items() if value}
    return replace(
        request,
        shape_of={},
        model=path,
        shape=() if found["program"] else shape,
        maker=found["library"],
        told=frozenset(told),
        **told,
    )


def _of_file(reference: str) -> _Network:
    import torch

    from edgeloop_pipeline.recipe.user_code import load_object

    made = load_object(Path.cwd(), reference)
    return _Network(made if isinstance(made, torch.nn.Module) else _called(reference, made))  # a function, or a class of networks


def _called(reference: str, make: Callable[..., Any], *args: Any, **words: Any) -> Any:
    """What the call makes, if it is a network. Raises UsageError."""
    import torch

    try:
        made = make(*args, **words)
    except OUTSIDE as error:
        raise UsageError(f"{reference}: cannot be made: {_first_line(error)}") from error
    if not isinstance(made, torch.nn.Module):
        raise UsageError(f"{reference}: gives a {type(made).__name__}, no torch.nn.Module")
    return made


def _timm(name: str, request: CompressRequest) -> _Network:
    timm: Any = _library("timm")
    module = _called(request.reference, timm.create_model, name, pretrained=request.weights is None)
    config = timm.data.resolve_data_config(module.pretrained_cfg)
    return _Network(module, tuple(config["input_size"]), (_counts(config["mean"]), _counts(config["std"])), "crop")


def _torchvision(name: str, request: CompressRequest) -> _Network:
    models: Any = _library("torchvision.models")
    try:
        weights = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{request.reference}: torchvision has no such model ({_first_line(error)})") from error
    module = _called(request.reference, models.get_model, name, weights=weights if request.weights is None else None)
    preset = weights.transforms()
    size, mean, std = (getattr(preset, part, None) for part in ("crop_size", "mean", "std"))
    shape = (3, size[0], size[0]) if size else ()
    normalize = (_counts(mean), _counts(std)) if mean and std else None
    return _Network(module, shape, normalize, "crop", list(weights.meta.get("categories") or []))


def _hf(name: str, request: CompressRequest) -> _Network:
    """An image classifier of transformers, from a hub or a folder; weights are read from safetensors alone."""
    transformers: Any = _library("transformers")
    transformers.logging.set_verbosity_error()
    try:
        module = transformers.AutoModelForImageClassification.from_pretrained(name, use_safetensors=True)
        processor = transformers.AutoImageProcessor.from_pretrained(name, use_fast=False)
    except OUTSIDE as error:
        raise UsageError(
            f"{request.reference}: cannot be opened as an image classifier ({_first_line(error)}); check the name and the network,"
            " or export the model to ONNX"
        ) from error
    cropped = getattr(processor, "do_center_crop", False) or getattr(processor, "crop_pct", None)
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    height, width = (size.get(side, size.get("shortest_edge", 224)) for side in ("height", "width"))
    mean, std = _counts(processor.image_mean), _counts(processor.image_std)
    labels = [module.config.id2label[i] for i in range(module.config.num_labels)]
    return _Network(_Logits(module), (3, height, width), (mean, std), "crop" if cropped else "stretch", labels)


MAKERS: dict[str, Callable[[str, CompressRequest], _Network]] = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}


def _counts(shares: Any) -> tuple[float, ...]:
    """Of shares of the largest value, counts from 0 to 255."""
    return tuple(round(255.0 * float(value), 4) for value in shares)


def _Logits(module: Any) -> Any:
    import torch

    class Logits(torch.nn.Module):
        """The scores alone."""

        def __init__(self) -> None:
            super().__init__()
            self.inside = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.inside(x).logits
            return scores

    return Logits()


def _library(name: str) -> Any:
    """Raises UsageError where it is not installed, or does not fit this torch."""
    try:
        return importlib.import_module(name)
    except OUTSIDE as error:
        package = name.partition(".")[0]
        raise UsageError(f"{package} cannot be imported here ({_first_line(error)}): pip install {package}") from error


def _load(module: Any, weights: Path) -> None:
    """Weights from .safetensors, or from .pt by torch's reader that runs nothing. Raises UsageError."""
    import torch
    from safetensors.torch import load_file

    try:
        if weights.suffix == ".safetensors":
            state: Any = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except OUTSIDE as error:
        why = "more than tensors is in it" if "Weights only" in str(error) else _first_line(error)
        raise UsageError(
            f"--weights {weights}: cannot be read ({why}); give .safetensors, or a .pt file of a state dict"
        ) from error
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    try:
        module.load_state_dict(state)
    except OUTSIDE as error:
        raise UsageError(f"--weights {weights}: do not fit the network: {' '.join(str(error).split())[:300]}") from error


def _program(path: Path) -> Any:
    """An exported program. What in it would be unpickled is refused: unpickling runs code. Raises ModelError."""
    import torch

    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with _nothing_unpickled():
            return torch.export.load(path)
    except EdgeloopError as error:
        raise ModelError(f"{path}: {error}") from error
    except OUTSIDE as error:
        raise ModelError(f"{path}: no program that torch {torch.__version__} reads ({_first_line(error)})") from error


@contextlib.contextmanager
def _nothing_unpickled() -> Iterator[None]:
    import torch

    plain = torch.load

    def refuse(*_: Any, **__: Any) -> Any:
        raise ModelError("holds a pickle, and reading one runs code; export it again with tensors alone")

    def weights_only(*args: Any, **words: Any) -> Any:
        return plain(*args, **{"weights_only": True, **words}) if words.get("weights_only", True) else refuse()

    with (
        mock.patch.object(torch, "load", weights_only), mock.patch.object(pickle, "loads", refuse),
        mock.patch.object(pickle, "load", refuse), mock.patch.object(torch._C, "_pickle_load_obj", refuse, create=True),
    ):  # fmt: skip
        yield


def _examples(reference: str, network: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Two random samples by input, in the order of `forward`. Raises UsageError for a name that it does not take."""
    import torch

    taken = [name for name in inspect.signature(network.forward).parameters if name in shapes or "" in shapes][: len(shapes)]
    if "" not in shapes and len(taken) < len(shapes):
        unknown = next(name for name in shapes if name not in taken)
        raise UsageError(f"--size {unknown}=…: {reference} takes {', '.join(inspect.signature(network.forward).parameters)}")
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand((2, *shapes.get(name, shapes.get("", ()))), generator=generator) for name in taken}


def _write(reference: str, module: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Export, and compare with torch. `shapes`: one sample's by input, "" is the only one. Raises ModelError."""
    import onnxruntime
    import torch
    from torch.utils._pytree import tree_leaves

    program = isinstance(module, torch.export.ExportedProgram)
    try:
        network = module.module() if program else module.eval()
        if program:
            examples = [value for value in (module.example_inputs or ((), {}))[0] if isinstance(value, torch.Tensor)]
            if not examples or len(examples) != len(tree_leaves(module.example_inputs)):
                raise ModelError(f"{reference}: has sample inputs that are no tensors; export it with tensors alone")
            words: dict[str, Any] = {}
        else:
            named = _examples(reference, network, shapes)
            examples, batch = list(named.values()), torch.export.Dim("batch", min=1, max=4096)
            words = {"dynamic_shapes": tuple({0: batch} for _ in named)}
        with torch.no_grad():
            given = module if program else network
            torch.onnx.export(
                given, tuple(examples), path, dynamo=True, opset_version=OPSET, external_data=False, verbose=False, **words
            )
            wanted = next(leaf for leaf in tree_leaves(network(*examples)) if isinstance(leaf, torch.Tensor)).numpy()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        fed = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), examples, strict=True)}
        found = session.run(None, fed)[0]
        off = float(np.abs(found - wanted).max()) / max(1e-6, float(np.abs(wanted).max()))
    except EdgeloopError:
        raise
    except OUTSIDE as error:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__  # type: ignore[assignment]
        raise ModelError(
            f"{reference}: torch cannot export it ({_first_line(cause)}); check --size, or export it to ONNX yourself"
        ) from error
    if not off < MAX_ERROR:
        raise ModelError(f"{reference}: its ONNX file answers otherwise than torch (off by {off:.2g} of the largest value)")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
