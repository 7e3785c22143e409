"""Stands in for a build of onnxruntime with TensorRT, in the processes of an agent: on PYTHONPATH before the real one, which computes.

An engine takes BUILD_SECONDS to build, unless it is in the folder of the cache; there it is a file. $ENGINES: how it misbehaves.
$TENSORRT says which one this is: an engine of another one is refused, or ends the process where $ENGINES says "crashes".
The CPU takes 3 ms longer, so that TensorRT is worth it.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_HERE, _MINE, _BEFORE = str(Path(__file__).parents[1]), sys.modules.pop("onnxruntime"), list(sys.path)
sys.path = [path for path in _BEFORE if path != _HERE]
import onnxruntime as _real  # noqa: E402

sys.path, sys.modules["onnxruntime"] = _BEFORE, _MINE

BUILD_SECONDS = float(os.environ.get("ENGINE_SECONDS", "3"))
VERSION = os.environ.get("TENSORRT", "1")
HOW = os.environ.get("ENGINES", "")
TENSORRT = "TensorrtExecutionProvider"

__version__ = _real.__version__
SessionOptions, GraphOptimizationLevel = _real.SessionOptions, _real.GraphOptimizationLevel


def get_available_providers() -> list[str]:
    return [TENSORRT, "CPUExecutionProvider"]


class InferenceSession:
    def __init__(self, model: Any, options: Any, providers: Any, **more: Any) -> None:
        named = {p if isinstance(p, str) else p[0]: {} if isinstance(p, str) else p[1] for p in providers}
        self.on_engine = TENSORRT in named
        self._session = _real.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        if self.on_engine:
            engine = Path(named[TENSORRT]["trt_engine_cache_path"]) / f"{len(model)}-{named[TENSORRT]['trt_fp16_enable']}.engine"
            if not engine.exists():
                if HOW == "dies":
                    os._exit(11)
                time.sleep(BUILD_SECONDS)
                engine.write_text(VERSION)
            elif engine.read_text() != VERSION:
                if HOW == "crashes":
                    os.kill(os.getpid(), signal.SIGSEGV)
                    time.sleep(10)
                raise RuntimeError("TensorRT EP could not deserialize engine from cache")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [TENSORRT] if self.on_engine else ["CPUExecutionProvider"]

    def run(self, *given: Any) -> Any:
        if not self.on_engine:
            time.sleep(0.003)
        found = self._session.run(*given)
        return [values + type(values.flat[0])(50) for values in found] if HOW == "lies" and self.on_engine else found
