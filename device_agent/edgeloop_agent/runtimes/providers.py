"""ONNX Runtime's providers: which ones a build has, the ways in which a model can be tried on them, and their options. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CPU",
    "FP16",
    "OPENVINO",
    "SUFFIX",
    "TENSORRT",
    "builds_engines",
    "chain_of",
    "full_names",
    "is_tensorrt",
    "options_of",
    "ways",
    "with_engines",
    "without_building",
]

CPU, TENSORRT, CUDA, OPENVINO = "CPU", "TensorRT", "CUDA", "OpenVINO"
FP16 = " fp16"  # ends a way: what is not int8 in 16 bits
SUFFIX = "ExecutionProvider"
WORKSPACE_BYTES = 256 << 20  # of TensorRT, while it builds an engine: a Jetson's memory is the GPU's too


def full_names(available: Sequence[str], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Full names of those that this build has, the CPU last; and which were wanted and are not there."""
    here = _by_short_name(available)
    chosen = [here[name.lower()] for name in wanted if name.lower() in here and name.lower() != CPU.lower()]
    return [*chosen, CPU + SUFFIX], [name for name in wanted if name.lower() not in here]


def ways(available: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The ways to run a model that are worth measuring, the CPU first; [""] where this build leaves nothing to choose."""
    here = _by_short_name(available)
    found = [name for name in dict.fromkeys(wanted) if name.lower() in here and name.lower() != CPU.lower()]
    with_fp16 = [way for name in found for way in ([name, name + FP16] if name.lower() == TENSORRT.lower() else [name])]
    return [CPU, *with_fp16] if found else [""]


def with_engines(available: Sequence[str]) -> list[str]:
    """NVIDIA's providers of this build, by their short names."""
    here = _by_short_name(available)
    return [name for name in (TENSORRT, CUDA) if name.lower() in here]


def chain_of(way: str, available: Sequence[str]) -> list[str]:
    """The providers of one way, by short names. What TensorRT does not know goes to CUDA, where the build has it."""
    name = way.removesuffix(FP16)
    if name == CPU:
        return []
    return [name, *(n for n in with_engines(available) if n == CUDA)] if name.lower() == TENSORRT.lower() else [name]


def is_tensorrt(provider: str) -> bool:
    """Of a full name."""
    return provider.lower() == (TENSORRT + SUFFIX).lower()


def builds_engines(way: str) -> bool:
    """Whether a way needs engines, which take minutes to build."""
    return is_tensorrt(way.removesuffix(FP16) + SUFFIX)


def without_building(wanted: Sequence[str]) -> list[str]:
    """Those of them that answer at once."""
    return [name for name in wanted if not builds_engines(name)]


def options_of(provider: str, way: str, integer: bool, dla_core: int, engines: str) -> dict[str, str]:
    """ONNX Runtime's options of a provider (full name). `integer`: a file with int8 inside; `dla_core`: −1 for none; `engines`: a
    folder for built engines, "" for none.
    """
    if not is_tensorrt(provider):
        return {}
    options = {
        "trt_fp16_enable": str(int(way.endswith(FP16))), "trt_int8_enable": str(int(integer)),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
    }  # fmt: skip
    if dla_core >= 0:
        options |= {"trt_dla_enable": "1", "trt_dla_core": str(dla_core)}
    if engines:
        options |= {
            "trt_engine_cache_enable": "1", "trt_engine_cache_path": engines, "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": engines,
        }  # fmt: skip
    return options


def _by_short_name(available: Sequence[str]) -> dict[str, str]:
    return {name.removesuffix(SUFFIX).lower(): name for name in available}
