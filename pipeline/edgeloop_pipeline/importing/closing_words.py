"""What a person should hear of the files that `edgeloop compress` made: what is lost, what grew, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from edgeloop_contract.manifest import Precision
from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.results.files import VerifyResult
from edgeloop_pipeline.results.quantization import QuantizeResult
from edgeloop_pipeline.results.read import result_of

__all__ = ["closing_words"]

UNSTEADY = 0.98  # of its own answers: an original that keeps less where its input moves by one is undecided about these data
FAITHFUL = 0.9  # of the float file's measure: where int8 keeps less, that is said at the end


def closing_words(entries: Sequence[Entry], original_bytes: int, floor: bool) -> list[str]:
    """Sentences about a finished run. `original_bytes`: of the file that was compressed; `floor`: whether one was asked for."""
    verified, quantized = result_of(entries, "verify", VerifyResult), result_of(entries, "quantize", QuantizeResult)
    if verified is None:
        return []
    lost = [] if floor else _lost(verified)
    said = lost + _of_outputs(verified, floor)
    if lost and quantized is not None and quantized.left_out:
        steps = f"{len(quantized.left_out)} repair steps were left out for time, the first {quantized.left_out[0]}"
        said.append(f"{steps}; set a larger quantize.repair_seconds in recipe.yaml, and run the project again")
    if quantized is not None and quantized.rounded_layers == 0:
        why = (
            "they make a spectrum of the input, which 8 bits do not hold"
            if quantized.spectrum_layers
            else "none has weights to round"
        )
        return [*said, f"no layer is in int8: {why}. The files compute in float; the original file serves as well"]
    return said + _grown(verified, quantized, original_bytes)


def _lost(verified: VerifyResult) -> list[str]:
    kept = {name: file.accuracy.value for name, file in verified.variants.items() if file.precision == Precision.INT8}
    if not kept or min(kept.values()) >= FAITHFUL * verified.float_accuracy.value:
        return []
    name = min(kept, key=lambda n: kept[n])
    return [
        f"{name} keeps {kept[name]:.1%} by {verified.metric}; --min-agreement {FAITHFUL:g} lets layers stay in float, or trains."
        " The report shows what the model sees and answers: check that first",
        *_undecided(verified),
    ]


def _undecided(verified: VerifyResult) -> list[str]:
    """What the original loses by itself: data that it is undecided about make any int8 file look worse."""
    if verified.moved is None or verified.moved.value >= UNSTEADY * verified.float_accuracy.value:
        return []
    kept = f"the original itself keeps {verified.moved.value:.1%} where each value of these pictures moves by one at most"
    return [f"{kept}: it is undecided about some of what they show; pictures of what it was made for tell more"]


def _of_outputs(verified: VerifyResult, floor: bool) -> list[str]:
    """Of several outputs: which one it is that loses, and those that answer next to nothing in these data."""
    rows, said = verified.outputs or [], []
    poor = [row for row in rows if row.kept < FAITHFUL]
    if poor and len(poor) < len(rows) and not floor:
        lost, good = (", ".join(f"{row.name} {row.kept:.1%}" for row in some) for some in (poor, rows[len(poor) :]))
        said.append(f"of its outputs, {lost} lose most, the others keep {good}; --output names those that count")
    if silent := [f"{row.name} (up to {row.largest:.1g})" for row in rows if row.silent]:
        said.append(f"{' and '.join(silent)}: scores near 0 in all these data; give some in which it answers more")
    return said


def _grown(verified: VerifyResult, quantized: QuantizeResult | None, original_bytes: int) -> list[str]:
    """int8 files that are no smaller than the original, and why."""
    sizes = {name: file.bytes for name, file in verified.variants.items() if file.precision == Precision.INT8}
    large = {name: size for name, size in sizes.items() if size >= original_bytes}
    if not large or quantized is None:
        return []
    shown = " and ".join(f"{name} has {size:,} bytes" for name, size in large.items())
    why = f"each of its {quantized.points} rounded tensors needs a scale and operators of its own, some hundred bytes"
    if quantized.spectrum_layers:
        why += f", and {quantized.spectrum_layers} layers that make a spectrum of the input stay in float"
    remedy = "Take it for its speed alone, if the profile shows that; else keep the original"
    return [f"{shown}, and the original {original_bytes:,}: {why}. {remedy}"]
