"""An ONNX file as torch layers, compared with the file itself."""

from edgeloop_exporters.onnx_import.comparing import Comparison, compare, read_onnx
from edgeloop_exporters.onnx_import.reader import Imported, Port

__all__ = ["Comparison", "Imported", "Port", "compare", "read_onnx"]
