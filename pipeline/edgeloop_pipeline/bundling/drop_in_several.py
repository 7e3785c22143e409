"""The int8 file in the place of an imported file with several inputs: its inputs, outputs and types, and how to call it."""

from __future__ import annotations

import numpy as np

from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_exporters.drop_in_ports import Port, given_to, with_ports
from edgeloop_exporters.named_inputs import feeds_of, take_apart
from edgeloop_exporters.state_axes import TURN
from edgeloop_pipeline.bundling.drop_in_words import programs
from edgeloop_pipeline.recipe.settings import Imported

__all__ = ["ended", "of_several"]

EXACT, HALF = 1e-6, 1e-3  # of the largest value: casts and transpositions change nothing, halves have 11 bits


def of_several(small: bytes, imported: Imported, samples: Array, ending: str, title: str) -> tuple[bytes, dict[str, str], str]:
    """The file, its programs by name, and what was made, in words. `samples`: (N, total, 1); `ending`: as in `with_ports`.

    Raises UsageError for a recipe that does not say what the original had, and ModelError where both do not answer the same.
    """
    if not imported.original_inputs:
        raise UsageError("stages.export: drop_in needs imported.original_inputs and original_outputs; --io original writes them")
    ours = session_of(small, 1)
    places = [value.name for value in ours.get_outputs()]
    here = dict(zip(imported.chosen, places, strict=True))
    inputs, outputs = (
        [Port(port.name, port.dtype, tuple(port.shape), port.turned, here.get(port.name, "")) for port in ports]
        for ports in (imported.original_inputs, imported.original_outputs)
    )
    content = with_ports(small, inputs, outputs, ending)
    named = [entry.named for entry in imported.inputs]
    theirs = session_of(content, 1)
    for row in range(len(samples)):
        parts = take_apart(samples[row : row + 1], named)
        wanted = dict(zip(places, ours.run(None, feeds_of(samples[row : row + 1], named)), strict=True))
        for port, found in zip(outputs, theirs.run(None, given_to(inputs, parts)), strict=True):
            _compare(port, found, wanted[port.here], ending)
    given = {value.name: [size if isinstance(size, int) else 1 for size in value.shape] for value in theirs.get_inputs()}
    calls = programs(title, [(port.name, port.dtype, given[port.name]) for port in inputs], [port.name for port in outputs])
    shown = [", ".join(f"{port.name} {port.dtype}" for port in ports) for ports in (inputs, outputs)]
    return content, calls, f"drop-in.onnx takes {shown[0]} and gives {shown[1]}, as the original does"


def _compare(port: Port, found: Array, ours: Array, ending: str) -> None:
    expected = ended(ours.transpose(TURN) if port.turned else ours, ending)
    off = float(np.abs(found.astype(np.float64) - expected.reshape(found.shape)).max(initial=0.0))
    allowed = (HALF if port.dtype == "float16" else EXACT) * max(float(np.abs(expected).max(initial=0.0)), 1.0)
    if not off <= allowed:
        raise ModelError(f"drop-in.onnx: gives {port.name} otherwise than onnx-int8, by {off:.3g}")


def ended(scores: Array, ending: str) -> Array:
    """What an operator behind our scores makes of them ("": nothing)."""
    if not ending:
        return scores
    shifted = scores - scores.max(axis=-1, keepdims=True)
    logarithms: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(np.exp(logarithms)) if ending == "Softmax" else logarithms
