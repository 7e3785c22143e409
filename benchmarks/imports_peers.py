"""What other tools make of the same models and samples, for benchmarks/imports.py and traps.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import Row, edgeloop

PEER_SAMPLES = 128


def others_kept(name: str, project: Any, out: Path, fed: list[Any], own: dict[str, float]) -> Iterator[Row]:
    """What NNCF (ONNX) and ai-edge-quantizer (TFLite) keep by the same measure; a peer that cannot is a row with its reason."""
    from edgeloop_pipeline.tasks.registry import task_for
    from quantizers import ai_edge, nncf

    splits = project.splits
    source, runs = out / "model.onnx", out.parent / "runs"

    def by_nncf() -> Any:
        path = out.parent / f"{out.name}-nncf.onnx"
        path.write_bytes(nncf(source.read_bytes(), fed[0][:PEER_SAMPLES]))
        opened = session(path)
        names = [output.name for output in splits.outputs] if len(splits.outputs) > 1 else None
        return joined_rows([opened.run(names, {opened.get_inputs()[0].name: x[None]}) for x in fed[1]])

    def by_ai_edge() -> Any:
        from ai_edge_litert.interpreter import Interpreter

        edgeloop("run", out, "--runs", runs, "--set", "stages.export.float32=true")
        plain = (runs / out.name / "tflite-float32.tflite").read_bytes()
        small = Interpreter(model_content=ai_edge(plain, splits.train.values[:PEER_SAMPLES]))
        runner = small.get_signature_runner()
        ((given, entry),) = runner.get_input_details().items()
        # Exports change the order of outputs: each is found by its name.
        names = [output.name for output in splits.outputs] if len(splits.outputs) > 1 else list(runner.get_output_details())
        rows = []
        for sample in splits.test.values:
            answers = runner(**{given: sample[None].astype(entry["dtype"])})
            rows.append([answers[name] for name in names])
        return joined_rows(rows)

    for label, answers_of, ours in (("NNCF", by_nncf, "onnx-int8"), ("ai-edge-quantizer", by_ai_edge, "tflite-int8")):
        try:
            answers = answers_of()
            answers = answers.reshape(len(answers), -1) if splits.task == "classification" else answers
            kept = task_for(splits).estimate(answers, splits.test).value
        except Exception as error:  # whatever a peer runs into
            why = " ".join(str(error).split())[:120]
            yield Row(f"{name}: {ours} beside {label}", None, "", None, None, f"{label} not run: {type(error).__name__}: {why}")
            continue
        ratio, met = round(own[ours] / kept, 3) if kept > 0 else None, own[ours] >= kept - 2 / len(splits.test)
        yield Row(f"{name}: {ours} beside {label}", round(own[ours], 4), "", round(kept, 4), ratio, "not below", met)


def joined_rows(rows: list[Any]) -> Any:
    """(N, …) of the only output, or of several joined, as our own scores are."""
    from edgeloop_exporters.named_outputs import joined

    return joined([np.concatenate(parts) for parts in zip(*rows, strict=True)])


def static(model: Path, out: Path, samples: Any, per_channel: bool) -> Path | None:
    """None where ONNX Runtime refuses the file that its own tool makes."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            name = session(model).get_inputs()[0].name
            self.rows = iter([{name: x[None]} for x in samples])

        def get_next(self) -> Any:
            return next(self.rows, None)

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(out), Reader(), per_channel=per_channel, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8
    )
    try:
        session(out)
    except Exception:  # onnxruntime's own types
        return None
    return out


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(opened: Any, x: Any) -> Any:
    return opened.run(None, {opened.get_inputs()[0].name: x})[0]
