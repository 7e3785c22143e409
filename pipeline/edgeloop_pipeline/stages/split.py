"""The stage `split`: finds where the int8 ONNX file can be cut between device and server, and measures each cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from edgeloop_pipeline.bundling.file_names import CUTS
from edgeloop_pipeline.bundling.variants import read_variants
from edgeloop_pipeline.offload.cut_bench import WORTH, CutBench, _mean
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import RUNTIMES, Base
from edgeloop_pipeline.results.files import SplitResult
from edgeloop_pipeline.training.settings import PositiveInt

if TYPE_CHECKING:
    from edgeloop_contract.manifest import Coding, Cut, TensorSpec

MAX_CHANNELS = 8  # of a FLAC file
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
MIN_TAIL = 0.05  # the least share of the work that a tail must take from the device


@dataclass(frozen=True)
class Split(Base):
    """Writes a head for each useful cut point: one with fewer bytes than the input and than every cut before it.

    Bytes are measured on validation samples, times on this machine with one thread. `four_bits`: also
    measures inner cuts rounded to 16 steps, and their agreement; a device uses them only if its config allows it. `bottleneck`: the
    share of channels that a learned bottleneck codec sends; it is a separate cut beside each inner one, lossy like `four_bits`.
    """

    max_cuts: PositiveInt = 6  # inner cuts: each adds a file to the bundle
    samples: PositiveInt = 64
    four_bits: bool = False
    bottleneck: Share = 0.0
    bottleneck_steps: PositiveInt = 200  # of 32 samples
    exits: Share = 0.0  # accuracy that early exits at the inner cuts may lose, at 95 % confidence; 0: no early exits
    seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.2  # per head and tail

    needs = ("network", "quantized", "exported")
    gives = ("cuts",)
    code = (*RUNTIMES, "edgeloop_agent.bench.measure")
    libraries = ("torch", "onnx", "onnxruntime")
    uses_machine = True

    def __call__(self, inputs: Inputs, out: Path) -> SplitResult:
        from edgeloop_agent.hardware import machine
        from edgeloop_contract import manifest
        from edgeloop_pipeline.offload.bottleneck import Bottlenecks
        from edgeloop_pipeline.offload.early_exit import EarlyExits

        samples = inputs.project.splits.validation.values[: self.samples]
        variant = next((v for v in read_variants(inputs.artefacts["exported"]) if v.runtime == "onnx"), None)
        if variant is None:
            inputs.log("no ONNX file was exported, and TFLite files cannot be cut: the whole model runs on the device")
            return SplitResult(cuts=[], left_out={})
        model = (inputs.artefacts["exported"] / variant.file).read_bytes()
        work = CutBench(variant, model, samples, self.seconds, inputs.project.splits.task == "classification")
        bottlenecks = Bottlenecks(inputs, work, self.bottleneck, self.bottleneck_steps) if self.bottleneck else None
        exits = EarlyExits(inputs, work, self.exits) if self.exits else None
        cuts, narrows, left_out = [self._input(work)], [], {}
        for boundary in self._worth_it(model, samples[:1].nbytes):
            cut, why = self._cut(work, boundary, len(cuts), out)
            if cut is None:
                left_out[boundary.tensor] = why
                continue
            inputs.log(f"{cut.name} at {cut.tensor}: {cut.packed[-1].bytes:,.0f} bytes, head {cut.head_us:.0f} µs")
            if bottlenecks is not None:
                narrow, why = bottlenecks.of(cut, out)
                if narrow is None:
                    left_out[f"{cut.name}-narrow"] = why
                else:
                    narrows.append(narrow)
            if exits is not None:
                cut, why = exits.of(cut, out)
                if why:
                    left_out[f"{cut.name}: early exit"] = why
            cuts.append(cut)
        split = manifest.Split(variant=variant.name, machine=machine(), whole_us=work.whole_us, cuts=[*cuts, *narrows])
        (out / CUTS).write_bytes(msgspec.json.encode(split))
        return SplitResult(
            variant=split.variant,
            machine=split.machine,
            whole_us=split.whole_us,
            cuts=split.cuts,
            left_out=left_out,
            early=exits.tested if exits else {},
            narrowed=bottlenecks.tried if bottlenecks else {},
            head_bytes=sum(f.stat().st_size for f in out.glob("*.onnx")),
        )

    def _worth_it(self, model: bytes, input_bytes: int) -> list[Any]:
        """Cut points with fewer bytes than all before them. If there are too many, those that save least are left out."""
        from edgeloop_exporters import cutting

        kept, sizes = [], [input_bytes]
        for boundary in cutting.boundaries(model):
            size = _bytes(boundary)
            if size < sizes[-1]:
                kept.append(boundary)
                sizes.append(size)
        while len(kept) > self.max_cuts:
            least = min(range(len(kept)), key=lambda i: sizes[i] / sizes[i + 1])
            del kept[least], sizes[least + 1]
        return kept

    def _input(self, work: CutBench) -> Cut:
        from edgeloop_contract.manifest import Cut, Packed, TensorSpec
        from edgeloop_contract.splitting import INPUT, from_file, pack

        samples = work.samples
        spec = TensorSpec(dtype=str(samples.dtype), shape=list(samples.shape[1:]))  # type: ignore[arg-type]
        packed = work.packed(samples)
        for coding in _codings(spec):
            files = [pack(samples[i : i + 1], coding) for i in range(len(samples))]
            if sum(map(len, files)) > WORTH * packed[-1].bytes * len(files):
                continue
            if coding == "jpeg":
                import numpy as np

                decoded = np.concatenate([from_file(f, coding, samples.shape[1:]) for f in files])
                packed.append(work.lossy(coding, files, work.whole.run(decoded)))
            else:
                packed.append(Packed(coding=coding, bytes=_mean(files)))
        return Cut(name=INPUT, tensor="", boundary=spec, packed=packed, head_us=0.0, tail_us=work.whole_us)

    def _cut(self, work: CutBench, boundary: Any, number: int, out: Path) -> tuple[Cut | None, str]:
        """Writes the head of one cut and measures it. Returns the cut, or the reason to leave it out."""
        from edgeloop_contract.manifest import Cut, TensorSpec
        from edgeloop_contract.splitting import from_nibbles, nibbles
        from edgeloop_exporters import cutting

        head_model, tail_model = (part(work.model, boundary.tensor) for part in (cutting.head, cutting.tail))
        head, tail = work.open(head_model), work.open(tail_model)
        crossing = head.raw(work.samples)
        if not (tail.run(crossing) == work.scores).all():
            return None, "tail(head(x)) differs from the whole network's scores in this runtime"
        if not work.is_one_by_one(head, crossing):
            return None, "the network mixes samples of one batch there, but a device sends one sample at a time"
        tail_us = work.took(tail, crossing)
        if tail_us < MIN_TAIL * work.whole_us:
            return None, f"less than {MIN_TAIL:.0%} of the work comes after it"
        packed = work.packed(crossing)
        if self.four_bits and crossing.dtype == "uint8":
            import numpy as np

            few = np.concatenate([nibbles(crossing[i : i + 1]) for i in range(len(crossing))])
            rows = [few[i].tobytes() for i in range(len(few))]
            packed.append(work.lossy("4bit", rows, tail.run(from_nibbles(few, crossing.shape[1:]))))
        file = f"cut-{number}.onnx"
        (out / file).write_bytes(head_model)
        return Cut(
            name=f"cut-{number}", tensor=boundary.tensor, boundary=TensorSpec(dtype=boundary.dtype, shape=boundary.shape),
            packed=packed, head_us=work.took(head, work.samples), tail_us=tail_us, file=file,
        ), ""  # fmt: skip


def _bytes(boundary: Any) -> int:
    import numpy as np

    return int(np.prod(boundary.shape)) * int(np.dtype(boundary.dtype).itemsize)


def _codings(sample: TensorSpec) -> list[Coding]:
    """The file formats that can carry such an input, exact ones first: pictures of one or three channels, 16-bit sound."""
    if sample.dtype == "uint8" and len(sample.shape) == 3 and sample.shape[-1] in (1, 3):
        return ["webp", "jpeg"]
    if sample.dtype == "int16" and (len(sample.shape) == 1 or (len(sample.shape) == 2 and sample.shape[1] <= MAX_CHANNELS)):
        return ["flac"]
    return []
