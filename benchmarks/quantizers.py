"""The peers of post-training quantization: float model bytes and calibration samples in, int8 model bytes out."""

from __future__ import annotations

import subprocess
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

PEERS = Path("runs/peers-venv")


def quantize_static(model: bytes, samples: Any, method: str) -> bytes:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(np.array_split(samples, 32))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch}

    with tempfile.TemporaryDirectory() as folder:
        source, inferred, target = (Path(folder) / f"{n}.onnx" for n in ("source", "inferred", "target"))
        source.write_bytes(model)
        try:
            quant_pre_process(source, inferred)
        except Exception:  # "Incomplete symbolic shape inference", of reshapes with a free batch: its own other way
            quant_pre_process(source, inferred, skip_symbolic_shape=True)
        how = getattr(quantization.CalibrationMethod, method)
        quantization.quantize_static(inferred, target, Reader(), per_channel=True, calibrate_method=how)
        return target.read_bytes()


def nncf(model: bytes, samples: Any) -> bytes:
    python = PEERS / "bin" / "python"
    if not (PEERS / "ready").exists():
        venv.create(PEERS, with_pip=True)
        packages = ("nncf==3.4.*", "onnx", "onnxruntime")
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, capture_output=True)
        (PEERS / "ready").touch()
    with tempfile.TemporaryDirectory() as folder:
        source, values, target = Path(folder) / "a.onnx", Path(folder) / "a.npy", Path(folder) / "b.onnx"
        source.write_bytes(model)
        np.save(values, samples)
        script = Path(__file__).parent / "peers" / "nncf_onnx.py"
        done = subprocess.run([python.absolute(), script, source, values, target], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return target.read_bytes()


def ai_edge(model: bytes, samples: Any) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    interpreter = Interpreter(model_content=model)
    key, signature = next(iter(interpreter.get_signature_list().items()))
    (name,) = signature["inputs"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        path.write_bytes(model)
        made = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        calibrated = made.calibrate({key: [{name: sample[None]} for sample in samples]})
        return bytes(made.quantize(calibrated, enable_progress_report=False).quantized_model)
