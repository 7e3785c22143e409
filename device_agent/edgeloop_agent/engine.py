"""From a raw recording to answers: preprocessing, the model, probabilities."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edgeloop_agent.answers import confidence_of, interpret
from edgeloop_agent.box_answers import Box, box_answers
from edgeloop_agent.label_answers import Label
from edgeloop_agent.mask_answers import Mask, mask_answers
from edgeloop_agent.runtimes import PLAIN, RuntimeOptions, open_runtime
from edgeloop_agent.runtimes.named import Memory, NamedModel
from edgeloop_agent.trial_samples import zeros
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import DTYPES, Array
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.boxes import Placement, placement
from edgeloop_contract.errors import BundleError, DataError, DeviceError
from edgeloop_contract.manifest import SCORES, Variant
from edgeloop_contract.preprocessing import Prepared, TextOrArray, as_recording, prepare, takes_texts, with_files
from edgeloop_contract.preprocessing.base import StepBase
from edgeloop_contract.tasks import Detection, Segmentation, Task, Tensors
from edgeloop_contract.tensors import TensorSpec

__all__ = ["Answer", "Engine", "Scored"]


OWN_ANSWERS = (Tensors, Detection, Segmentation)  # whose answer is no label or value of one row of scores


class Scored(NamedTuple):
    """Scores (1, outputs), and where they were computed ("": the device has no other place).

    `device_scores`: of the device's model, where a larger model answered instead. `for_drift`: whether the drift monitor may use
    them. It may not where early answers are possible: samples with an early answer and those without are two different populations.
    """

    scores: Array
    place: str = ""
    device_scores: Array | None = None
    for_drift: bool = True


class Answer(msgspec.Struct, frozen=True):
    """One sample's answer, or why it was refused."""

    window: int
    label: str | None = None
    probabilities: dict[str, float] | None = None
    values: dict[str, float] | None = None  # regression: by quantity, in its unit
    score: float | None = None  # anomaly: reconstruction error
    tensors: dict[str, Array] | None = None  # of a task without a declared meaning: each output by name, one sample
    milliseconds: float = 0.0
    place: str | None = None  # where the model can be split: "device", a route and a tail, or "large"
    refused: str | None = None
    # (1, *sample) that was answered, by input where there are several, and this device's scores of it, where it has a meaning;
    # of boxes and masks the outputs by name
    sample: Array | Mapping[str, Array] | None = None
    scores: Array | Mapping[str, Array] | None = None
    confidence: float | None = None  # of this device's model, 0 to 1; None where drift may not use it
    boxes: list[Box] | None = None  # detection: what was found, best first, in pixels of the recording
    labels: list[Label] | None = None  # multilabel: those that the sample has, most probable first
    masks: list[Mask] | None = None  # segmentation: where each label is, largest first, in pixels of the recording
    lost: bool = False  # of frames that are followed: an object that was in the last frame has no box in this one


class Engine:
    """One bundle's chosen variant, loaded."""

    def __init__(self, bundle: Bundle, choice: VariantChoice, options: RuntimeOptions = PLAIN) -> None:
        self.manifest, self.choice = bundle.manifest, choice
        self.variant = _scores_first(bundle.manifest.variant(choice.variant), bundle.manifest.task)
        with bundle.loading(self.variant.file) as model:
            self.runtime = open_runtime(self.variant, model, choice.threads, options)
        task = self.manifest.task
        # One array in, one row of scores out, nothing remembered: what caches, offloading and most models are.
        remembers = bool(self.variant.states) or self.variant.kept_inside is not None
        self.is_simple = len(self.manifest.inputs) == 1 and not remembers and not isinstance(task, OWN_ANSWERS)
        self._memory: Memory = {}
        self._sample = self.manifest.sample
        try:
            self._of_input = {e.name: with_files(e.preprocessing, bundle.read) for e in self.manifest.inputs}
        except DataError as error:
            raise BundleError(f"bundle {self.manifest.name}: {error}; rebuild the bundle") from error
        self._steps = self._of_input[self.manifest.inputs[0].name]
        self._shape, self._dtype = tuple(self._sample.shape), DTYPES[self._sample.dtype]

    def answers(self, recording: Array | Mapping[str, TextOrArray]) -> Iterator[Answer]:
        """Answers for the recording's windows, in order. Raises DataError when the recording as a whole does not fit.

        `recording`: one array, or an array or a text by input where the model has several.
        """
        if not self.is_simple or not isinstance(recording, np.ndarray):
            yield from self._named_answers(recording)
            return
        prepared = prepare(self._steps, recording)
        values = self.checked(prepared.values) if prepared.indices else prepared.values
        if not prepared.refused:
            for window in prepared.indices:
                yield self._answer(window, values[window : window + 1])
            return
        rows = dict(zip(prepared.indices, range(len(prepared.indices)), strict=True))
        for window in sorted([*prepared.indices, *prepared.refused]):
            if window in prepared.refused:
                yield Answer(window, refused=prepared.refused[window])
            else:
                row = rows[window]
                yield self._answer(window, values[row : row + 1])

    def _named_answers(self, recording: Array | Mapping[str, TextOrArray]) -> Iterator[Answer]:
        names = [entry.name for entry in self.manifest.inputs]
        given = recording if isinstance(recording, Mapping) else {names[0]: recording}
        if sorted(given) != sorted(names):
            raise DataError(f"arrays {', '.join(sorted(given))}; the model takes {', '.join(names)}: send each by its name")
        if isinstance(recording, Mapping):
            prepared = {name: self.prepared(name, given[name]) for name in names}
        else:
            prepared = {names[0]: prepare(self._steps, recording)}
        samples = {
            e.name: self.checked(prepared[e.name].values, e.sample) for e in self.manifest.inputs if prepared[e.name].indices
        }
        counts = {name: len(part.indices) + len(part.refused) for name, part in prepared.items()}
        if len(set(counts.values())) != 1:
            raise DataError(f"{', '.join(f'{n} windows of {name}' for name, n in counts.items())}; all inputs need the same number")
        memory = self.new_memory()
        place = _placement(self.manifest.task, self._steps, given[names[0]])
        for window in range(next(iter(counts.values()))):
            why = next((f"{name}: {part.refused[window]}" for name, part in prepared.items() if window in part.refused), None)
            if why is not None:
                yield Answer(window, refused=why)
                continue
            rows = {name: _row(part, samples[name], window) for name, part in prepared.items()}
            yield self._named_answer(window, rows, memory, place)

    def prepared(self, name: str, given: TextOrArray) -> Prepared:
        """The samples of one input. Raises DataError where it does not fit."""
        recording = as_recording(self._of_input[name], given, name)
        try:
            return prepare(self._of_input[name], recording)
        except DataError as error:
            if len(self._of_input) == 1:
                raise
            raise DataError(f"{name}: {error}") from error

    def new_memory(self) -> Memory:
        """What the model remembers at the start of a recording: nothing, or the one stream of all recordings."""
        return self._memory if "never" in (self.variant.kept_inside, *(state.reset for state in self.variant.states)) else {}

    def outputs(self, sample: Mapping[str, Array], memory: Memory) -> dict[str, Array]:
        """All outputs by name, each with a leading 1, for one checked sample (1, *sample) by input. `memory` is updated."""
        try:
            if isinstance(self.runtime, NamedModel):
                return self.runtime.tensors(sample, memory)
            return {self.variant.output.name or SCORES: self.runtime.run(next(iter(sample.values())))}
        except Exception as error:  # a runtime's own types, which share no base
            raise self._failure(error) from error

    def scored(self, sample: Array) -> Scored:
        """Scores of one checked sample (1, *sample). The service overrides this with caches and offloading."""
        return Scored(self._run(sample))

    def try_once(self) -> None:
        """One sample of zeros through the model. Raises DeviceError where it loads and does not run."""
        if self.is_simple:
            shape = (1, *(self.variant.input.shape if self.manifest.probe else self._sample.shape))
            Engine._run(self, np.zeros(shape, DTYPES[self._sample.dtype]))
        else:
            Engine.outputs(self, zeros(self.manifest), {})

    def _run(self, sample: Array) -> Array:
        try:
            return self.runtime.run(sample)
        except Exception as error:  # a runtime's own types, which share no base
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> DeviceError:
        why = " ".join(str(error).split())[:300]
        return DeviceError(f"{self.runtime.description} failed: {type(error).__name__}: {why}")

    def _named_answer(self, window: int, sample: Mapping[str, Array], memory: Memory, place: Placement | None) -> Answer:
        start = time.perf_counter()
        outputs = self.outputs(sample, memory)
        taken = round((time.perf_counter() - start) * 1e3, 4)
        if not all(np.isfinite(values).all() for values in outputs.values()):
            memory.clear()  # a state of NaN would spoil every later answer
            return Answer(window, refused="the model answered with NaN or infinity")
        if isinstance(self.manifest.task, Tensors):
            seen = sample if len(sample) > 1 else next(iter(sample.values()))
            return Answer(window, tensors={name: values[0] for name, values in outputs.items()}, milliseconds=taken, sample=seen)
        only = next(iter(sample.values()))
        if isinstance(self.manifest.task, Detection):
            height, width = only.shape[1:3]
            boxes = box_answers(self.manifest.task, outputs, height, width, place)
            sure = float(np.mean([box.score for box in boxes])) if boxes else None
            seen = sample if len(sample) > 1 else only
            return Answer(window, milliseconds=taken, sample=seen, scores=outputs, confidence=sure, boxes=boxes)
        if isinstance(self.manifest.task, Segmentation):
            height, width = only.shape[1:3]
            masks = mask_answers(self.manifest.task, outputs, height, width, place)
            seen = sample if len(sample) > 1 else only
            return Answer(window, milliseconds=taken, sample=seen, scores=outputs, masks=masks)
        scores = outputs[self.variant.output.name or SCORES].reshape(1, -1).astype(np.float32, copy=False)
        meaning = interpret(self.manifest.task, scores, only)
        confidence = max(meaning.probabilities.values()) if meaning.probabilities is not None else None
        return Answer(
            window, meaning.label, meaning.probabilities, meaning.values, meaning.score, None, taken, None,
            sample=sample if len(sample) > 1 else only, scores=scores, confidence=confidence, labels=meaning.labels,
        )  # fmt: skip

    def _answer(self, window: int, sample: Array) -> Answer:
        start = time.perf_counter()
        scores, place, device_scores, for_drift = self.scored(sample)
        taken = (time.perf_counter() - start) * 1e3
        if not np.isfinite(scores).all():
            return Answer(window, refused="the model answered with NaN or infinity")
        meaning = interpret(self.manifest.task, scores, sample)
        seen = confidence = None
        if for_drift:
            seen = scores if device_scores is None else device_scores
            if meaning.probabilities is not None:
                own = device_scores is None
                confidence = max(meaning.probabilities.values()) if own else confidence_of(self.manifest.task, seen[0])
        return Answer(
            window, meaning.label, meaning.probabilities, meaning.values, meaning.score, None, round(taken, 4),
            place or None,
            sample=sample, scores=seen, confidence=confidence, labels=meaning.labels,
        )  # fmt: skip

    def samples_of_texts(self, texts: Sequence[str], name: str) -> Array:
        """(N, *sample) of N texts for an input. Raises DataError where it takes no texts, or where one does not fit."""
        if not takes_texts(self._of_input[name]):
            raise DataError(
                f"{name}: texts; this input takes arrays" if len(self._of_input) > 1 else "texts; this model takes arrays"
            )
        return np.concatenate([self.prepared(name, text).values for text in texts])

    def checked(self, samples: Array, spec: TensorSpec | None = None) -> Array:
        """Samples at an input's dtype and shape (default: the first input's). Raises DataError when that loses something."""
        shape, dtype = (self._shape, self._dtype) if spec is None else (tuple(spec.shape), DTYPES[spec.dtype])
        if samples.shape[1:] == shape and samples.dtype == dtype:
            return samples
        if samples.ndim == len(shape) and shape and shape[-1] == 1:
            samples = samples[..., None]
        elif samples.ndim == len(shape) + 2 and samples.shape[-1] == 1:  # numbers in a row are read as a series of one channel
            samples = samples[..., 0]
        if samples.shape[1:] != shape:
            raise DataError(f"a sample of shape {samples.shape[1:]}; the model takes {shape}")
        if samples.dtype == dtype:
            return samples
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if samples.size and (samples.min() < limits.min or samples.max() > limits.max or (samples % 1 != 0).any()):
                raise DataError(
                    f"values that are not {limits.dtype} counts; send what the sensor gives, {limits.min} to {limits.max}"
                )
        with np.errstate(over="ignore"):
            cast = np.asarray(samples.astype(dtype))
        if dtype.kind == "f" and not np.isfinite(cast).all() and np.isfinite(samples).all():
            raise DataError(f"values beyond {dtype}, the model's type; send what the sensor gives")
        return cast


def _scores_first(variant: Variant, task: Task) -> Variant:
    """The variant with the output that holds the scores in front."""
    first = variant.output_of(task)
    others = [spec for spec in variant.outputs if spec is not first]
    return msgspec.structs.replace(variant, outputs=[first, *others]) if others else variant


def _placement(task: Task, steps: Sequence[StepBase], recording: TextOrArray) -> Placement | None:
    """Where the picture lies in its sample, for a task that answers boxes or masks. Raises DataError."""
    if not isinstance(task, Detection | Segmentation):
        return None
    if isinstance(recording, str):
        raise DataError("a text as the first input; boxes and masks are of pictures, which come first")
    if recording.ndim not in (2, 3):
        raise DataError(f"an array of shape {recording.shape}; boxes and masks are of pictures (height, width, channels)")
    return placement(steps, *recording.shape[:2])


def _row(prepared: Prepared, values: Array, window: int) -> Array:
    row = window if not prepared.refused else prepared.indices.index(window)
    return values[row : row + 1]
