"""What a machine with an NVIDIA GPU can confirm, in eight minutes at most: training, int8 by TensorRT and CUDA, FP8.

Wants torch with CUDA, and for files `onnxruntime-gpu` and TensorRT's libraries; Transformer Engine for FP8. A part whose library is
missing is a row that says so. No part begins after its time, and a part that takes too long ends the script with the rows so far.
`--dry-run` goes through the same parts on the CPU with small sizes, and shows that the script works, nothing about a GPU.
"""

from __future__ import annotations

import argparse
import faulthandler
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from gpu_files import large_files, made_up, trained
from harness import ROOT, NotRun, Row, each, edgeloop, report

TINY = ROOT / "tests" / "projects" / "tiny"
NO_GPU = "this machine has no NVIDIA GPU that torch can use: run it where there is one, or with --dry-run for the parts on the CPU"
NO_GPU_CODE = 6  # as edgeloop's own commands: this machine cannot do it
ALL_SECONDS = 450  # and no more than eight minutes with what is under way then
MORE_SECONDS = 25


@dataclass(frozen=True)
class Size:
    """How much is done. `images`: of a training epoch; `side`, `widths`: of the pictures and the network that are timed."""

    images: int
    side: int
    widths: tuple[int, ...]
    hidden: int
    seconds: float


FULL = Size(40_000, 192, (64, 128, 256), 4096, 0.5)
DRY = Size(256, 32, (8, 16), 64, 0.02)


class OutOfTime(BaseException):
    """The time is over: no part goes on after it."""


class Script:
    """The parts, with what they share."""

    def __init__(self, dry: bool, runs: Path) -> None:
        self.dry, self.size, self.runs = dry, DRY if dry else FULL, runs
        self.ends = time.monotonic() + ALL_SECONDS

    def rows(self) -> Iterator[Row]:
        # What nobody could confirm so far comes first: where time is short, the rest is left out.
        try:
            yield from each(self.dry, self.machine, self.parser, self.timed_files, self.judged_files, self.fp8, self.training)
        except OutOfTime as error:
            yield Row("the rest", None, "", target=f"not run: {error}")

    @cached_property
    def _large(self) -> Any:
        return large_files(self.size.side, self.size.widths)

    def _needs(self, seconds: float) -> None:
        """Raises NotRun where a part would not end in time."""
        if time.monotonic() + seconds > self.ends:
            raise NotRun(f"it takes about {seconds:.0f} s, and the {ALL_SECONDS} s are nearly over")

    def machine(self, _: bool) -> Iterator[Row]:
        import onnxruntime
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        capability = ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else "–"
        yield Row(f"device: {name}", None, target=f"compute capability {capability}, torch {torch.__version__}", unit="")
        have = ", ".join(p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers())
        yield Row("onnxruntime", None, "", target=f"{onnxruntime.__version__}: {have}")

    def parser(self, _: bool) -> Iterator[Row]:
        """What TensorRT itself says of the files that our rules call good and bad, and how many layers it computes in int8."""
        from edgeloop_exporters.tensorrt_rules import violations

        _, files = self._large
        for name in ("onnx-int8-symmetric", "onnx-int8"):
            found = violations(files[name][1])
            refused = [f for f in found if f.rule.kind == "refused"]
            yield Row(f"{name}: violations of our rules", len(found), "", target=f"{len(refused)} of them refused")
        self._needs(60)
        try:
            import tensorrt
        except ImportError as error:
            raise NotRun(f"tensorrt's Python package is not there ({error}); pip install tensorrt") from error
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        for name, says in (("onnx-int8-symmetric", True), ("onnx-int8", False)):
            builder = tensorrt.Builder(logger)
            strongly = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
            network = builder.create_network(strongly)
            parser = tensorrt.OnnxParser(network, logger)
            takes = bool(parser.parse(files[name][1]))
            why = "" if takes else str(parser.get_error(0))[:100]
            yield Row(f"{name}: TensorRT's parser takes it", int(takes), "", target=f"as our rules say {why}", met=takes == says)
            if takes:
                yield from self._int8_layers(name, tensorrt, builder, network, logger)

    def _int8_layers(self, name: str, tensorrt: Any, builder: Any, network: Any, logger: Any) -> Iterator[Row]:
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
        entry = network.get_input(0)
        shape = (1, *tuple(entry.shape)[1:])
        profile.set_shape(entry.name, shape, shape, shape)
        config.add_optimization_profile(profile)
        engine = tensorrt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))
        told = engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.ONELINE)
        layers = [line for line in str(told).splitlines() if line.strip()]
        convolutions = [line for line in layers if "conv" in line.lower()]
        in_int8 = sum("int8" in line.lower() for line in convolutions)
        yield Row(f"{name}: layers with convolutions in int8", in_int8, "", len(convolutions), target=f"of {len(layers)} layers")

    def timed_files(self, _: bool) -> Iterator[Row]:
        """Latency of a residual network with random weights by every way, and how far its scores are from the float file's."""
        splits, files = self._large
        values = splits.test.values[:32]
        variant, model = files["onnx-float32"]
        wanted = self._scores(variant, model, values, "CPU")
        for name, (variant, model) in files.items():
            for way in self._ways():
                self._needs(45)
                yield from self._timed(f"{name} by {way}", variant, model, values, way, wanted)

    def judged_files(self, _: bool) -> Iterator[Row]:
        """Accuracy of a trained project's files by every way: the same share of the test set, whoever computes it."""
        self._needs(90)
        words = ["--set", "quantize.symmetric=true", "--set", "export.runtimes=[onnx]", "--set", "export.float16=true"]
        run = edgeloop("run", TINY, "--runs", self.runs, *words)
        from edgeloop_contract.archive import Bundle
        from edgeloop_pipeline.recipe import recipe
        from edgeloop_pipeline.recipe.project import Project

        test = Project(recipe.load(recipe.find(str(TINY)))).splits.test
        with Bundle.open(Path(str(run["bundle"]))) as bundle:
            for variant in bundle.manifest.variants:
                assert variant.accuracy is not None
                for way in self._ways():
                    self._needs(30)
                    try:
                        scores = self._scores(variant, bundle.read(variant.file), test.values, way)
                    except Exception as error:  # a provider's own types
                        yield Row(
                            f"accuracy of {variant.name} by {way}",
                            None,
                            "",
                            target=f"not run: {' '.join(str(error).split())[:160]}",
                        )
                        continue
                    share, verified = 100 * float((scores.argmax(1) == test.labels).mean()), 100 * variant.accuracy.value
                    name = f"accuracy of {variant.name} by {way}"
                    yield Row(
                        name, share, "%", verified, target="as verified on the CPU, within 1 point", met=abs(share - verified) <= 1
                    )

    def fp8(self, _: bool) -> Iterator[Row]:
        """FP8 by Transformer Engine against bf16: linear layers, which is what the engine has."""
        import torch

        from edgeloop_pipeline.training.fp8 import engine_serves
        from edgeloop_pipeline.training.settings import Float8

        self._needs(60)
        engine = engine_serves(Float8())
        if not engine and not self.dry:
            raise NotRun("no FP8 engine (Ada, Hopper or later), or no Transformer Engine; pip install transformer_engine[pytorch]")
        side, hidden = self.size.side // 4, self.size.hidden

        def network() -> Any:
            torch.manual_seed(0)
            linear = torch.nn.Linear
            layers = [linear(3 * side * side, hidden), torch.nn.ReLU(), linear(hidden, hidden), torch.nn.ReLU(), linear(hidden, 16)]
            return torch.nn.Sequential(torch.nn.Flatten(), *layers)

        splits = made_up(self.size.images, side)
        found = {precision: trained(network(), splits, precision) for precision in ("bf16", "fp8")}
        rates = {precision: facts.samples_per_second for precision, facts in found.items()}
        by = "by Transformer Engine" if engine else "by the reference, which shows no speed"
        yield Row(
            f"training in fp8, {by}", rates["fp8"], "samples/s", rates["bf16"], round(rates["fp8"] / rates["bf16"], 2), "peer: bf16"
        )

    def training(self, _: bool) -> Iterator[Row]:
        """Images a second in each precision, and with what the measurement chooses."""
        import torch

        from edgeloop_models.fashion.network import resnet

        self._needs(60)
        splits, rates = made_up(self.size.images, 28), {}
        for precision in ("float32", "bf16") if self.dry else ("float32", "bf16", "fp16", "auto"):
            torch.manual_seed(0)
            facts = trained(resnet((3, 28, 28), 16, self.size.widths, 1), splits, precision)
            rates[precision] = facts.samples_per_second
            ratio = round(rates[precision] / rates["float32"], 2)
            yield Row(f"training in {precision}", rates[precision], "images/s", rates["float32"], ratio, "peer: float32")

    def _ways(self) -> list[str]:
        from edgeloop_agent.runtimes.onnx import available_providers
        from edgeloop_agent.runtimes.providers import CPU, ways, with_engines

        # NVIDIA's alone: OpenVINO runs on the CPU, and never in a process that has torch.
        available = available_providers()
        found = ways(available, with_engines(available))
        if found == [""] and not self.dry:
            raise NotRun("this onnxruntime has neither CUDA nor TensorRT; pip install onnxruntime-gpu in the place of onnxruntime")
        return [CPU] if found == [""] else found

    def _open(self, variant: Any, model: bytes, way: str) -> Any:
        from edgeloop_agent.caches import GraphCache
        from edgeloop_agent.runtimes import RuntimeOptions, open_runtime

        return open_runtime(variant, model, 1, RuntimeOptions(way=way, graphs=GraphCache(self.runs / "graphs", 0)))

    def _scores(self, variant: Any, model: bytes, values: Any, way: str) -> Any:
        """Scores (N, outputs), sample by sample, as a device asks."""
        runtime = self._open(variant, model, way)
        return np.concatenate([runtime.run(values[i : i + 1]) for i in range(len(values))])

    def _timed(self, name: str, variant: Any, model: bytes, values: Any, way: str, wanted: Any) -> Iterator[Row]:
        from edgeloop_agent.bench.measure import latency

        start = time.perf_counter()
        try:
            runtime = self._open(variant, model, way)
            runtime.run(values[:1])
            built = time.perf_counter() - start
            cost = latency(runtime, values[:8], 1, self.size.seconds)
            scores = np.concatenate([runtime.run(values[i : i + 1]) for i in range(len(values))])
        except Exception as error:  # a provider's own types
            yield Row(f"{name}: p50", None, "", target=f"not run: {' '.join(str(error).split())[:160]}")
            return
        noise = 10 * np.log10(float((wanted**2).mean()) / max(float(((scores - wanted) ** 2).mean()), 1e-12))
        yield Row(
            f"{name}: p50", cost.latency_us_p50, "µs", target=f"{noise:.1f} dB against the float file; ready after {built:.1f} s"
        )


def stop(signum: int, frame: FrameType | None) -> None:
    raise OutOfTime(f"the {ALL_SECONDS} s are over")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--dry-run", action="store_true", help="the same parts on the CPU, with small sizes")
    options.add_argument("--json", action="store_true", help="the rows as JSON")
    options.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs, which may hold cached stages")
    given = options.parse_args()
    import torch

    if not torch.cuda.is_available() and not given.dry_run:
        print(NO_GPU, file=sys.stderr)
        sys.exit(NO_GPU_CODE)
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(ALL_SECONDS)
    faulthandler.dump_traceback_later(ALL_SECONDS + MORE_SECONDS, exit=True)  # a library that never comes back
    try:
        report(Script(given.dry_run, given.runs).rows(), given.json)
    except OutOfTime as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
