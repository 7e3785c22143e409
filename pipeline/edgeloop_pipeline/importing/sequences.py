"""Labels of recordings for a model that keeps state: which output has the scores, and what a label says."""

from __future__ import annotations

import math

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_pipeline.data.sequence_labels import SequenceLabels
from edgeloop_pipeline.importing.output_meaning import labels_of_data
from edgeloop_pipeline.importing.request import CompressRequest

__all__ = ["check_label_at", "sequence_of"]

AT = {
    "last": "at its last window",
    "any": "the surest one of all windows that is not {}, which stands where there is none",
    "every": "at every window, each by itself",
}


def check_label_at(request: CompressRequest, states: bool) -> None:
    """Raises UsageError for what is said of labels, and is not for this model."""
    if request.label_at is not None and not (states and request.labels):
        why = "say --labels too" if states else f"{request.model} keeps no state: each sample has one answer; leave it out"
        raise UsageError(f"--label-at: {why}")
    if states and request.labels and request.label_at is None:
        raise UsageError(
            "--labels: the model answers at each window of a recording; say which answer a label is of: --label-at last, --label-at"
            " any (the surest one that is not the first label, as of a wake word) or --label-at every"
        )


def sequence_of(model: ModelFile, shapes: dict[str, tuple[int, ...]], request: CompressRequest) -> tuple[SequenceLabels, str]:
    """What the labels of recordings say, and that in words. `model`: with its answers alone as outputs.

    Raises UsageError where the labels fit no output, and DataError where the data have no labels.
    """
    labels, chosen = request.labels, [tensor for tensor in model.outputs if tensor.name in (request.outputs or shapes)]
    names = ", ".join(f"{tensor.name} {list(shapes[tensor.name])}" for tensor in chosen)
    if len(chosen) != 1:
        raise UsageError(f"--labels: {request.model} has {len(chosen)} outputs ({names}); say which holds the scores with --output")
    output, scores = chosen[0], math.prod(shapes[chosen[0].name])
    if len(labels) < 2 or len(labels) != max(2, scores):
        wanted = "two labels: below half, and from half on" if scores == 1 else f"{scores} labels"
        raise UsageError(f"--labels: there are {len(labels)}; {names} needs {wanted}")
    if request.measure is not None or request.task == "tensors":
        said = "--measure" if request.measure is not None else "--task tensors"
        raise UsageError(f"{said}: labels of recordings are measured by accuracy; leave one of the two out")
    found = labels_of_data(request)
    if not found:
        raise UsageError(f"--labels: the folders of {request.calibrate} are not named after {', '.join(labels)}; name them so")
    if len(found) < 2:
        raise DataError(f"{request.calibrate}: every recording has the label {min(found)!r}; accuracy needs another one too")
    kind = "probabilities" if output.activation in ("sigmoid", "softmax") else "logits"
    assert request.label_at is not None
    said = f"accuracy is measured by the labels of recordings: {AT[request.label_at].format(labels[0])}"
    return SequenceLabels(output=output.name, at=request.label_at, scores=kind, single=scores == 1), said  # type: ignore[arg-type]
