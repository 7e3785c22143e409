"""Loads a foreign file in a process of its own first: a runtime may crash on one, and a crash is no sentence."""

from __future__ import annotations

import subprocess
import sys

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.model_files.description import ModelFile

__all__ = ["check_it_loads"]

SECONDS = 120.0
TFLITE = """
import sys
try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter
try:
    model = Interpreter(model_content=sys.stdin.buffer.read())
    model.allocate_tensors()
    model.invoke()
except Exception:
    pass  # the caller meets it again, with the manifest's shapes, and says what it is
"""
ONNX = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
try:
    onnxruntime.InferenceSession(sys.stdin.buffer.read(), options, providers=["CPUExecutionProvider"])
except Exception:
    pass
"""


def check_it_loads(model: ModelFile, content: bytes) -> None:
    """Raises ModelError where the runtime crashes, or does not end."""
    words = [sys.executable, "-c", TFLITE if model.runtime == "tflite" else ONNX]
    try:
        done = subprocess.run(words, input=content, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{model.path}: the runtime does not load it within {SECONDS:.0f} s; export it again") from error
    if done.returncode < 0:
        raise ModelError(f"{model.path}: the runtime crashes on it (signal {-done.returncode}); export it by a newer converter")
