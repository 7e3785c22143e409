"""Describes variants: how a device gives inputs to each model file and reads its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import INPUT, Precision, Quantization, Runtime, TensorSpec, Variant
from edgeloop_exporters.named_inputs import samples_of
from edgeloop_exporters.named_outputs import Output

if TYPE_CHECKING:
    from edgeloop_pipeline.data.types import PreparedSplits

VARIANTS = "variants.json"
TENSORRT = "TensorRT"


def variant_of(
    runtime: Runtime, precision: Precision, file: str, splits: PreparedSplits, counts: tuple[float, int] | None,
    outputs: list[TensorSpec], provider: str = "",
) -> Variant:  # fmt: skip
    """The variant of a file. `counts`: the input's scale and zero point if raw counts go in unchanged. `provider`: of `Variant`."""
    name = f"{runtime}-{precision.value.replace('-', '')}{'-symmetric' * (provider == TENSORRT)}"
    if splits.inputs:
        from edgeloop_exporters.file_tensors import input_specs, states_of, without_states

        answers = without_states(outputs, splits.inputs)
        if len(answers) == 1 and (splits.task != "tensors" or splits.sequence is not None):  # the only answer is the scores
            answers = [msgspec.structs.replace(answers[0], name="")]
        return Variant(
            name=name, runtime=runtime, precision=precision, file=file, inputs=input_specs(splits.inputs), outputs=answers,
            states=states_of(splits.inputs), provider=provider,
        )  # fmt: skip
    raw = TensorSpec(dtype=splits.dtype, shape=list(splits.shape))
    if precision == Precision.INT8 and counts:
        scale, zero_point = counts
        offset = 128 if runtime == "tflite" else 0
        raw = TensorSpec(
            dtype="int8" if offset else "uint8",
            shape=raw.shape,
            quantization=Quantization(scale=scale, zero_point=zero_point - offset),
        )
    return Variant(name=name, runtime=runtime, precision=precision, file=file, inputs=[raw], outputs=outputs, provider=provider)


def named_outputs(variant: Variant) -> list[Output]:
    """Its outputs, where they have names: the only one mostly has none."""
    return [Output(spec.name, tuple(spec.shape)) for spec in variant.outputs] if variant.output.name else []


def answers_of(scores: Array, splits: PreparedSplits) -> Array:
    """Joined scores (N, total) without the states, which come last; other scores as they are."""
    if not any(entry.output for entry in splits.inputs):
        return scores
    return scores[:, : sum(output.size for output in answer_outputs(splits))]


def answer_outputs(splits: PreparedSplits) -> list[Output]:
    """The outputs of which `answers_of` has the scores."""
    states = {entry.output for entry in splits.inputs if entry.output}
    return [output for output in splits.outputs if output.name not in states]


def samples_by_input(values: Array, splits: PreparedSplits) -> Array | dict[str, Array]:
    """Samples (N, *sample) as a runtime takes them: by input where there are several."""
    found = samples_of(values, splits.inputs) if splits.inputs else {}
    return {INPUT: next(iter(found.values()))} if len(found) == 1 else found or values


def read_variants(folder: Path) -> list[Variant]:
    return msgspec.json.decode((folder / VARIANTS).read_bytes(), type=list[Variant])
