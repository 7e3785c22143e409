"""A float TFLite file as an ONNX model, compared with the file itself in its own runtime."""

from edgeloop_exporters.tflite_import.comparing import Difference, compare, to_onnx
from edgeloop_exporters.tflite_import.reading import Translated, translated

__all__ = ["Difference", "Translated", "compare", "to_onnx", "translated"]
