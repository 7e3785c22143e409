"""What a model with several inputs, or with state, is: its import, its answers, and the states among its outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_contract.errors import EdgeloopError, ModelError, UsageError
from edgeloop_exporters.model_files.description import ModelFile, Tensor
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.state_axes import with_batch_first
from edgeloop_pipeline.importing.output_meaning import answer_of
from edgeloop_pipeline.importing.project_files import MODEL
from edgeloop_pipeline.importing.request import CompressRequest, Meaning
from edgeloop_pipeline.importing.sequence_form import as_single_steps
from edgeloop_pipeline.importing.sequences import check_label_at, sequence_of
from edgeloop_pipeline.importing.several_inputs import (
    Several,
    entry_of_several,
    is_open_second,
    states_of,
    total_of,
    without_state_outputs,
)
from edgeloop_pipeline.networks.imported import open_import
from edgeloop_pipeline.recipe.settings import Imported, OriginalPort

__all__ = ["check_outputs", "meaning_of_several", "with_original_ports"]


def meaning_of_several(model: ModelFile, request: CompressRequest, path: Path) -> Meaning:
    """A model with several inputs, or with state: its states come last among its outputs."""
    model, facts = as_single_steps(model, request, path)
    found, opened = _opened(model, request, path)
    _check_read(opened, request)
    labels = request.labels
    states, entry = found.states, found.entry
    check_outputs(opened, request.outputs, request.model)
    shapes = {port.name: port.shape for port in opened.outputs}
    answering = without_state_outputs(model, states)
    request = replace(request, fed=found.named)
    check_label_at(request, bool(states))
    sequence, said = sequence_of(answering, shapes, request) if states and request.labels else (None, "")
    if states and (request.task is None or sequence is not None):
        request = replace(request, task="tensors", labels=[])
    answer = answer_of(answering, shapes, request)
    if answer.task == "classification" and states:
        raise UsageError("--task classification: of a model that keeps state, say --labels and --label-at instead")
    if sequence is not None:
        answer.measure, answer.labels, answer.labelled, answer.facts, answer.guesses = "accuracy", labels, True, [said], []
    wanted = [*(answer.outputs or [tensor.name for tensor in answering.outputs]), *states]
    imported = Imported(
        model=MODEL, measure=answer.measure, output=wanted[0] if len(wanted) == 1 else "",
        outputs=wanted if len(wanted) > 1 else [], boxes=answer.boxes, layout="as_it_is", inputs=found.inputs,
        sequence=sequence,
    )  # fmt: skip
    if answer.boxes:
        raise UsageError(f"{request.model}: boxes are not for a model with several inputs; --task tensors compresses it")
    return Meaning(
        answer.task, imported, entry.normalize, [], answer.labels, answer.labelled, (), (total_of(found.inputs),),
        [*facts, *entry.facts, *answer.facts], [*entry.guesses, *answer.guesses], found.named,
    )  # fmt: skip


def with_original_ports(meaning: Meaning, original: ModelFile, ours: ModelFile) -> Meaning:
    """Keeps inputs and outputs of the file as it came, beside those of the project's file. Raises UsageError for other types."""
    now = {tensor.name: tensor.shape for tensor in ours.inputs}
    turned = {tensor.name for tensor in original.inputs if tensor.name in now and now[tensor.name] != tensor.shape}
    turned &= {entry.name for entry in meaning.imported.inputs if entry.output}
    back = {entry.output for entry in meaning.imported.inputs if entry.name in turned}
    chosen = set(meaning.imported.chosen)

    def port(tensor: Tensor, turned: bool) -> OriginalPort:
        told = {"name": tensor.name, "dtype": tensor.dtype, "shape": [size or 0 for size in tensor.shape or ()], "turned": turned}
        try:
            return msgspec.convert(told, OriginalPort)
        except msgspec.ValidationError as error:
            raise UsageError(
                f"--io original: {original.path}: {tensor.name} is of type {tensor.dtype}, which is not kept"
            ) from error

    imported = msgspec.structs.replace(
        meaning.imported,
        original_inputs=[port(tensor, tensor.name in turned) for tensor in original.inputs],
        original_outputs=[port(tensor, tensor.name in back) for tensor in original.outputs if not chosen or tensor.name in chosen],
    )
    return replace(meaning, imported=imported)


def _opened(model: ModelFile, request: CompressRequest, path: Path) -> tuple[Several, Any]:
    """The inputs, and the import. Recurrent layers' states have their batch second: where it is open, or nothing else goes, it is
    put first. Raises the first try's error.
    """
    pairs, content = states_of(model, request), path.read_bytes()
    turned = with_batch_first(content, pairs, str(path))
    if turned is not None and any(is_open_second(tensor) for tensor in model.inputs if tensor.name in pairs):
        content, turned = turned, None
        path.write_bytes(content)
        model = msgspec.structs.replace(read(path), states=model.states, guessed_states=())
    found = entry_of_several(model, request)
    try:
        return found, open_import(path, (), tuple(given.named for given in found.inputs))
    except ModelError as error:
        if turned is None:
            raise
        path.write_bytes(turned)
        try:
            found = entry_of_several(msgspec.structs.replace(read(path), states=model.states, guessed_states=()), request)
            opened = open_import(path, (), tuple(given.named for given in found.inputs))
        except EdgeloopError:
            path.write_bytes(content)
            raise error from None
        return found, opened


def _check_read(found: Any, request: CompressRequest) -> None:
    """Raises UsageError for an input that nothing reads: files that are written of the graph would not have it."""
    ports = [node for node in found.network.graph.nodes if node.op == "placeholder"]
    if unread := next((port.name for port, node in zip(found.inputs, ports, strict=True) if not node.users), ""):
        remedy = "export the model without it" if unread in request.texts else f"make it a constant: --constant {unread}=VALUES"
        raise UsageError(f"{request.model}: its input {unread} changes no answer; {remedy}")


def check_outputs(found: Any, wanted: tuple[str, ...], path: Path) -> None:
    """Raises UsageError for outputs that no file can give apart: two that are one tensor, and one that is the input."""
    ends = found.network.graph.output_node().args[0]
    seen: dict[Any, str] = {}
    for port, node in zip(found.outputs, ends if isinstance(ends, (tuple, list)) else (ends,), strict=True):
        if wanted and port.name not in wanted:
            continue
        same = "the input itself" if node.op == "placeholder" else f"the same tensor as {seen[node]}" if node in seen else ""
        if same:
            raise UsageError(f"{path}: its output {port.name} is {same}; say which of the others count, each with --output")
        seen[node] = port.name
