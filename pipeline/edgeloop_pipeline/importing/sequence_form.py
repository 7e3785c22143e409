"""A file that takes a whole sequence at once, along its first axis: as one that takes a step a call, after both answered alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract.arrays import DTYPES, Array
from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.quiet import quiet
from edgeloop_exporters.sequence_axes import with_single_steps
from edgeloop_pipeline.importing.request import CompressRequest
from edgeloop_pipeline.importing.several_inputs import FLOATS, sample_shape, states_of

__all__ = ["as_single_steps"]

STEPS, TOLERANCE = 5, 1e-4


def as_single_steps(model: ModelFile, request: CompressRequest, path: Path) -> tuple[ModelFile, list[str]]:
    """The model that takes one step a call, which is written to `path`, and that in words; as it is where it takes no sequence.

    Raises ModelError where the two do not answer alike, UsageError for --io original.
    """
    states = states_of(model, request)
    content = path.read_bytes()
    made = with_single_steps(content, states, str(request.model))
    if made is None:
        return model, []
    rng = np.random.default_rng(0)
    fed = {}
    for tensor in (tensor for tensor in model.inputs if tensor.name not in states):
        shape, dtype = (STEPS, *sample_shape(tensor, request)), DTYPES[FLOATS.get(tensor.dtype, tensor.dtype)]
        fed[tensor.name] = rng.normal(0, 1, shape).astype(dtype)
    names = [tensor.name for tensor in model.outputs if tensor.name not in states.values()]
    wanted = _whole(content, fed, states, names, model)
    if wanted is None:  # its first axis is a batch after all
        return model, []
    found = _step_by_step(made, fed, states, names, model)
    for name, rows in wanted.items():
        if not np.allclose(found[name].reshape(-1), rows.reshape(-1), rtol=TOLERANCE, atol=TOLERANCE):
            raise ModelError(
                f"{request.model}: its first axis looks like a sequence, and step by step it answers {name} differently; export it"
                " with a batch as the first axis, or pack it as it is (edgeloop pack)"
            )
    if request.drop_in:
        raise UsageError(f"--io original: {request.model} takes whole sequences; its int8 files take one step a call: leave it out")
    path.write_bytes(made)
    inputs = ", ".join(fed)
    fact = f"the first axis of {inputs} is a sequence: the files take one step a call, with the state of the call before"
    return msgspec.structs.replace(read(path), states=model.states, guessed_states=(), metadata=model.metadata), [fact]


def _zeros(states: Mapping[str, str], model: ModelFile) -> dict[str, Array]:
    return {t.name: np.zeros([size or 1 for size in t.shape or ()], np.float32) for t in model.inputs if t.name in states}


def _whole(
    content: bytes, fed: Mapping[str, Array], states: Mapping[str, str], names: list[str], model: ModelFile
) -> dict[str, Array] | None:
    """The answers to all steps at once; None where the file does not take them so."""
    try:
        with quiet():
            answers = session_of(content).run(names, {**fed, **_zeros(states, model)})
    except Exception:  # onnxruntime's own types
        return None
    found = dict(zip(names, answers, strict=True))
    return found if all(len(rows) == STEPS for rows in found.values()) else None


def _step_by_step(
    content: bytes, fed: Mapping[str, Array], states: Mapping[str, str], names: list[str], model: ModelFile
) -> dict[str, Array]:
    session: Any = session_of(content)
    held, rows = _zeros(states, model), list[list[Array]]()
    for step in range(STEPS):
        answers = session.run([*names, *states.values()], {**{n: x[step : step + 1] for n, x in fed.items()}, **held})
        rows.append(answers[: len(names)])
        held = dict(zip(states, answers[len(names) :], strict=True))
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}
