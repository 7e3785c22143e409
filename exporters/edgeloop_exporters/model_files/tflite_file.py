"""Reads a TFLite file: its tensors, its graph, and what its maker wrote into it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.model_files.checks import MAX_INPUTS, MAX_NAME, name_of, not_empty
from edgeloop_exporters.model_files.description import ModelFile, StatePair, Tensor
from edgeloop_exporters.model_files.rules import activation_of, layout_of, precision_of
from edgeloop_exporters.model_files.states import guessed_states, proven_states
from edgeloop_exporters.model_files.text import clean
from edgeloop_exporters.model_files.tflite_graph import Opened, open_tflite, schema_module
from edgeloop_exporters.model_files.tflite_metadata import METADATA, tflite_metadata

__all__ = ["IDENTIFIER", "read_tflite"]

IDENTIFIER = b"TFL3"
DETECTIONS = ("boxes", "labels", "scores", "count")
# What flatbuffers' reader and numpy raise for places and lengths that point outside the file.
DAMAGED = (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError, KeyError)


def read_tflite(path: Path, content: bytes) -> ModelFile:
    """Describe a TFLite file of this content. Raises ModelError."""
    where = str(path)
    if content[4:8] != IDENTIFIER:
        raise ModelError(f"{where} is not a TFLite file: export or download it again")
    schema = schema_module(where)
    try:
        model = schema.Model.GetRootAs(content, 0)
        opened = open_tflite(model, where)
        metadata, signature = _metadata(model), _signature(model)
    except DAMAGED as error:
        raise ModelError(f"{where} is damaged or cut off: export or download it again") from error
    inputs = tuple(_tensor(opened, number, True, where, signature) for number in opened.graph.inputs)
    outputs = tuple(_tensor(opened, number, False, where, signature) for number in opened.graph.outputs)
    not_empty(inputs, outputs, where)
    states = _states(opened, inputs, outputs)
    return ModelFile(
        path=where, runtime="tflite", precision=precision_of(opened.graph), inputs=inputs, outputs=outputs,
        states=states, guessed_states=guessed_states(inputs, outputs, states), variables=opened.variables,
        operators=opened.operators, metadata=tflite_metadata(metadata, content, inputs, outputs), notes=opened.notes,
    )  # fmt: skip


def _states(opened: Opened, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[StatePair, ...]:
    """The graph's tensors are numbers: asked by them, told by names."""
    numbered = [
        tuple(msgspec.structs.replace(tensor, name=number) for tensor, number in zip(tensors, numbers, strict=True))
        for tensors, numbers in ((inputs, opened.graph.inputs), (outputs, opened.graph.outputs))
    ]
    found = proven_states(opened.graph, *numbered)
    return tuple(StatePair(opened.tensors[p.input].name, opened.tensors[p.output].name, p.why) for p in found)


def _tensor(opened: Opened, number: str, is_input: bool, where: str, signature: dict[tuple[bool, str], str]) -> Tensor:
    facts = opened.tensors[number]
    return Tensor(
        name=name_of(facts.name, where), dtype=facts.dtype, shape=facts.shape, quantization=facts.quantization,
        layout=layout_of(opened.graph, number) if is_input else None,
        activation=None if is_input else activation_of(opened.graph, number), signature=signature.get((is_input, number), ""),
        answers="" if is_input else _answers(opened, number),
    )  # fmt: skip


def _answers(opened: Opened, number: str) -> str:
    """Of an output of a detection postprocessing, which one it is: names differ by converter."""
    operator = opened.graph.maker.get(number)
    if operator is None or operator.kind != "detections" or len(operator.makes) != len(DETECTIONS):
        return ""
    return DETECTIONS[operator.makes.index(number)]


def _signature(model: Any) -> dict[tuple[bool, str], str]:
    """(is it an input, tensor) → name, of the first signature of the first graph."""
    for i in range(min(model.SignatureDefsLength(), 100)):
        definition = model.SignatureDefs(i)
        if definition.SubgraphIndex() == 0:
            inputs = [(True, definition.Inputs(k)) for k in range(min(definition.InputsLength(), MAX_INPUTS))]
            outputs = [(False, definition.Outputs(k)) for k in range(min(definition.OutputsLength(), MAX_INPUTS))]
            names = {(side, str(t.TensorIndex())): (t.Name() or b"").decode("utf-8", "replace") for side, t in inputs + outputs}
            return {key: clean(name, MAX_NAME) for key, name in names.items()}
    return {}


def _metadata(model: Any) -> bytes:
    """The metadata's FlatBuffer; b"" if the file has none."""
    for i in range(min(model.MetadataLength(), 1000)):
        entry = model.Metadata(i)
        if entry.Name() == METADATA and entry.Buffer() < model.BuffersLength():
            data = model.Buffers(entry.Buffer()).DataAsNumpy()
            return b"" if isinstance(data, int) else bytes(data)
    return b""
