"""Models of torch that become an ONNX file first: an exported program, a function in a file, or a name that a library knows."""

from __future__ import annotations

import contextlib
import inspect
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from edgeloop_contract.errors import EdgeloopError, ModelError, UsageError
from edgeloop_pipeline.data.tokenizer_files import TOKENIZER
from edgeloop_pipeline.importing.library_models import MAKERS, OUTSIDE, Network, called, first_line
from edgeloop_pipeline.importing.request import CompressRequest

__all__ = ["is_torch", "with_onnx_file"]

LIBRARIES = ("timm", "torchvision", "hf")
REFERENCE = re.compile(rf"(?P<library>{'|'.join(LIBRARIES)}):(?P<name>.+)|(?P<file>.+\.py:\w+)|(?P<program>.+\.pt2)")
OPSET, MAX_ERROR = 18, 1e-3  # of the file's answers, as a share of the network's largest


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
            network = Network(_program(Path(request.reference)), request.shape)
        else:
            network = _of_file(found["file"]) if found["file"] else MAKERS[found["library"]](found["name"], request)
            if request.weights is not None:
                _load(network.module, request.weights)
        shape = request.shape or network.shape
        if not shape and not request.shape_of and not found["program"] and network.texts is None:
            raise UsageError(f"{request.reference}: say one sample's shape at the network, such as --size 3x224x224")
        given = None if network.texts is None else _token_examples(network.texts.length)
        _write(request.reference, network.module, request.shape_of or {"": shape}, path, given)
    if network.texts is not None and request.tokenizer is None:
        tokenizer = path.with_name(TOKENIZER)
        tokenizer.write_text(network.texts.tokenizer, "utf-8")
        request = replace(request, tokenizer=tokenizer)
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


def _of_file(reference: str) -> Network:
    import torch

    from edgeloop_pipeline.recipe.user_code import load_object

    made = load_object(Path.cwd(), reference)
    return Network(made if isinstance(made, torch.nn.Module) else called(reference, made))  # a function, or a class of networks


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
        why = "more than tensors is in it" if "Weights only" in str(error) else first_line(error)
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
        raise ModelError(f"{path}: no program that torch {torch.__version__} reads ({first_line(error)})") from error


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


def _token_examples(length: int) -> dict[str, Any]:
    """Two texts of token ids, the second one shorter."""
    import torch

    mask = torch.ones(2, length, dtype=torch.int64)
    mask[1, length // 2 :] = 0
    return {"input_ids": torch.arange(2 * length).reshape(2, length) % 7 + 1, "attention_mask": mask}


def _write(
    reference: str, module: Any, shapes: Mapping[str, tuple[int, ...]], path: Path, given: dict[str, Any] | None = None
) -> None:
    """Export, and compare with torch. `shapes`: one sample's by input, "" is the only one; `given`: two samples in place of random
    ones. Raises ModelError.
    """
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
            named = given or _examples(reference, network, shapes)
            examples, batch = list(named.values()), torch.export.Dim("batch", min=1, max=4096)
            words = {"dynamic_shapes": tuple({0: batch} for _ in named)}
        with torch.no_grad():
            source = module if program else network
            torch.onnx.export(
                source, tuple(examples), path, dynamo=True, opset_version=OPSET, external_data=False, verbose=False, **words
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
            f"{reference}: torch cannot export it ({first_line(cause)}); check --size, or export it to ONNX yourself"
        ) from error
    if not off < MAX_ERROR:
        raise ModelError(f"{reference}: its ONNX file answers otherwise than torch (off by {off:.2g} of the largest value)")
