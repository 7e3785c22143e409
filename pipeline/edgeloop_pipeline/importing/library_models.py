"""Networks that a library knows by name: timm, torchvision, and transformers for pictures and texts."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.importing.request import CompressRequest, Fit

__all__ = ["MAKERS", "OUTSIDE", "Network", "TextDoor", "called", "first_line"]

OUTSIDE = (Exception, SystemExit)  # what other people's code can raise
DEFAULT_LENGTH = 128  # token ids of a text
WRITERS = ("CausalLM", "LMHead", "ConditionalGeneration")
POOLED = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}  # as sentence-transformers writes it


@dataclass(frozen=True)
class TextDoor:
    """`tokenizer`: the content of a tokenizer.json; `length`: of the token ids that the network is exported with."""

    tokenizer: str
    length: int


@dataclass(frozen=True)
class Network:
    """`module`: takes (N, *shape); what its maker says of pictures and labels, where it says it."""

    module: Any
    shape: tuple[int, ...] = ()
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    fit: Fit | None = None
    labels: list[str] = field(default_factory=list)
    texts: TextDoor | None = None


def called(reference: str, make: Callable[..., Any], *args: Any, **words: Any) -> Any:
    """What the call makes, if it is a network. Raises UsageError."""
    import torch

    try:
        made = make(*args, **words)
    except OUTSIDE as error:
        raise UsageError(f"{reference}: cannot be made: {first_line(error)}") from error
    if not isinstance(made, torch.nn.Module):
        raise UsageError(f"{reference}: gives a {type(made).__name__}, no torch.nn.Module")
    return made


def _timm(name: str, request: CompressRequest) -> Network:
    timm: Any = _library("timm")
    module = called(request.reference, timm.create_model, name, pretrained=request.weights is None)
    config = timm.data.resolve_data_config(module.pretrained_cfg)
    return Network(module, tuple(config["input_size"]), (_counts(config["mean"]), _counts(config["std"])), "crop")


def _torchvision(name: str, request: CompressRequest) -> Network:
    models: Any = _library("torchvision.models")
    try:
        weights = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{request.reference}: torchvision has no such model ({first_line(error)})") from error
    module = called(request.reference, models.get_model, name, weights=weights if request.weights is None else None)
    preset = weights.transforms()
    size, mean, std = (getattr(preset, part, None) for part in ("crop_size", "mean", "std"))
    shape = (3, size[0], size[0]) if size else ()
    normalize = (_counts(mean), _counts(std)) if mean and std else None
    return Network(module, shape, normalize, "crop", list(weights.meta.get("categories") or []))


def _hf(name: str, request: CompressRequest) -> Network:
    """A model of transformers, from a hub or a folder; weights are read from safetensors alone.

    A classifier of pictures or of texts; anything else that has a tokenizer is taken as an encoder of texts.
    """
    transformers: Any = _library("transformers")
    transformers.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except OUTSIDE as error:
        raise UsageError(
            f"{request.reference}: cannot be opened ({first_line(error)}); check the name and the network, or export the model to"
            " ONNX"
        ) from error
    kinds = " ".join(config.architectures or [])
    if "ForImageClassification" in kinds:
        return _pictures(transformers, name, request)
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False) or any(w in kinds for w in WRITERS):
        raise UsageError(
            f"{request.reference}: writes texts; classifiers of pictures and of texts, and encoders of texts are taken"
        )
    return _texts(transformers, name, request, config, "ForSequenceClassification" in kinds)


def _pictures(transformers: Any, name: str, request: CompressRequest) -> Network:
    try:
        module = transformers.AutoModelForImageClassification.from_pretrained(name, use_safetensors=True)
        processor = transformers.AutoImageProcessor.from_pretrained(name, use_fast=False)
    except OUTSIDE as error:
        raise UsageError(
            f"{request.reference}: cannot be opened as an image classifier ({first_line(error)}); check the name and the network,"
            " or export the model to ONNX"
        ) from error
    cropped = getattr(processor, "do_center_crop", False) or getattr(processor, "crop_pct", None)
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    height, width = (size.get(side, size.get("shortest_edge", 224)) for side in ("height", "width"))
    mean, std = _counts(processor.image_mean), _counts(processor.image_std)
    labels = [module.config.id2label[i] for i in range(module.config.num_labels)]
    return Network(_Logits(module), (3, height, width), (mean, std), "crop" if cropped else "stretch", labels)


def _texts(transformers: Any, name: str, request: CompressRequest, config: Any, classifies: bool) -> Network:
    """A classifier of texts, or an encoder that gives a vector for each."""
    kind = "AutoModelForSequenceClassification" if classifies else "AutoModel"
    try:
        module = getattr(transformers, kind).from_pretrained(name, use_safetensors=True, attn_implementation="eager")
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        content = tokenizer.backend_tokenizer.to_str()
    except OUTSIDE as error:
        what = "a classifier of texts" if classifies else "a classifier of pictures or texts, or as an encoder of texts"
        raise UsageError(
            f"{request.reference}: cannot be opened as {what} ({first_line(error)}); check the name and the network, or export the"
            " model to ONNX"
        ) from error
    padded = json.loads(content)
    if padded.get("padding") is None and tokenizer.pad_token_id is not None:  # which says how short texts are filled
        padded["padding"] = {
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": tokenizer.pad_token_id,
            "pad_type_id": 0, "pad_token": tokenizer.pad_token,
        }  # fmt: skip
    length = request.length or min(DEFAULT_LENGTH, int(tokenizer.model_max_length), int(config.max_position_embeddings))
    labels = [str(config.id2label[i]) for i in range(config.num_labels)] if classifies else []
    pooled = "" if classifies else _pooling(name, config)
    return Network(_of_tokens(module, pooled), labels=labels, texts=TextDoor(json.dumps(padded), length))


def _pooling(name: str, config: Any) -> str:
    """How an encoder's vectors become one: as its sentence-transformers folder says, else their mean."""
    hub: Any = importlib.import_module("transformers.utils")
    try:
        found = hub.cached_file(name, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False)
        said = json.loads(Path(found).read_text("utf-8")) if found else {}
    except OUTSIDE:
        said = {}
    return next((pooled for key, pooled in POOLED.items() if said.get(key)), "mean")


def _of_tokens(module: Any, pooled: str) -> Any:
    import torch

    class OfTokens(torch.nn.Module):
        """Scores of classes, or with `pooled` one vector: of all ids that are no padding, or of the first one."""

        def __init__(self) -> None:
            super().__init__()
            self.inside = module

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            found = self.inside(input_ids=input_ids, attention_mask=attention_mask)
            if not pooled:
                scores: torch.Tensor = found.logits
                return scores
            values: torch.Tensor = found.last_hidden_state
            if pooled == "first":
                return values[:, 0]
            weights = attention_mask.to(values.dtype)[..., None]
            return (values * weights).sum(1) / weights.sum(1).clamp_min(1.0)

    return OfTokens()


MAKERS: dict[str, Callable[[str, CompressRequest], Network]] = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}


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
        raise UsageError(f"{package} cannot be imported here ({first_line(error)}): pip install {package}") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
